"""Answers of public endpoints other than candles: only what a rule names is kept, and only as long as it says."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from typing import Any, Final

import pytest

from policies.answer_rules import LIVE
from policies.cache_schema import DEFAULT_RULES
from tests.cached import BYPASS, INFO, NOT_STORED, STORED, ask, envelope, raw, status, ttl, was_hit
from tests.gateway_fixture import ROUTES, gateway
from tests.hand_clock import HandClock
from tests.recorder import Seen, answering, recorder

PATHS: Final = {route.endpoint: route.path for route in ROUTES.routes}
TTL_S: Final = {"1m": 60, "5m": 300, "30s": 30, "1s": 1}
KEPT: Final = [(name, TTL_S[rule["ttl"]], "boundary" in rule) for rule in DEFAULT_RULES for name in rule["endpoint"]]
OK: Final = raw(envelope({"list": [{"symbol": "BTCUSDT", "status": "Trading"}]}))
SWR_S: Final = 1


@pytest.mark.parametrize(("endpoint", "ttl_s"), [(name, ttl_s) for name, ttl_s, bound in KEPT if not bound])
async def test_an_answer_lives_as_long_as_its_rule_says(endpoint: str, ttl_s: int) -> None:
    clock, target = HandClock(), PATHS[endpoint]
    async with recorder(answering(OK)) as upstream, gateway(upstream.url, clock=clock) as app:
        first = await ask(app, target)
        second = await ask(app, target)
        await clock.leap(ttl_s - 0.001)
        last = await ask(app, target)
        await clock.leap(SWR_S + 0.001)
        over = await ask(app, target)

        assert [status(each) for each in (first, over)] == [STORED] * 2
        assert (ttl(second), ttl(last)) == (ttl_s, 0)
        assert (second.get("Age"), last.get("Age")) == ("0", str(ttl_s - 1))
        assert first.body == second.body == last.body
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("endpoint", [name for name, _, bound in KEPT if bound])
async def test_where_rows_appear_at_a_boundary_no_answer_crosses_it(endpoint: str) -> None:
    """Every five minutes; and for five seconds after it the new row may still be missing."""
    clock, target = HandClock(), PATHS[endpoint]
    async with recorder(answering(OK)) as upstream, gateway(upstream.url, clock=clock) as app:

        async def asked_at(second: float) -> str:
            """Of the five minutes that are running."""
            await clock.leap(second - clock.now_us % 300_000_000 / 1e6)
            return status(await ask(app, target))

        assert await asked_at(290) == STORED
        assert (await asked_at(299.999)).startswith("bybit-gateway; hit; ttl=0")
        assert await asked_at(300.001) == STORED
        assert (await asked_at(4.9)).startswith("bybit-gateway; hit; ttl=0")
        assert await asked_at(7) == STORED
        assert await asked_at(60) == "bybit-gateway; hit; ttl=7"
        assert len(upstream.seen) == 3


NEVER: Final = [
    *(PATHS[name] for name in sorted(LIVE - {"index-price-components", "price-limit"})),
    "/v5/market/time",
    "/v5/market/not-listed",
    "/v5/account/info",
    "/v5/order/realtime?category=linear&symbol=BTCUSDT",
    "/v5/user/query-api",
]


@pytest.mark.parametrize("target", NEVER)
async def test_what_no_rule_names_is_never_kept(target: str) -> None:
    """Order books, tickers, trades, the time, whatever is private or not listed."""
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        answers = [await ask(app, target) for _ in range(3)]

        assert [each.status for each in answers] == [200] * 3
        assert [each.get("Cache-Status") for each in answers] == [None] * 3
        assert len(upstream.seen) == 3


async def test_an_operator_may_name_what_changes_all_the_time() -> None:
    rules = [{"endpoint": ["tickers"], "ttl": "2s"}]
    async with recorder(answering(OK)) as upstream, gateway(upstream.url, cache__rules=rules) as app:
        answers = [await ask(app, PATHS["tickers"]) for _ in range(3)]
        other = [await ask(app, INFO) for _ in range(2)]

        assert [was_hit(each) for each in answers] == [False, True, True]
        assert [each.get("Cache-Status") for each in other] == [None] * 2, "these rules replace the default ones"
        assert len(upstream.seen) == 3


async def test_requests_that_say_the_same_in_another_order_share_an_answer() -> None:
    given = ["category=linear", "status=Trading", "limit=500", "cursor=a%2Cb"]
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        for order in itertools.permutations(given):
            assert (await ask(app, f"{PATHS['instruments-info']}?{'&'.join(order)}")).status == 200

        assert len(upstream.seen) == 1


@pytest.mark.parametrize("other", ["&limit=2", "&status=Trading", "&cursor=a", "&cursor=a%3d", "&cursor=a%3D"])
async def test_requests_that_say_something_else_do_not(other: str) -> None:
    """Values count as they stand."""
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        answers = [await ask(app, target) for target in (INFO, INFO + other, INFO, INFO + other)]

        assert [was_hit(each) for each in answers] == [False, False, True, True]
        assert [seen.target.decode() for seen in upstream.seen] == [INFO, INFO + other]


ODD: Final = [
    "&unknown=1",
    "&_=1790000000000",
    "&category=linear",
    "&category=inverse",
    "&Category=linear",
    "&limit=",
    "&limit",
    "&",
    "&&limit=1",
    "&limit=1%30",
    "&limit=1+0",
    "&limit=1;status=Trading",
    "&baseCoin=%42TC",
    "&status=Trad%69ng",
    "&cursor=" + "a" * 300,
    "&symbolType=" + "a" * 65,
    "&cursor=%zz",
]


@pytest.mark.parametrize("suffix", ODD)
async def test_odd_requests_pass_by_unchanged(suffix: str) -> None:
    """Unknown, doubled, empty, escaped or absurd: the exchange shall say what it makes of them, to each who asks."""
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        answers = [await ask(app, INFO + suffix) for _ in range(2)]
        plain = await ask(app, INFO)

        assert [status(each) for each in answers] == [BYPASS] * 2
        assert status(plain) == STORED
        assert [seen.target.decode() for seen in upstream.seen] == [INFO + suffix] * 2 + [INFO]


@pytest.mark.parametrize("line", ["X-BAPI-API-KEY: k", "X-BAPI-SIGN: s", "x-bapi-api-key: k"])
async def test_who_signs_gets_his_own_answer(line: str) -> None:
    """Even where a plain one is kept; and it is kept for nobody."""
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        signed = await ask(app, INFO, line)
        plain = await ask(app, INFO)
        again = await ask(app, INFO, line)

        assert [status(each) for each in (signed, plain, again)] == [BYPASS, STORED, BYPASS]
        assert len(upstream.seen) == 3


GOOD: Final = envelope({"list": ["x" * 2_000]})
NOT_KEPT: Final[dict[str, Any]] = {
    "too many": raw(envelope({}, code=10006)),
    "bad parameter": raw(envelope({}, code=10001)),
    "server error": raw(envelope({}, code=10016)),
    "500": raw(GOOD, head="500 Oops"),
    "201": raw(GOOD, head="201 Created"),
    "203": raw(GOOD, head="203 Changed"),
    "206": raw(GOOD, head="206 Part"),
    "404": raw(GOOD, head="404 Not Found"),
    "no envelope": raw(b"{}"),
    "a list": raw(b'[{"retCode":0}]'),
    "a page": raw(b"<html>retCode 0</html>"),
    "nothing": raw(b""),
    "half of it": raw(GOOD[:-3]),
    "more behind it": raw(GOOD + b"{}"),
    "no gzip": raw(GOOD, "Content-Encoding: gzip"),
    "half a gzip": raw(gzip.compress(GOOD)[:-9], "Content-Encoding: gzip"),
    "more behind a gzip": raw(gzip.compress(GOOD) + b"tail", "Content-Encoding: gzip"),
    "unknown coding": raw(GOOD, "Content-Encoding: rot13"),
    "two codings": raw(gzip.compress(GOOD), "Content-Encoding: br, gzip"),
    "differs by who asks": raw(GOOD, "Vary: Origin"),
    "differs by everything": raw(GOOD, "Vary: *"),
    "differs by more": raw(GOOD, "Vary: Accept-Encoding, User-Agent"),
}


@pytest.mark.parametrize("name", NOT_KEPT)
async def test_only_whole_good_answers_for_everybody_are_kept(name: str) -> None:
    """The one who asked gets them as they are."""
    async with recorder(answering(NOT_KEPT[name])) as upstream, gateway(upstream.url, retry__enabled="false") as app:
        first, second = await ask(app, INFO), await ask(app, INFO)

        assert first.body == second.body == NOT_KEPT[name].partition(b"\r\n\r\n")[2]
        assert status(first) == status(second) == NOT_STORED.replace("200", str(first.status))
        assert len(upstream.seen) == 2


async def test_an_answer_that_breaks_off_is_not_kept() -> None:
    whole = raw(GOOD)
    broken = True

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(whole[:-10] if broken else whole)
        if broken:
            await writer.drain()
            writer.close()

    async with recorder(answer) as upstream, gateway(upstream.url, retry__enabled="false") as app:
        assert (await ask(app, INFO)).status == 502
        broken = False
        assert status(await ask(app, INFO)) == STORED
        assert was_hit(await ask(app, INFO))
        assert len(upstream.seen) == 2


OF_ONE: Final = [
    "X-Bapi-Limit: 10",
    "X-Bapi-Limit-Status: 9",
    "X-Bapi-Limit-Reset-Timestamp: 1790000000000",
    "X-BAPI-NEW: 1",
    "Traceid: t",
    "Timenow: 1790000000000",
    "Ret_code: 0",
    "Date: Thu, 01 Jan 1970 00:00:00 GMT",
    "Expires: 0",
    "Age: 7",
    "Set-Cookie: sid=leaders",
    'ETag: "theirs"',
    "Via: 1.1 fake.cloudfront.net",
    "X-Cache: Miss from cloudfront",
    "X-Amz-Cf-Id: abc",
    "CF-Ray: abc",
    "X-Request-Id: theirs",
    "Cache-Status: edge; hit",
    "Server-Timing: edge;dur=1",
    "X-RateLimit-Remaining: 1",
    'RateLimit: "a";r=1;t=1',
    "X-Gateway: theirs",
    "Connection: X-Hop",
    "X-Hop: 1",
    "Keep-Alive: timeout=5",
]
OF_ALL: Final = ["Server: Openresty", "Cache-Control: no-store", "Access-Control-Allow-Origin: *", "X-Other: stays"]


async def test_what_was_said_of_one_answer_is_not_said_again_of_another() -> None:
    """Limits, trace ids, clocks, cookies, tags, what caches on the way have noted: none of it is in a hit."""
    async with recorder(answering(raw(GOOD, *OF_ONE, *OF_ALL))) as upstream, gateway(upstream.url) as app:
        first, hit = await ask(app, INFO), await ask(app, INFO)

        lines = {f"{name}: {value}" for name, value in hit.headers}
        assert len(upstream.seen) == 1
        assert not lines & set(OF_ONE)
        assert lines >= set(OF_ALL)
        assert [len(hit.all(name)) for name in ("Age", "Cache-Status", "Server-Timing", "X-Request-Id")] == [1] * 4
        assert [len(hit.all(name)) for name in ("ETag", "Content-Length", "Vary", "Content-Type")] == [1] * 4
        # Who caused the fetch gets all of it, but what was for our connection to the exchange.
        hop = {"Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5"}
        assert {f"{name}: {value}" for name, value in first.headers} >= {*OF_ONE, *OF_ALL} - hop
        assert [first.all(name) for name in ("X-Request-Id", "ETag")] == [["theirs"], ['"theirs"']]


async def test_a_rule_that_is_gone_after_a_reload_keeps_nothing_more() -> None:
    async with recorder(answering(OK)) as upstream, gateway(upstream.url) as app:
        assert status(await ask(app, INFO)) == STORED
        cache = app._config.cache
        app.apply(app._config.model_copy(update={"cache": cache.model_copy(update={"rules": ()})}))
        answers = [await ask(app, INFO) for _ in range(2)]

        assert [each.get("Cache-Status") for each in answers] == [None] * 2
        assert len(upstream.seen) == 3
