"""How two ends of a call, and two arrivals of one, are held against each other."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.fake_bybit import Entry

REFUSED: Final = frozenset({10002, 10003, 10004, 10006})
"""What the exchange says to a signature, a clock or a pace that it does not accept."""
_SIGNED_ANEW: Final = frozenset({"x-bapi-timestamp", "x-bapi-sign"})
"""Two calls are made at two times. The exchange has checked both signatures over the bytes that reached it."""
_OF_THE_HOP: Final = frozenset({"host", "connection", "content-length"})
"""Host names the next server, Connection is about one connection, and Content-Length may stand elsewhere."""
_SIGNED_AT: Final = re.compile(r"(?<=origin_string\[)\d{13}")
_BASE: Final = re.compile(r"http://127\.0\.0\.1:\d+")


def comparable(value: object) -> str:
    """Text without the moment at which a client signed, which 10004 quotes, and without the base URL."""
    return _BASE.sub("<base>", _SIGNED_AT.sub("<time>", str(value)))


@dataclass(frozen=True)
class End:
    """How a call ended, in the client's own terms."""

    value: Any = None
    error: str = ""
    code: Any = None
    message: str = ""


def end_of(call: Callable[[], Any]) -> End:
    """Run a call to its end."""
    try:
        return End(call())
    except Exception as error:
        return _failed(error)


async def end_of_async(call: Callable[[], Awaitable[Any]]) -> End:
    """Run a call to its end."""
    try:
        return End(await call())
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> End:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    text = getattr(error, "message", None) or str(error)
    return End(error=name, code=getattr(error, "status_code", None), message=comparable(text))


@dataclass(frozen=True, order=True)
class Sent:
    """A request as it arrived. `headers` are the lines in their order, but for those of one hop."""

    method: str
    target: str
    body_sha256: str
    body_length: int
    headers: tuple[tuple[str, str], ...]
    content_length: str | None


def sent(entry: Entry) -> Sent:
    """What there is to compare about an arrival."""
    lines = [(name, value) for name, value in entry.headers()]
    lengths = [value for name, value in lines if name.lower() == "content-length"]
    assert len(lengths) < 2, "one Content-Length at most"
    return Sent(
        entry.method,
        entry.target,
        entry.body_sha256,
        entry.body_length,
        tuple(
            (name, "<anew>" if name.lower() in _SIGNED_ANEW else value)
            for name, value in lines
            if name.lower() not in _OF_THE_HOP
        ),
        lengths[0] if lengths else None,
    )


def in_any_order(entries: list[Entry]) -> list[Sent]:
    """For clients that send several requests at once."""
    return sorted(sent(entry) for entry in entries)
