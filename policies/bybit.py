"""The exchange's dialect: its headers, codes, envelope and clock rule. No other file spells these out.

Sources are the exchange's own pages: guide (authentication), error (codes), rate-limit (headers).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

API_KEY: Final = "X-BAPI-API-KEY"
TIMESTAMP: Final = "X-BAPI-TIMESTAMP"
SIGN: Final = "X-BAPI-SIGN"
RECV_WINDOW: Final = "X-BAPI-RECV-WINDOW"

SIGNING: Final = (API_KEY, TIMESTAMP, SIGN, RECV_WINDOW)

LIMIT: Final = "X-Bapi-Limit"
LIMIT_STATUS: Final = "X-Bapi-Limit-Status"
LIMIT_RESET: Final = "X-Bapi-Limit-Reset-Timestamp"

ENVELOPE_HEADERS: Final = frozenset({"timenow", "traceid", "ret_code"})
"""Lower-case names of headers that speak of one answer only, beside all that begin with `x-bapi-`."""

LINES: Final = {"linear": "futures", "inverse": "futures", "spot": "spot", "option": "option"}
"""Business lines by category. Linear and inverse probably share a limit; to take them for one is safe in any case."""
USUAL_LINE: Final = "futures"

OK: Final = 0
PARAMETER_ERROR: Final = 10001
BAD_CLOCK: Final = 10002
NOT_AUTHENTICATED: Final = 10007
SERVER_TIMEOUT: Final = 10000
SERVER_ERROR: Final = 10016
TOO_MANY_VISITS: Final = 10006
TROUBLE: Final = frozenset({SERVER_TIMEOUT, SERVER_ERROR, TOO_MANY_VISITS})
"""What it answers when it cannot do what it usually can, or not now."""
IP_LIMITED: Final = 10018
TRADING_BANNED: Final = 10027
PROTECTING_CODES: Final = frozenset({429, 10429, IP_LIMITED})
"""The exchange as a whole is asked for too much: no limit of an account, and no reset."""

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

BANNED_TEXT: Final = "access too frequent"
"""The documented phrase of a ban, in a 403 of whatever type."""

TRADING_BANNED_TEXT: Final = "Transactions are banned."

TIMED_OUT: Final = "Request timeout, please try again later"
"""ccxt and others take exactly these words for a time-out that may have been executed."""

DEFAULT_RECV_WINDOW_MS: Final = 5_000
MAX_RECV_WINDOW_MS: Final = 600_000
"""A larger one is taken for a mistake: it must not let a request wait for hours."""

TIME_PATH: Final = "/v5/market/time"
"""The most harmless question there is."""
API_PREFIX: Final = "/v5/"
QUERY_API: Final = "/v5/user/query-api"

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


def in_trouble(status: int, code: int | None) -> bool:
    """Whether an answer says that the exchange cannot do what it usually can, or not now."""
    return status == 429 or status >= 500 or code in TROUBLE or code in PROTECTING_CODES


def server_ms(body: bytes) -> int | None:
    """The exchange's clock as stamped at the end of the (decoded) body."""
    found = _TIME.search(body, max(0, len(body) - 64))
    return int(found.group(1)) if found else None


class LimitHeaders(NamedTuple):
    """What the exchange says of an account's limit on an endpoint."""

    limit: int
    remaining: int | None
    reset_ms: int | None
    """When the limit resets if it is exceeded; else about the exchange's present."""


def limit_headers(headers: Mapping[str, str]) -> LimitHeaders | None:
    """None where they are missing or unreadable: neither is an error."""
    limit, remaining, reset = (_number(headers.get(name)) for name in (LIMIT, LIMIT_STATUS, LIMIT_RESET))
    return None if limit is None else LimitHeaders(limit, remaining, reset)


def header_ms(headers: Mapping[str, str]) -> int | None:
    """The exchange's clock as stamped in a header of its own."""
    stamp = headers.get("Timenow")
    return int(stamp) if stamp is not None and _is_digits(stamp) and len(stamp) == 13 else None


def line_of(category: object) -> str:
    """The business line under which a category is limited."""
    return LINES.get(category, USUAL_LINE) if isinstance(category, str) else USUAL_LINE


def line_of_query(query: str) -> str:
    for part in query.split("&"):
        if part.startswith("category="):
            return line_of(part[9:])
    return USUAL_LINE


def refused_inside(body: bytes) -> int:
    """How many items of a batch were refused as too many, by its (decoded) answer."""
    try:
        items = json.loads(body)["retExtInfo"]["list"]
        return sum(item.get("code") == TOO_MANY_VISITS for item in items)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0


def user_id(body: bytes) -> str | None:
    """Whose API key it is, by the (decoded) answer to that question."""
    try:
        found = json.loads(body)["result"]["userID"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found) if isinstance(found, int | str) and str(found) not in {"", "0"} else None


def envelope(code: int, message: str, now_ms: int, extra: str = "") -> bytes:
    """An answer in the exchange's own envelope. `message` and `extra` are ours and need no escaping.

    `extra` is a run of further members with a leading comma. result and retExtInfo must be objects: typed clients
    (Go, .NET) fail on anything else.
    """
    return (
        f'{{"retCode":{code},"retMsg":"{message}","result":{{}},"retExtInfo":{{}},"time":{now_ms}{extra}}}'
    ).encode()


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _is_digits(text) and len(text) <= 15 else None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16
