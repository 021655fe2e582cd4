"""What is past its time is given while nothing newer can be had, for as long as that is good for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests.by_hand import Desk, desk, target
from tests.cached import CLOSED, INFO, LATEST, ask, detail, status, ttl, was_hit
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway
from tests.hand_clock import HandClock, until
from tests.raw_http import RawAnswer

SOON: Final = {"retry__enabled": "false", "cache__open_ttl": "2s", "candles__boundary__enabled": "false"}


@asynccontextmanager
async def counter(**overrides: Any) -> AsyncIterator[Desk]:
    """One try each."""
    async with desk(**{**SOON, **overrides}) as made:
        yield made


async def told(here: Desk, asked: str = LATEST, *lines: str) -> RawAnswer:
    return await ask(here.app, asked, *lines)


TROUBLE: Final[dict[str, dict[str, Any]]] = {
    "500": {"kind": "status", "status": 500},
    "502, a page": {"kind": "status", "status": 502, "body": "html"},
    "503, nothing": {"kind": "status", "status": 503, "body": "empty"},
    "504": {"kind": "status", "status": 504},
    "429": {"kind": "status", "status": 429},
    "too many": {"kind": "ret_code", "ret_code": 10006},
    "too many from this address": {"kind": "ret_code", "ret_code": 10018},
    "slow down": {"kind": "ret_code", "ret_code": 10429},
    "server error": {"kind": "ret_code", "ret_code": 10016},
    "server timeout": {"kind": "ret_code", "ret_code": 10000},
    "connection lost before": {"kind": "reset_before"},
    "connection lost after": {"kind": "reset_after"},
    "broken off": {"kind": "truncate"},
    "silence": {"kind": "hang"},
}


@pytest.mark.parametrize("asked", [LATEST, INFO], ids=["candles", "a rule's"])
@pytest.mark.parametrize("name", TROUBLE)
async def test_while_the_exchange_fails_the_last_answer_is_given(name: str, asked: str) -> None:
    # Silence is real: this clock does not move aiohttp's timers.
    async with counter(upstream__timeouts__read="200ms") as here:
        first = await told(here, asked)
        await here.clock.leap(61 if asked == INFO else 12)
        here.exchange.faults.add(TROUBLE[name])
        answer = await told(here, asked)
        over_s = 1 if asked == INFO else 10

        assert answer.status == 200
        assert status(answer) == f"bybit-gateway; hit; ttl=-{over_s}; detail=stale-if-error"
        assert answer.get("Age") == str(61 if asked == INFO else 12)
        assert answer.body == first.body
        assert answer.get("X-Gateway") is None


@pytest.mark.parametrize("asked", [LATEST, INFO], ids=["candles", "a rule's"])
async def test_who_can_be_given_an_older_answer_does_not_wait_until_the_exchange_has_failed(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients give up at about 10 s. The fetch goes on, for those who ask next."""
    monkeypatch.setattr("proxy.gateway._PATIENCE_S", 0.05)
    async with counter() as here:
        first = await told(here, asked)
        await here.clock.leap(61 if asked == INFO else 12)
        here.exchange.faults.add({"kind": "delay", "delay_us": 700_000, "count": 1})
        answer = await told(here, asked)
        assert (detail(answer), answer.body) == ("stale-if-error", first.body)

        await here.clock.leap(1)
        async with asyncio.timeout(20):
            while detail(answer := await told(here, asked)):
                await asyncio.sleep(0.02)  # what the exchange says at last comes on a socket
        assert "fwd-status" not in status(answer)
        assert len(here.exchange.record.entries) == 2


async def test_who_cannot_be_given_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.gateway._PATIENCE_S", 0.05)
    async with counter() as here, asyncio.TaskGroup() as group:
        here.exchange.faults.add({"kind": "delay", "delay_us": 700_000, "count": 1})
        pending = group.create_task(told(here, CLOSED))
        await asyncio.sleep(0.2)  # longer than its patience would last
        assert not pending.done()
        await here.clock.leap(1)
        answer = await pending
        assert (answer.status, detail(answer)) == (200, "")


async def test_an_exchange_that_is_not_there_is_such_a_failure() -> None:
    clock = HandClock()
    async with FakeBybit(clock=clock) as exchange:
        port = exchange.port
        async with gateway(f"http://127.0.0.1:{port}", clock=clock, retry__enabled="false") as app:
            await ask(app, LATEST)
            await exchange.__aexit__()
            await clock.leap(10)
            answer, unknown = await ask(app, LATEST), await ask(app, INFO)

        assert status(answer) == "bybit-gateway; hit; ttl=-8; detail=stale-if-error"
        assert (unknown.status, unknown.get("X-Gateway")) == (502, "upstream-unreachable")


async def test_an_answer_that_can_change_is_not_given_for_ever() -> None:
    async with counter(cache__stale_if_error="20s") as here:
        await told(here)
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(21.9)
        last = await told(here)
        await here.clock.leap(0.2)
        over = await told(here)

        assert (status(last), detail(last)) == ("bybit-gateway; hit; ttl=-20; detail=stale-if-error", "stale-if-error")
        assert (over.status, over.body) == (503, b"Service Unavailable")


async def test_closed_candles_are_given_however_old() -> None:
    async with counter(cache__closed_ttl="1h") as here:
        first = await told(here, CLOSED)
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(30 * 86_400)
        answer = await told(here, CLOSED)

        assert answer.body == first.body
        assert (ttl(answer), detail(answer)) == (3_600 - 30 * 86_400, "stale-if-error")


