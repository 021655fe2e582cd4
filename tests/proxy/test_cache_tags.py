"""Entity tags: who has an answer already is told so in a few bytes (RFC 9110, 8.8.3 and 13.1.2)."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import pytest

from tests.by_hand import beside, desk, target
from tests.cached import (
    BYPASS,
    CLOSED,
    INFO,
    LATEST,
    NOT_STORED,
    STORED,
    ask,
    candles,
    get,
    raw,
    status,
    unlike,
    was_hit,
)
from tests.gateway_fixture import gateway
from tests.raw_http import RawAnswer, read_answer
from tests.recorder import answering, recorder

RANGE: Final = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&start={}&end={}"
WHOLE: Final = RANGE.format(1_770_000_000_000, 1_770_003_000_000)


def tag(answer: RawAnswer) -> str:
    return answer.get("ETag") or ""


@pytest.mark.parametrize("asked", [CLOSED, LATEST, INFO], ids=["closed", "open", "a rule's"])
async def test_an_answer_has_a_weak_tag_and_a_hit_the_same(asked: str) -> None:
    async with desk() as here:
        first, hit = await ask(here.app, asked), await ask(here.app, asked)

        assert (status(first), was_hit(hit)) == (STORED, True)
        assert tag(first).startswith('W/"bg-')
        assert first.all("ETag") == hit.all("ETag") == [tag(first)]


async def test_two_answers_that_say_the_same_have_one_tag() -> None:
    """Fetched a day apart, by another gateway, or put together from a longer one: only the stamp differs."""
    async with desk() as here, beside(here.exchange, here.clock) as other:
        fetched = await ask(here.app, CLOSED)
        await here.clock.leap(86_400)
        elsewhere = await ask(other.app, CLOSED)
        anew = await ask(here.app, CLOSED, "Cache-Control: max-age=1")
        async with beside(here.exchange, here.clock) as third:
            await ask(third.app, WHOLE)
            assembled = await ask(third.app, CLOSED)

        answers = [fetched, elsewhere, anew, assembled]
        assert [was_hit(each) for each in answers] == [False, False, False, True]
        assert len({each.body for each in answers}) > 1
        assert len({unlike(each.body) for each in answers}) == 1
        assert len({tag(each) for each in answers}) == 1


async def test_answers_that_say_otherwise_do_not_share_one() -> None:
    async with desk() as here:
        asked = [CLOSED, WHOLE, INFO, LATEST, target("BTCUSDT", limit=6), target("ETHUSDT", limit=6)]
        tags = [tag(await ask(here.app, each)) for each in asked]
        await here.to_the_next()
        later = tag(await ask(here.app, LATEST))

        assert len({*tags, later}) == len(asked) + 1


def is_not_modified(answer: RawAnswer, known: str) -> None:
    names = {name.lower() for name, _ in answer.headers}
    assert (answer.status, answer.reason, answer.body) == (304, "Not Modified", b"")
    assert answer.all("ETag") == [known]
    assert answer.get("Vary") == "Accept-Encoding"
    assert {"x-request-id", "cache-status", "server-timing"} <= names
    assert not names & {"content-length", "content-encoding", "content-type", "transfer-encoding"}


@pytest.mark.parametrize(
    "line",
    ["{}", "{strong}", '"other", {}', "{},", '  {}  , W/"x"', "*", '"a,b", {}'],
)
async def test_who_has_it_is_told_so_from_the_cache(line: str) -> None:
    """Weakly compared, in a list, in any form that is allowed."""
    async with desk() as here:
        known = tag(await ask(here.app, CLOSED))
        value = line.replace("{strong}", known.removeprefix("W/")).replace("{}", known)
        answer = await ask(here.app, CLOSED, f"If-None-Match: {value}")

        is_not_modified(answer, known)
        assert (was_hit(answer), answer.get("Age")) == (True, "0")
        assert here.asked() == 1


async def test_two_lines_of_tags_are_one_list() -> None:
    async with desk() as here:
        known = tag(await ask(here.app, CLOSED))
        answer = await ask(here.app, CLOSED, 'If-None-Match: "other"', f"If-None-Match: {known}")

        is_not_modified(answer, known)


async def test_who_has_it_is_told_so_when_it_must_be_fetched() -> None:
    """By a gateway that does not have it; the exchange sees nothing of our tags."""
    async with desk() as here, beside(here.exchange, here.clock) as other:
        known = tag(await ask(here.app, CLOSED))
        miss = await ask(other.app, CLOSED, f"If-None-Match: {known}")
        hit = await ask(other.app, CLOSED)

        is_not_modified(miss, known)
        assert status(miss) == STORED
        assert was_hit(hit)
        assert json.loads(hit.body)["retCode"] == 0
        assert [
            name for each in here.exchange.record.entries for name, _ in each.headers() if "none" in name.lower()
        ] == []


async def test_who_has_it_is_told_so_when_it_is_put_together_of_old_and_new() -> None:
    async with desk() as here, beside(here.exchange, here.clock) as other:
        await ask(here.app, target("BTCUSDT", limit=100))
        await here.clock.leap(10)
        known = tag(await ask(other.app, LATEST))
        answer = await ask(here.app, LATEST, f"If-None-Match: {known}")

        is_not_modified(answer, known)
        assert status(answer) == "bybit-gateway; fwd=partial; fwd-status=200; stored"


async def test_all_who_wait_for_one_fetch_are_told_so() -> None:
    release = asyncio.Event()

    async def later(_: object, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(raw(candles()))

    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        known = tag(await ask(app, CLOSED))
    async with recorder(later) as upstream, gateway(upstream.url) as app:
        asking = asyncio.gather(*(ask(app, CLOSED, f"If-None-Match: {known}") for _ in range(5)), ask(app, CLOSED))
        while app.metrics.collapsed.labels("kline")._value.get() < 5:
            await asyncio.sleep(0.005)
        release.set()
        *having, lacking = await asking

        for answer in having:
            is_not_modified(answer, known)
        assert (lacking.status, lacking.body) == (200, candles())
        assert len(upstream.seen) == 1


async def test_the_connection_serves_on_behind_it() -> None:
    """304, the whole, 304 again, all on one socket and sent ahead: no byte too many, none too few."""
    async with desk() as here:
        first = await ask(here.app, CLOSED)
        known = f"If-None-Match: {tag(first)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", here.app.port)
        writer.write(
            get(CLOSED, known) + get(CLOSED) + get(WHOLE) + get(CLOSED, known) + get(CLOSED, "Connection: close")
        )
        async with asyncio.timeout(10):
            answers = [await read_answer(reader) for _ in range(5)]
            rest = await reader.read()
        writer.close()

        assert [each.status for each in answers] == [304, 200, 200, 304, 200]
        assert answers[1].body == answers[4].body == first.body
        assert rest == b""


@pytest.mark.parametrize("line", ['"theirs"', 'W/"theirs"', '"theirs", {}', "not a tag", '"bg-', "*"])
async def test_foreign_tags_go_to_the_exchange_as_they_are(line: str) -> None:
    """Where there is no answer at hand; such an answer is for nobody else."""
    not_modified = b'HTTP/1.1 304 Not Modified\r\nETag: "theirs"\r\n\r\n'
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        known = tag(await ask(app, CLOSED))
    async with recorder(answering(not_modified)) as upstream, gateway(upstream.url) as app:
        value = line.replace("{}", known)
        answer = await ask(app, CLOSED, f"If-None-Match: {value}")

        assert (answer.status, status(answer), answer.get("ETag")) == (304, BYPASS, '"theirs"')
        assert dict(upstream.seen[0].headers)[b"If-None-Match"] == value.encode()


@pytest.mark.parametrize("line", ['"theirs"', "not a tag", '"bg-000000000000000000000000"', 'W/"bg-"', "{half}"])
async def test_who_has_something_else_gets_the_whole(line: str) -> None:
    """Forged or mistaken: nobody is told that he has what he has not."""
    async with desk() as here:
        first = await ask(here.app, CLOSED)
        answer = await ask(here.app, CLOSED, f"If-None-Match: {line.replace('{half}', tag(first)[:-2])}")

        assert (answer.status, was_hit(answer), answer.body) == (200, True, first.body)


async def test_a_new_answer_has_a_new_tag() -> None:
    async with desk() as here:
        first = await ask(here.app, LATEST)
        await here.clock.leap(10)
        second = await ask(here.app, LATEST, f"If-None-Match: {tag(first)}")

        assert second.status == 200
        assert tag(second) not in {"", tag(first)}


async def test_an_error_has_none() -> None:
    async with desk() as here:
        answer = await ask(here.app, target("NOSUCHUSDT"), "If-None-Match: *")
        again = await ask(here.app, target("NOSUCHUSDT"))

        assert [each.status for each in (answer, again)] == [200, 200]
        assert status(again) == NOT_STORED
        assert [tag(each) for each in (answer, again)] == ["", ""]


async def test_they_can_be_switched_off() -> None:
    """Then nothing is said of them, and who comes with one gets the whole."""
    async with desk(cache__etag="false") as here:
        answers = [await ask(here.app, CLOSED) for _ in range(2)]
        known = await ask(here.app, CLOSED, 'If-None-Match: W/"bg-000000000000000000000000"')

        assert [tag(each) for each in answers] == ["", ""]
        assert known.status == 200
