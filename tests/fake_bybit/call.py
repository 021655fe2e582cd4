"""One request on its way through the exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from aiohttp import web

    from tests.fake_bybit.faults import Plan
    from tests.fake_bybit.record import Entry
    from tests.fake_bybit.reply import Reply

Query = list[tuple[str, str]]
Clock = Callable[[], int]  # epoch microseconds
BatchSize = Callable[[str, dict[str, Any]], int]


@dataclass(frozen=True)
class Call:
    """The request as received, where it was booked, and what is to happen to it."""

    request: web.BaseRequest
    path: str  # what routing goes by; `request.raw_path` is what was sent
    raw_query: str
    body: bytes
    entry: Entry
    plan: Plan

    @property
    def method(self) -> str:
        """As sent."""
        return self.request.method

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""
        return self.request.headers

    @cached_property
    def query(self) -> Query:
        """Decoded once, in order, blanks kept."""
        return parse_qsl(self.raw_query, keep_blank_values=True) if self.raw_query else []

    @property
    def is_get_with_body(self) -> bool:
        """Whether it is a GET that announces any content."""
        if self.method != "GET":
            return False
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers


class PublicSide(Protocol):
    """Market data."""

    def handle(self, path: str, query: Query, now_us: int) -> Reply | None:
        """Answer, or None for a path it does not have."""


class PrivateSide(Protocol):
    """Orders, positions, accounts. Batches come with `allowed`: how many orders the limiter lets through."""

    @property
    def handle(self) -> Callable[..., Reply | None]:
        """Take method, path, query, body, uid and now_us; None for a path it does not have."""
