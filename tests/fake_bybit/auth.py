"""Who is calling, and may he: the headers and the signature of bybit.md 2.1, the clock rule of 2.2."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.fake_bybit.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fake_bybit.settings import Settings

KEY = "X-BAPI-API-KEY"
TIMESTAMP = "X-BAPI-TIMESTAMP"
SIGN = "X-BAPI-SIGN"
RECV_WINDOW = "X-BAPI-RECV-WINDOW"

DEFAULT_RECV_WINDOW_MS = 5000  # bybit.md 2.1
AHEAD_MS = 1000  # bybit.md 2.2: exclusive, fixed, whatever recv_window


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that proved itself."""

    uid: str
    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer instead of a caller; `unauthorized` is the HTTP 401 with an empty body."""

    reply: Reply
    unauthorized: bool = False


Verified: TypeAlias = Caller | Refused


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether any of the three headers of a signed request is there."""
    return KEY in headers or SIGN in headers or TIMESTAMP in headers


def signature(secret: str, timestamp: str, key: str, recv_window: str, payload: bytes) -> str:
    """HMAC-SHA256 in lower-case hex over exactly these bytes (bybit.md 2.1)."""
    return hmac.new(secret.encode(), origin(timestamp, key, recv_window, payload), hashlib.sha256).hexdigest()


def origin(timestamp: str, key: str, recv_window: str, payload: bytes) -> bytes:
    """The string that is signed. Path, host and method are not in it."""
    # aiohttp hands header bytes over as UTF-8 with surrogate escapes; this gives the same bytes back.
    return f"{timestamp}{key}{recv_window}".encode("utf-8", "surrogateescape") + payload


def verify(headers: Mapping[str, str], payload: bytes, settings: Settings, now_us: int) -> Verified:
    """Check a signed request: key, clock, signature, in this order.

    `payload` is the raw query string of a GET or the raw body of a POST, as it was on the wire.
    """
    key, timestamp, sign = headers.get(KEY), headers.get(TIMESTAMP), headers.get(SIGN)
    if not key or not timestamp or not sign:
        return Refused(Reply(10003), unauthorized=True)  # bybit.md 1.8: missing auth headers, no body
    account = next((each for each in settings.accounts if each["key"] == key), None)
    if account is None:
        return _unknown_key(settings.unknown_key)
    sent_window = headers.get(RECV_WINDOW)
    if (stale := _clock_problem(timestamp, sent_window, now_us // 1000)) is not None:
        return Refused(stale)
    # An absent header adds nothing to the string (clients.md 2: one Go client signs without it).
    window_text = sent_window or ""
    expected = signature(account["secret"], timestamp, key, window_text, payload)
    if not hmac.compare_digest(expected.encode(), sign.encode("utf-8", "surrogateescape")):
        return Refused(_bad_sign(origin(timestamp, key, window_text, payload)))
    return Caller(account["uid"], key)


def _unknown_key(answer: Literal["10003", "401"]) -> Refused:
    # bybit.md 2.4 gives 10003, bybit.md 1.8 an HTTP 401 for the wrong environment
    return Refused(Reply(10003, "API key is invalid."), unauthorized=answer == "401")


def _clock_problem(timestamp: str, sent_window: str | None, server_ms: int) -> Reply | None:
    # bybit.md 2.2: server_time - recv_window <= timestamp < server_time + 1000
    window = sent_window or str(DEFAULT_RECV_WINDOW_MS)
    sent_ms, window_ms = _number(timestamp), _number(window)
    # A timestamp that is no number: the real text is not known; it is a time outside the window at any rate.
    if sent_ms is not None and window_ms is not None and server_ms - window_ms <= sent_ms < server_ms + AHEAD_MS:
        return None
    return Reply(
        10002,
        "invalid request, please check your server timestamp or recv_window param. "
        f"req_timestamp[{_printable(timestamp)}],server_timestamp[{server_ms}],recv_window[{_printable(window)}]",
    )


def _number(text: str) -> int | None:
    """Plain ASCII digits only: int() also takes signs, blanks, underscores and other alphabets."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _bad_sign(signed: bytes) -> Reply:
    # bybit.md 2.4, as observed: it echoes what the server signed, API key included
    text = signed.decode("utf-8", "replace")
    return Reply(10004, f"Error sign, please check your signature generation algorithm: origin_string[{text}]")
