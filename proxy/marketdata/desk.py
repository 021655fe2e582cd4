"""What the pages of the convenience API share: who is asked, what is held, how an answer begins."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from policies import candles
from policies.candle_formats import Format
from policies.priority import Priority
from policies.segments import Series
from proxy.clock import Clock, Sleep
from proxy.inner import Inner
from proxy.marketdata.asking import Asker, Behalf, Page
from proxy.marketdata.room import Room
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner
from proxy.telemetry import Story
from proxy.wire import Whole, head

T = TypeVar("T")

REASON: Final = b"marketdata"


class Desk:
    """`parallel`: questions at one time for one range. `exchange_clock` tells the exchange's time."""

    def __init__(
        self,
        *,
        inner: Inner,
        metrics: Metrics,
        tasks: TaskOwner,
        clock: Clock,
        exchange_clock: Clock,
        sleep: Sleep,
        parallel: int,
        room: Room | None = None,
    ) -> None:
        self.inner = inner
        self.metrics = metrics
        self.tasks = tasks
        self.clock = clock
        self.parallel = parallel
        self.room = room or Room()
        self._exchange_clock = exchange_clock
        self._sleep = sleep

    def asker(self, of: Behalf, priority: Priority) -> Asker:
        return Asker(self.inner, of, priority, clock=self.clock, sleep=self._sleep)

    def now_ms(self) -> int:
        """By the exchange's clock."""
        return self._exchange_clock() // 1000

    async def waited(self, story: Story, what: Awaitable[T]) -> T:
        """Wait for pages: that is not time which the gateway adds."""
        began_us = self.clock()
        try:
            return await what
        finally:
            story.upstream_us += self.clock() - began_us

    def given(self, rows: int, asker: Asker, story: Story) -> None:
        """Note what a client has got."""
        source = "exchange" if asker.from_exchange else "cache"
        story.source, story.status, story.attempts = source, 200, asker.from_exchange
        self.metrics.candles.inc((source,), rows)


def lines(format_: Format, request_id: bytes) -> bytes:
    """Status line and header lines of a good answer, without those that frame its body."""
    charset = "" if format_ is Format.NDJSON else "; charset=utf-8"
    return head(
        200,
        [
            (b"Content-Type", f"{format_.media_type}{charset}".encode()),
            (b"Cache-Control", b"no-store"),
            (b"Vary", b"Accept"),
            (b"X-Gateway", REASON),
            (b"X-Request-Id", request_id),
        ],
    )


def whole(format_: Format, body: bytes, story: Story, request_id: bytes) -> Whole:
    story.body_bytes = len(body)
    return Whole(lines(format_, request_id) + b"Content-Length: %d\r\n" % len(body), body)


def has_closed(series: Series, page: Page | None) -> bool | None:
    """Whether the newest candle of a page had ended when the exchange told of it; None where there is none."""
    if page is None or not page.rows.opens:
        return None
    return candles.end_of(series.interval, page.rows.opens[0]) <= page.at_ms
