"""What an answer of the gateway means for who asked: good, to be asked again, or never.

Answers of the gateway itself and of the exchange are told apart where it matters: docs/answers.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from policies import bybit
from proxy.log import redact_text

_GATEWAY: Final = "X-Gateway"
_PASSING: Final = frozenset({bybit.TOO_MANY_VISITS, bybit.SERVER_TIMEOUT, bybit.SERVER_ERROR, *bybit.PROTECTING_CODES})
_FAILING: Final = frozenset({500, 502, 503, 504})
_SHOWN: Final = 120


class Good(NamedTuple):
    body: bytes


class Again(NamedTuple):
    """Not now. `wait_us`: as the answer tells; None where it does not. `everybody`: it is not about this question.
    `gap_us`: so far apart questions would not have been refused, where the answer tells."""

    reason: str
    wait_us: int | None = None
    everybody: bool = False
    gap_us: int = 0


class Refused(NamedTuple):
    """This question has no answer."""

    reason: str


class Useless(NamedTuple):
    """No question will be answered here."""

    reason: str


Verdict = Good | Again | Refused | Useless


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """`headers` must compare names without regard to case."""
    why = headers.get(_GATEWAY)
    if status == 200:
        return _told(headers, body)
    if status == 429:
        reason = f"too many requests ({why or 'HTTP 429'})"
        return Again(reason, _precise_us(body) or _retry_after_us(headers), everybody=True, gap_us=_gap_us(body))
    if status == 403 and (why == "banned" or bybit.BANNED_TEXT.encode() in body):
        return Again("the exchange has banned this address", _retry_after_us(headers), everybody=True)
    if status in _FAILING:
        return Again(f"no answer of the exchange ({why or f'HTTP {status}'})", _retry_after_us(headers))
    if status == 401:
        return Useless(f"the gateway asks for a token (--header 'X-Gateway-Token: ...'): {_shown(body)}")
    if status == 403:
        return Useless(f"the exchange refuses this address: {_shown(body)}")
    return Useless(f"HTTP {status}, which no gateway of the exchange answers: {_shown(body)}")


def _told(headers: Mapping[str, str], body: bytes) -> Verdict:
    code = bybit.ret_code(body)
    if code == bybit.OK:
        return Good(body)
    if code is None:
        return Useless(f"this is not the exchange's API: {_shown(body)}")
    if code in _PASSING:
        busy = code == bybit.TOO_MANY_VISITS or code in bybit.PROTECTING_CODES
        return Again(f"retCode {code}", _reset_us(headers, body) if busy else None, busy)
    return Refused(f"{redact_text(str(_member(body, 'retMsg') or 'refused'))} (retCode {code})")


def _reset_us(headers: Mapping[str, str], body: bytes) -> int | None:
    """Until the limit resets, by the exchange's own clock on both sides."""
    limits, now_ms = bybit.limit_headers(headers), bybit.server_ms(body)
    if limits is not None and limits.reset_ms is not None and now_ms is not None and limits.reset_ms > now_ms:
        return (limits.reset_ms - now_ms) * 1000
    return _retry_after_us(headers)


def _retry_after_us(headers: Mapping[str, str]) -> int | None:
    """Whole seconds; dates are not understood."""
    text = headers.get("Retry-After", "")
    return int(text) * 1_000_000 if text.isascii() and text.isdigit() and len(text) < 8 else None


def _precise_us(body: bytes) -> int | None:
    """The gateway's refusals tell the wait to the millisecond,"""
    seconds = _number(body, "retry_after")
    return math.ceil(seconds * 1e6) or None


def _gap_us(body: bytes) -> int:
    """and the quota: so many in so many seconds."""
    limit = _number(body, "limit")
    return math.ceil(_number(body, "period") * 1e6 / limit) if limit else 0


def _number(body: bytes, name: str) -> float:
    """A sane one that is not negative; else 0."""
    value = _member(body, name)
    return value if isinstance(value, int | float) and 0 < value < 1e7 else 0


def _member(body: bytes, name: str) -> Any:
    try:
        return orjson.loads(body)[name]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _shown(body: bytes) -> str:
    """The beginning of it, fit for a terminal."""
    text = body[: 4 * _SHOWN].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN] or "(nothing)"
