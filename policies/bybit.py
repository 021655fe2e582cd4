"""The exchange's dialect: its headers, codes, envelope and clock rule. No other file spells these out.

Sources are the exchange's own pages: guide (authentication), error (codes), rate-limit (headers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

API_KEY: Final = "X-BAPI-API-KEY"
TIMESTAMP: Final = "X-BAPI-TIMESTAMP"
SIGN: Final = "X-BAPI-SIGN"
RECV_WINDOW: Final = "X-BAPI-RECV-WINDOW"

LIMIT: Final = "X-Bapi-Limit"
LIMIT_STATUS: Final = "X-Bapi-Limit-Status"
LIMIT_RESET: Final = "X-Bapi-Limit-Reset-Timestamp"

ENVELOPE_HEADERS: Final = frozenset({"timenow", "traceid", "ret_code"})
"""Lower-case names of headers that speak of one answer only, beside all that begin with `x-bapi-`."""

OK: Final = 0
PARAMETER_ERROR: Final = 10001
BAD_CLOCK: Final = 10002
NOT_AUTHENTICATED: Final = 10007
SERVER_ERROR: Final = 10016
TOO_MANY_VISITS: Final = 10006

TOO_MANY_VISITS_TEXT: Final = "Too many visits. Exceeded the API Rate Limit."
"""For people only: three spellings have been seen, so nothing may match on it."""

NOTABLE_CODES: Final = frozenset(
    {-1, -2015, 429, 10000, 10001, 10002, 10003, 10004, 10005, 10006, 10007, 10008, 10009, 10010, 10014, 10016, 10017}
    | {10018, 10024, 10027, 10028, 10029, 10032, 20003, 30035, 33004, 110001, 110072, 110079, 131230, 148019, 170001}
    | {170005, 170007, 170032, 170141, 170146, 170147, 170213, 170222, 170234, 170310, 177002, 500000}
)
"""Codes that get a time series of their own; the exchange has hundreds more."""

NOTABLE_STATUSES: Final = frozenset({400, 401, 403, 404, 429, 500, 502, 503, 504})
"""403 is a ban, a blocked country or a GET with a body; the others speak for themselves."""

TIMED_OUT: Final = "Request timeout, please try again later"
"""ccxt and others take exactly these words for a time-out that may have been executed."""

DEFAULT_RECV_WINDOW_MS: Final = 5_000
MAX_RECV_WINDOW_MS: Final = 600_000
"""A larger one is taken for a mistake: it must not let a request wait for hours."""

_TIME: Final = re.compile(rb'"time"\s*:\s*(\d{13})\s*\}\s*\Z')
_RET_CODE: Final = re.compile(rb'\A\s*\{\s*"retCode"\s*:\s*(-?\d{1,9})\s*[,}]')


def timestamp_us(headers: Mapping[str, str]) -> int | None:
    """When a request was signed, in epoch microseconds of the client's clock; None when that cannot be read."""
    stamp = headers.get(TIMESTAMP)
    return int(stamp) * 1000 if stamp is not None and _is_digits(stamp) else None


def deadline_us(headers: Mapping[str, str]) -> int | None:
    """Epoch instant, on the exchange's clock, until which it accepts a signature; None when there is none.

    The exchange accepts `server_time - recv_window <= timestamp < server_time + 1000`; waiting eats the window, and
    only the client can sign again. Unreadable numbers bind to nothing: the exchange will say what is wrong with them.
    """
    stamp_us = timestamp_us(headers)
    if stamp_us is None:
        return None
    window = headers.get(RECV_WINDOW)
    window_ms = DEFAULT_RECV_WINDOW_MS
    if window is not None and _is_digits(window):
        window_ms = min(int(window), MAX_RECV_WINDOW_MS)
    return stamp_us + window_ms * 1000


def ret_code(body: bytes) -> int | None:
    """The code of an answer, read from the head of its (decoded) body; None when it is not in the usual envelope."""
    found = _RET_CODE.match(body)
    return int(found.group(1)) if found else None


def server_ms(body: bytes) -> int | None:
    """The exchange's clock as stamped at the end of the (decoded) body."""
    found = _TIME.search(body, max(0, len(body) - 64))
    return int(found.group(1)) if found else None


def envelope(code: int, message: str, now_ms: int, extra: str = "") -> bytes:
    """An answer in the exchange's own envelope. `message` and `extra` are ours and need no escaping.

    `extra` is a run of further members with a leading comma. result and retExtInfo must be objects: typed clients
    (Go, .NET) fail on anything else.
    """
    return (
        f'{{"retCode":{code},"retMsg":"{message}","result":{{}},"retExtInfo":{{}},"time":{now_ms}{extra}}}'
    ).encode()


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16