async def test_pages_that_nobody_has_asked_for_yet_are_put_together_from_what_was_known() -> None:
    """As it was known last, for as long."""
    async with counter() as here:
        await told(here, target("BTCUSDT", limit=200))
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(10)
        answer = await told(here, target("BTCUSDT", limit=7))
        await here.clock.leap(60)
        over = await told(here, target("BTCUSDT", limit=7))

        assert status(answer) == "bybit-gateway; hit; ttl=-8; detail=stale-if-error"
        assert answer.body.count(b'["') == 7
        assert over.status == 503


@pytest.mark.parametrize(("stale", "given_s"), [("10s", 10), ("0s", 0), ("3m", 180)])
async def test_a_rule_says_how_long_for_its_own_answers(stale: str, given_s: int) -> None:
    rules = [{"endpoint": ["instruments-info"], "ttl": "30s", "stale": stale}]
    async with counter(cache__rules=rules, cache__stale_if_error="60s") as here:
        await told(here, INFO)
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(30 + given_s - 0.001)
        if given_s:
            assert detail(await told(here, INFO)) == "stale-if-error"
        await here.clock.leap(1.001)  # behind the second in which it is refreshed

        assert (await told(here, INFO)).status == 503


@pytest.mark.parametrize("stale", ["0s", "10s"])
async def test_a_rule_says_so_for_a_ban_too(stale: str) -> None:
    """Candles are given however old while nothing is sent; prices that somebody may trade by are not."""
    rules = [{"endpoint": ["tickers"], "ttl": "1s", "stale": stale}]
    tickers = "/v5/market/tickers?category=linear&symbol=BTCUSDT"
    async with counter(cache__rules=rules) as here:
        await told(here, tickers)
        await told(here)
        here.app.egress.strike()
        await here.clock.leap(8)
        soon = await told(here, tickers)
        await here.clock.leap(200)
        late, candles = await told(here, tickers), await told(here)

        assert detail(soon) == ("banned" if stale == "10s" else "")
        assert (late.status, late.get("X-Gateway")) == (403, "banned")
        assert (candles.status, detail(candles)) == (200, "banned")


@pytest.mark.parametrize(
    "fault",
    [{"kind": "ret_code", "ret_code": 10001}, {"kind": "geo_block"}, {"kind": "cloudfront_html"}],
    ids=["bad parameter", "blocked country", "a page"],
)
async def test_what_the_exchange_means_is_passed_on(fault: dict[str, Any]) -> None:
    """It is not in trouble: it says no."""
    async with counter() as here:
        await told(here)
        await here.clock.leap(10)
        here.exchange.faults.add(fault)

        assert not was_hit(await told(here))


async def test_when_the_budget_is_used_up_the_last_answer_is_better_than_a_refusal() -> None:
    limits = [{"name": "one", "quota": "1/1h", "when_full": "refuse", "counts": "upstream"}]
    async with counter(limits=limits) as here:
        await told(here)
        await here.clock.leap(10)
        answer, other = await told(here), await told(here, INFO)
        await here.clock.leap(60)
        late = await told(here)

        assert (answer.status, status(answer)) == (200, "bybit-gateway; hit; ttl=-8; detail=limited")
        assert answer.get("X-Gateway") is None
        assert [(each.status, each.get("X-Gateway")) for each in (other, late)] == [(429, "rate-limit")] * 2
        assert here.exchange.stats.requests == 1


async def test_who_has_to_ask_for_himself_and_may_not_gets_the_last_answer_too() -> None:
    """The answer to the first of five is his alone, and there is no budget for the others."""
    limits = [{"name": "two", "quota": "2/1h", "when_full": "refuse", "counts": "upstream"}]
    async with counter(limits=limits) as here:
        await told(here)
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "delay", "delay_us": 50_000})
        here.exchange.faults.add({"kind": "geo_block"})
        asking = asyncio.gather(*(told(here) for _ in range(5)))
        await until(lambda: here.counted("gateway_collapsed_requests_total", endpoint="kline") == 4)
        await until(lambda: here.clock.due_s == 0.05)
        await here.clock.leap(0.05)
        answers = await asking

        assert sorted((each.status, detail(each)) for each in answers) == [(200, "limited")] * 4 + [(403, "")]
        assert here.exchange.stats.requests == 2


async def test_while_the_breaker_is_open_candles_are_given_however_old() -> None:
    breaker = {"breaker__least_calls": "2", "breaker__open": "10m", "breaker__failures": "50"}
    async with counter(**breaker) as here:
        await told(here)
        await told(here, INFO)
        here.exchange.faults.add({"kind": "status", "status": 503})
        await here.clock.leap(70)
        for _ in range(3):
            await told(here, "/v5/market/time")
        before = here.exchange.stats.requests
        candles, late = await told(here), await told(here, target("ETHUSDT"))
        soon = await told(here, INFO)
        await here.clock.leap(100)
        over = await told(here, INFO)

        assert (candles.status, status(candles)) == (200, "bybit-gateway; hit; ttl=-68; detail=breaker")
        assert (soon.status, detail(soon)) == (200, "breaker")
        assert [(each.status, each.get("X-Gateway")) for each in (late, over)] == [(503, "breaker-open")] * 2
        assert here.exchange.stats.requests == before


@pytest.mark.parametrize("line", ["max-age=5", "max-stale=5", "min-fresh=1", "no-cache", "no-store"])
async def test_who_says_how_old_it_may_be_rather_gets_the_failure(line: str) -> None:
    async with counter() as here:
        await told(here)
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "status", "status": 503})

        assert (await told(here, LATEST, f"Cache-Control: {line}")).status == 503


async def test_who_allows_for_it_gets_it() -> None:
    async with counter() as here:
        await told(here)
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "status", "status": 503})
        answers = [await told(here, LATEST, f"Cache-Control: {line}") for line in ("max-stale=8", "max-stale")]

        assert [each.status for each in answers] == [200, 200]
