"""What the gateway answers itself, and the failures of the upstream under our own names.

The shapes follow what clients do with them. An HTTP error whose JSON lacks the exchange's code is taken for fatal by
ccxt and crashes Bybit.Net, so every JSON body here has the whole envelope; what was not sent is plain text with 502 or
503, which clients know as "not executed"; what may have been executed is 504 with the one text that they know as a
time-out. Every such answer names its reason in X-Gateway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import orjson

from policies import bybit
from policies.admission import Refused, RefuseWith, Why
from policies.quantities import duration_text
from proxy.wire import Whole, head

_JSON: Final = (b"Content-Type", b"application/json; charset=utf-8")
_TEXT: Final = (b"Content-Type", b"text/plain; charset=utf-8")
_NO_STORE: Final = (b"Cache-Control", b"no-store")
_RECONCILE: Final = b"GET /v5/order/realtime?category=...&orderLinkId=... then /v5/order/history"
"""How to learn what became of an order whose answer was lost."""
_LEAST_RESET_MS: Final = 250
"""pybit dies on a reset that has passed by the time it looks: leave room for the way back and for its clock."""


class UpstreamError(Exception):
    """The upstream did not give a usable answer. `reason` is a word for logs and metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSent(UpstreamError):
    """Not one byte of the request reached the upstream. `of_ours`: because we would not send it any more."""

    def __init__(self, reason: str, *, of_ours: bool = False) -> None:
        super().__init__(reason)
        self.of_ours = of_ours


class FateUnknown(UpstreamError):
    """The request left and no answer came: it may have been executed. `idle`: on a connection that had lain idle, and
    not one byte of an answer came."""

    def __init__(self, reason: str, *, idle: bool = False) -> None:
        super().__init__(reason)
        self.idle = idle


class BrokenAnswer(UpstreamError):
    """The answer began and did not end. `forbidden`: what there was of the (decoded) body of a 403."""

    def __init__(self, reason: str, *, forbidden: bytes | None = None) -> None:
        super().__init__(reason)
        self.forbidden = forbidden


def word_of(error: BaseException | None) -> str:
    """For traces: never its text, which may repeat what was sent. Empty where there is none."""
    return "" if error is None else error.reason if isinstance(error, UpstreamError) else type(error).__name__


class Banned(Exception):
    """Nothing is sent from this address: the exchange has banned it."""


class Broken(Exception):
    """Nothing is sent: the upstream fails, and the breaker is open for about so long."""

    def __init__(self, wait_us: int) -> None:
        super().__init__("breaker-open")
        self.wait_us = wait_us


class Shed(Exception):
    """Not sent: the gateway has too much to do, and this can wait for about so long."""

    wait_us = 5_000_000


class Halted(Exception):
    """No new orders: the trade switch says so."""


class BadClock(Exception):
    """The exchange would certainly refuse the timestamp: it lies too far ahead, or its window is over."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Unauthorized(Exception):
    """Who asks has not proved what he must. `challenge` is the value of WWW-Authenticate."""

    def __init__(self, detail: str, challenge: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.challenge = challenge


class Malformed(Exception):
    """The client's request cannot be forwarded. `status` is the answer's, `detail` is for the client."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail


