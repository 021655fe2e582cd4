"""What the exchange answers to a request that reached it: route, signature, account limiter, handler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.fake_bybit import answers, assets, auth, tools
from tests.fake_bybit.limits import MINUTE_US, listed
from tests.fake_bybit.reply import TOO_MANY_VISITS, Reply

if TYPE_CHECKING:
    from tests.fake_bybit.answers import Answer
    from tests.fake_bybit.books import Books, Grant
    from tests.fake_bybit.call import BatchSize, Call, Clock, PrivateSide, PublicSide
    from tests.fake_bybit.record import Stats
    from tests.fake_bybit.settings import Settings

_BATCHES = frozenset({"/v5/order/create-batch", "/v5/order/amend-batch", "/v5/order/cancel-batch"})
_CREATES = frozenset({"/v5/order/create", "/v5/order/create-batch"})


class Judge:
    """The business side of the exchange. No sockets and no waiting."""

    def __init__(
        self,
        settings: Settings,
        market: PublicSide,
        trading: PrivateSide,
        batch_size: BatchSize,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.market = market
        self.trading = trading
        self._batch_size = batch_size
        self._clock = clock

    def now_us(self) -> int:
        """The exchange's clock, which may be wrong on purpose."""
        return self._clock() + self.settings.clock_offset_ms * 1000

    def serve(self, call: Call, books: Books, stats: Stats) -> Answer:
        """Answer one call."""
        if call.is_get_with_body:  # bybit.md 1.1: even an empty JSON body
            return answers.bad_request_page()
        if call.path == tools.REDIRECT:
            return tools.redirect(call.raw_query)
        if call.path == tools.ECHO:
            return self._echo(call)
        if call.method == "GET":
            reply = self.market.handle(call.path, call.query, self.now_us())
            if reply is not None:
                return self._public(call, books, reply)
        if not self._is_private(call):  # bybit.md 1.8: a wrong path; other methods are not routed either
            return answers.not_found()
        caller = self._verify(call)
        if isinstance(caller, auth.Refused):
            return self._refuse(caller)
        call.entry.uid = caller.uid
        return self._private(call, caller.uid, books, stats)

    def _echo(self, call: Call) -> Answer:
        if auth.is_signed(call.headers):
            caller = self._verify(call)
            if isinstance(caller, auth.Refused):
                return self._refuse(caller)
        return answers.envelope(tools.echo(call.request, call.body), self.now_us())

    def _public(self, call: Call, books: Books, reply: Reply) -> Answer:
        settings = self.settings
        # bybit.md 3.2: all public paths can also be called signed
        if settings.verify_public_signatures and auth.is_signed(call.headers):
            caller = self._verify(call)
            if isinstance(caller, auth.Refused):
                return self._refuse(caller)
        remaining = settings.public_bapi_limit - 1
        if settings.endpoint_limit:
            key, window_us = self._endpoint_key(call), settings.endpoint_window_us
            fits, remaining = books.endpoint.take(key, settings.endpoint_limit, window_us, call.entry.time_us)
            if not fits:  # bybit.md 1.2: on kline, 10006 came without the reset header
                return answers.envelope(TOO_MANY_VISITS, self.now_us())
        answer = answers.envelope(reply, self.now_us())
        if settings.public_bapi_headers and call.plan.bapi_headers:
            limit = settings.endpoint_limit or settings.public_bapi_limit
            answer.headers += answers.bapi_headers(limit, remaining, self.now_us() // 1000)
        return answer

    def _private(self, call: Call, uid: str, books: Books, stats: Stats) -> Answer:
        fields = _json_object(call.body) if call.method == "POST" else {}
        if fields is None:
            return answers.envelope(Reply(10001, "Request parameter error."), self.now_us())
        category = str(fields.get("category") if call.method == "POST" else dict(call.query).get("category"))
        # bybit.md 1.5: linear, inverse and spot batches cost their orders, an option batch costs one request
        counts_orders = call.path in _BATCHES and category != "option"
        cost = max(1, self._batch_size(call.path, fields)) if counts_orders else 1
        grant = books.account.take(uid, call.method, call.path, category, cost, call.entry.time_us)
        part: dict[str, Any] = {}
        if grant.allowed < cost:
            if not counts_orders or (grant.allowed == 0 and self.settings.batch_none_left == "outer"):
                return self._with_grant(answers.envelope(TOO_MANY_VISITS, self.now_us()), call, grant)
            part = {"allowed": grant.allowed}
        elif call.path in _BATCHES:
            part = {"allowed": None}
        if call.path in _CREATES:
            items = fields.get("request") if call.path in _BATCHES else [fields]
            stats.placed(uid, items[: part.get("allowed")] if isinstance(items, list) else [])
        reply = self.trading.handle(call.method, call.path, call.query, fields, uid, self.now_us(), **part)
        if reply is None:
            reply = assets.handle(call.method, call.path, call.query)
        if reply is None:
            return answers.not_found()
        return self._with_grant(answers.envelope(reply, self.now_us()), call, grant)

    def _with_grant(self, answer: Answer, call: Call, grant: Grant) -> Answer:
        shown = self.settings.minute_headers or grant.window_us != MINUTE_US
        if grant.limit and shown and call.plan.bapi_headers:
            reset_ms = grant.reset_ms + self.settings.clock_offset_ms
            answer.headers += answers.bapi_headers(grant.limit, grant.remaining, reset_ms)
        return answer

    def _verify(self, call: Call) -> auth.Verified:
        # bybit.md 2.1: a GET signs its raw query string, a POST its raw body
        signs_body = call.method == "POST" or call.body
        payload = call.body if signs_body else call.raw_query.encode("utf-8", "surrogateescape")
        return auth.verify(call.headers, payload, self.settings, self.now_us())

    def _refuse(self, refused: auth.Refused) -> Answer:
        if refused.unauthorized:
            return answers.unauthorized()
        return answers.envelope(refused.reply, self.now_us())

    def _is_private(self, call: Call) -> bool:
        return (call.method, call.path) in listed()

    def _endpoint_key(self, call: Call) -> str:
        if self.settings.endpoint_key == "global":
            return call.path
        if self.settings.endpoint_key == "symbol":
            return f"{call.path} {dict(call.query).get('symbol', '')}"
        return f"{call.path} {call.entry.ip}"


def _json_object(body: bytes) -> dict[str, Any] | None:
    if not body:
        return {}
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
