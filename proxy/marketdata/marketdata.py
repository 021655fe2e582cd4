"""Which page of the convenience API is asked, and what its question means. Nothing of these requests is forwarded."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from aiohttp import web

from policies import market_questions
from policies.admission import Refused
from policies.candle_formats import Format
from policies.market_questions import BadQuestion, Latest
from proxy import errors
from proxy.ask import max_wait_us
from proxy.caches import Caches
from proxy.clock import Clock, Sleep
from proxy.describe import Asked
from proxy.errors import Unanswered
from proxy.marketdata.asking import Behalf, Limited
from proxy.marketdata.batch import BatchPage
from proxy.marketdata.candles import CandlePages
from proxy.marketdata.desk import Desk, whole
from proxy.marketdata.prices import PricePage
from proxy.metrics import Metrics
from proxy.tasks import TaskOwner
from proxy.telemetry import Story

_CANDLES: Final = "/api/v1/marketdata/klines"
_PRICES: Final = "/api/v1/prices"
_DESCRIPTION: Final = "/api/v1/openapi.json"
_OWN: Final = ("/api/v1/marketdata", _PRICES, _DESCRIPTION)


def owns(raw_target: str) -> bool:
    """Whether a target belongs here. Such targets are never forwarded, known or not."""
    if not raw_target.startswith(_OWN):
        return False
    path = raw_target.partition("?")[0]
    return any(path == own or path.startswith(f"{own}/") for own in _OWN)


def endpoint_of(raw_target: str) -> str:
    """The name of a page of ours in rules, metrics and logs: one of routing.OWN."""
    path = raw_target.partition("?")[0]
    if path == _DESCRIPTION:
        return "openapi"
    if path == _CANDLES:
        return "marketdata-batch"
    return "prices" if path.startswith(_PRICES) else "marketdata-klines"


class Marketdata:
    """Asked by the gateway, once it knows who asks and his quotas have room."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._candles = CandlePages(desk)
        self._batch = BatchPage(desk)
        self._prices = PricePage(desk)
        self._description = (Path(__file__).parent / "openapi.json").read_bytes()

    @classmethod
    def over(
        cls, caches: Caches, metrics: Metrics, tasks: TaskOwner, clock: Clock, sleep: Sleep, *, parallel: int
    ) -> Self:
        """`parallel`: questions at one time for one range."""
        exchange_clock = caches.lookup.exchange_us
        desk = Desk(
            inner=caches.inner,
            metrics=metrics,
            tasks=tasks,
            clock=clock,
            exchange_clock=exchange_clock,
            sleep=sleep,
            parallel=parallel,
        )
        return cls(desk)

    def endpoint(self, raw_target: str) -> str:
        return endpoint_of(raw_target)

    async def answer(
        self, request: web.BaseRequest, asked: Asked, story: Story, request_id: bytes
    ) -> web.StreamResponse | Refused:
        """Raises Banned, Broken, Shed and UpstreamError, where the exchange would have to be asked."""
        try:
            max_wait = max_wait_us(request.headers)
            of = Behalf(asked.descriptor, None if max_wait is None else story.began_us + max_wait)
            return await self._answer(request, of, story, request_id)
        except Limited as error:
            return error.refused
        except Unanswered as error:
            story.source, story.status, story.outcome = "gateway", error.status, error.reason
            pairs = [(b"Allow", b"GET, HEAD")] if error.status == 405 else []
            return errors.unanswered(error, request_id, self.desk.clock() // 1000, pairs)

    async def _answer(
        self, request: web.BaseRequest, of: Behalf, story: Story, request_id: bytes
    ) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        page, _, segment = path.rpartition("/")
        known = path in {_CANDLES, _DESCRIPTION} or (page in {_CANDLES, _PRICES} and segment)
        if not known:
            raise Unanswered(
                404, "not-found", "the gateway has no such page: /api/v1/openapi.json describes those it has"
            )
        if request.method not in {"GET", "HEAD"}:
            raise Unanswered(405, "method-not-allowed", "this page can only be read")
        accept = request.headers.get("Accept")
        try:
            if path == _DESCRIPTION:
                story.source, story.status = "cache", 200
                return whole(Format.JSON, self._description, story, request_id)
            if path == _CANDLES:
                batch = market_questions.about_many(query, accept)
                return await self._batch.answer(batch, request, of, story, request_id)
            if page == _PRICES:
                price = market_questions.about_price(segment, query)
                return await self._prices.answer(price, of, story, request_id)
            question = market_questions.about_candles(segment, query, accept)
        except BadQuestion as error:
            raise Unanswered(400, "bad-parameter", str(error)) from None
        if isinstance(question, Latest):
            return await self._candles.latest(question, request, of, story, request_id)
        return await self._candles.history(question, request, of, story, request_id)