class Unanswered(Exception):
    """What a page of ours was asked has no answer, or none now. `code` is the exchange's, `detail` is for the client;
    `wait_us`: when it may be asked again, where that is known."""

    def __init__(
        self, status: int, reason: str, detail: str, *, code: int = bybit.PARAMETER_ERROR, wait_us: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.code = code
        self.wait_us = wait_us

    def members(self) -> dict[str, object]:
        """Of a JSON object that tells of it."""
        told: dict[str, object] = {"retCode": self.code, "retMsg": self.detail, "error": self.reason}
        return told if self.wait_us is None else {**told, "retry_after": math.ceil(self.wait_us / 1000) / 1000}


def malformed(error: Malformed, request_id: bytes, now_ms: int) -> Whole:
    """4xx with the detail in the exchange's envelope (parameter error)."""
    told = {"retCode": bybit.PARAMETER_ERROR, "retMsg": error.detail, "error": error.reason}
    # What follows on this connection may be part of the same mistake: it is not read.
    return _answer(error.status, error.reason, _enveloped(told, now_ms), request_id, [_JSON], close=True)


def unanswered(error: Unanswered, request_id: bytes, now_ms: int, pairs: Iterable[tuple[bytes, bytes]] = ()) -> Whole:
    """The detail in the exchange's envelope."""
    lines = [_JSON, *pairs]
    if error.wait_us is not None:
        lines.append((b"Retry-After", b"%d" % _seconds(error.wait_us)))
    return _answer(error.status, error.reason, _enveloped(error.members(), now_ms), request_id, lines)


def bad_clock(error: BadClock, request_id: bytes, now_ms: int) -> Whole:
    """200 with the exchange's own code for it, as it would answer: clients know it, some sign again by themselves."""
    body = bybit.envelope(bybit.BAD_CLOCK, error.detail, now_ms)
    return _answer(200, error.reason, body, request_id, [_JSON])


def unauthorized(error: Unauthorized, request_id: bytes, now_ms: int) -> Whole:
    """401 in the exchange's envelope. Its code is the one of a failed authentication, not of a bad API key: clients
    take both for final, and the user shall not look for the mistake at the exchange."""
    body = bybit.envelope(bybit.NOT_AUTHENTICATED, error.detail, now_ms, ',"error":"unauthorized"')
    pairs = [_JSON, (b"WWW-Authenticate", error.challenge.encode())]
    return _answer(401, "unauthorized", body, request_id, pairs)


def not_sent(reason: str, request_id: bytes) -> Whole:
    """502: nothing reached the upstream, whatever it was may be sent again."""
    body = f"The upstream could not be reached ({reason}); the request was not sent.\n".encode()
    return _answer(502, reason, body, request_id, [_TEXT])


def fate_unknown(reason: str, request_id: bytes, now_ms: int, *, write: bool) -> Whole:
    """504: the request was sent and no answer came back. Whoever sent a write is told how to find out about it."""
    body = bybit.envelope(bybit.SERVER_ERROR, bybit.TIMED_OUT, now_ms)
    pairs = [_JSON, (b"X-Gateway-Outcome", b"unknown"), (b"X-Gateway-Remedy", _RECONCILE)] if write else [_JSON]
    return _answer(504, reason, body, request_id, pairs)


def banned(left_us: int, request_id: bytes) -> Whole:
    """403 in the exchange's own words: pybit and ccxt take it for what it is, and do not sleep for ten minutes."""
    pairs = [(b"Content-Type", b"text/plain"), (b"Retry-After", b"%d" % _seconds(left_us))]
    return _answer(403, "banned", bybit.BANNED_TEXT.encode(), request_id, pairs)


def broken(error: Broken, request_id: bytes) -> Whole:
    """503: nothing was sent, because the upstream has failed too often just before."""
    body = b"The upstream fails; the request was not sent.\n"
    return _answer(503, "breaker-open", body, request_id, [_TEXT, (b"Retry-After", b"%d" % _seconds(error.wait_us))])


def shed(error: Shed, request_id: bytes) -> Whole:
    """503: nothing was sent. Orders would have been, and what is kept is still given."""
    body = b"The gateway has too much to do; the request was not sent.\n"
    return _answer(503, "overload", body, request_id, [_TEXT, (b"Retry-After", b"%d" % _seconds(error.wait_us))])


def halted(request_id: bytes, now_ms: int) -> Whole:
    """200 with the exchange's own code for it: clients take it for final and not for a failure of the network."""
    body = bybit.envelope(bybit.TRADING_BANNED, bybit.TRADING_BANNED_TEXT, now_ms)
    return _answer(200, "trading-halted", body, request_id, [_JSON])


def broken_answer(reason: str, request_id: bytes) -> Whole:
    """502 for a read whose answer broke off before any of it was passed on."""
    body = f"The upstream's answer broke off ({reason}).\n".encode()
    return _answer(502, reason, body, request_id, [_TEXT])


def internal(request_id: bytes) -> Whole:
    """500: a mistake of ours. The log knows more; the client gets the id to ask for it."""
    body = b"The gateway failed on this request; its log tells more under the X-Request-Id.\n"
    return _answer(500, "internal-error", body, request_id, [_TEXT])


def unauthorized_page(request_id: bytes) -> Whole:
    """401 for a page of ours that needs the admin token."""
    body = b"This page needs the admin token: Authorization: Bearer ...\n"
    lines = [_TEXT, (b"WWW-Authenticate", b"Bearer")]
    return _answer(401, "unauthorized", body, request_id, lines)


def plain(status: int, reason: str, detail: str, request_id: bytes, *, retry_s: int | None = None) -> Whole:
    """`retry_s`: in so many seconds it is worth asking again."""
    again = [] if retry_s is None else [(b"Retry-After", b"%d" % retry_s)]
    return _answer(status, reason, f"{detail}\n".encode(), request_id, [_TEXT, *again])


def limited(refused: Refused, request_id: bytes, now_us: int) -> Whole:
    """The answer to a request that was not admitted, in the style its rule asks for."""
    if refused.charge.quota.refuse_with is RefuseWith.BYBIT:
        return _limited_as_bybit(refused, request_id, now_us)
    return _limited_as_http(refused, request_id, now_us)


def _limited_as_bybit(refused: Refused, request_id: bytes, now_us: int) -> Whole:
    """HTTP 200 with the exchange's own code and reset header: pybit, Bybit.Net and nautilus wait and try again."""
    now_ms = now_us // 1000
    quota = refused.charge.quota
    reset_ms = now_ms + max(_LEAST_RESET_MS, math.ceil(refused.wait_us / 1000))
    body = bybit.envelope(bybit.TOO_MANY_VISITS, bybit.TOO_MANY_VISITS_TEXT, now_ms)
    pairs = [
        _JSON,
        (bybit.LIMIT.encode(), b"%d" % quota.limit),
        (bybit.LIMIT_STATUS.encode(), b"0"),
        (bybit.LIMIT_RESET.encode(), b"%d" % reset_ms),
        (b"Retry-After", b"%d" % _seconds(refused.wait_us)),
    ]
    return _answer(200, reason_of(refused), body, request_id, pairs)


def _limited_as_http(refused: Refused, request_id: bytes, now_us: int) -> Whole:
    """HTTP 429 with the fields of the IETF draft (RateLimit, RateLimit-Policy) and the older X-RateLimit ones."""
    quota = refused.charge.quota
    seconds = _seconds(refused.wait_us)
    window_s = max(1, math.ceil(quota.window_us / 1_000_000))
    period = quota.window_us / 1_000_000
    text = f"Too many requests: {quota.name} allows {quota.limit} in {duration_text(quota.window_us)}"
    body = bybit.envelope(
        bybit.TOO_MANY_VISITS,
        text,
        now_us // 1000,
        f',"error":"{reason_of(refused)}","retry_after":{math.ceil(refused.wait_us / 1000) / 1000:g}'
        f',"limit":{quota.limit},"period":{period:g}',
    )
    pairs = [
        _JSON,
        (b"Retry-After", b"%d" % seconds),
        (b"X-RateLimit-Limit", b"%d" % quota.limit),
        (b"X-RateLimit-Remaining", b"0"),
        (b"X-RateLimit-Reset", b"%d" % math.ceil((now_us + refused.wait_us) / 1_000_000)),
        (b"RateLimit-Policy", f'"{quota.name}";q={quota.limit};w={window_s}'.encode()),
        (b"RateLimit", f'"{quota.name}";r=0;t={seconds}'.encode()),
    ]
    return _answer(429, reason_of(refused), body, request_id, pairs)


def _enveloped(told: dict[str, object], now_ms: int) -> bytes:
    """Code and text first: there are clients that look no further."""
    order: dict[str, object] = {"retCode": None, "retMsg": None, "result": {}, "retExtInfo": {}, "time": now_ms}
    return orjson.dumps(order | told)


def reason_of(refused: Refused) -> str:
    """A word for X-Gateway and for logs."""
    return {Why.FULL: "rate-limit", Why.QUEUE: "queue-full", Why.DEADLINE: "deadline", Why.BAN: "banned"}[refused.why]


def _seconds(wait_us: int) -> int:
    return max(1, math.ceil(wait_us / 1_000_000))


def _answer(
    status: int,
    reason: str,
    body: bytes,
    request_id: bytes,
    pairs: list[tuple[bytes, bytes]],
    *,
    close: bool = False,
) -> Whole:
    lines = [
        *pairs,
        _NO_STORE,
        (b"X-Gateway", reason.encode()),
        (b"X-Request-Id", request_id),
        (b"Content-Length", b"%d" % len(body)),
    ]
    return Whole(head(status, lines), body, close=close)
