"""What clients may say with Cache-Control of the answers that they take (RFC 9111, 5.2.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests.by_hand import Desk, desk
from tests.cached import CLOSED, HIT, INFO, LATEST, REQUEST, STORED, ask, detail, status, ttl, was_hit
from tests.raw_http import RawAnswer

QUIET: Final = {"retry__enabled": "false", "candles__boundary__enabled": "false"}
KINDS: Final = pytest.mark.parametrize("asked", [CLOSED, LATEST, INFO], ids=["closed", "open", "a rule's"])


@asynccontextmanager
async def counter(**overrides: Any) -> AsyncIterator[Desk]:
    async with desk(**{**QUIET, **overrides}) as made:
        yield made


async def told(here: Desk, asked: str, *directives: str) -> RawAnswer:
    """Each on a line of its own."""
    return await ask(here.app, asked, *(f"Cache-Control: {each}" for each in directives))


def sent(here: Desk) -> list[str]:
    """What the exchange was asked."""
    return [entry.target for entry in here.exchange.record.entries]


@KINDS
@pytest.mark.parametrize("directive", ["no-cache", "no-store", "No-Cache", "max-age=60, no-cache", "private, no-store"])
async def test_who_refuses_what_is_kept_is_asked_for(asked: str, directive: str) -> None:
    """Each time, and the others go on with what there is."""
    async with counter() as here:
        first = await told(here, asked)
        answers = [await told(here, asked, directive) for _ in range(2)]
        others = await told(here, asked)

        assert [status(each) for each in answers] == [REQUEST] * 2
        assert [each.get("Age") for each in answers] == [None] * 2
        assert was_hit(others)
        assert others.body == first.body
        assert sent(here) == [asked] * 3


@KINDS
async def test_an_answer_that_is_young_enough_is_given(asked: str) -> None:
    async with counter(cache__open_ttl="30s") as here:
        await told(here, asked)
        await here.clock.leap(9.9)

        assert was_hit(await told(here, asked, "max-age=10"))
        assert was_hit(await told(here, asked, "min-fresh=5"))
        assert was_hit(await told(here, asked, "max-age=0, max-stale=10"))


@KINDS
@pytest.mark.parametrize("directive", ["max-age=10", "min-fresh=9999999", "max-age=60, max-age=5", "max-age=0"])
async def test_one_that_is_not_is_fetched_anew_for_all(asked: str, directive: str) -> None:
    """The client's own request, as it is, whatever is known of the candles in it; and others have the good of it."""
    async with counter(cache__open_ttl="30s") as here:
        await told(here, asked)
        await here.clock.leap(10.1)
        answer = await told(here, asked, directive)
        others = await told(here, asked)

        assert status(answer) == STORED
        assert (was_hit(others), others.get("Age")) == (True, "0")
        assert others.body == answer.body
        assert sent(here) == [asked] * 2


@pytest.mark.parametrize("directive", ["max-stale=3", "max-stale", "max-stale=99999999999999"])
@pytest.mark.parametrize(("asked", "life_s"), [(LATEST, 2), (INFO, 60)], ids=["candles", "a rule's"])
async def test_who_takes_an_old_answer_gets_one(asked: str, life_s: int, directive: str) -> None:
    """Of so many seconds past its time, without the exchange being asked."""
    async with counter() as here:
        first = await told(here, asked)
        await here.clock.leap(life_s + 2.9)
        answer = await told(here, asked, directive)
        await here.clock.leap(0.2)
        over = await told(here, asked, "max-stale=3")

        assert status(answer) == f"{HIT}-3; detail=max-stale"
        assert answer.body == first.body
        assert answer.get("Age") == str(life_s + 2)
        assert not was_hit(over)
        assert len(sent(here)) == 2


async def test_who_takes_only_what_is_kept_is_never_asked_for() -> None:
    async with counter() as here:
        nothing = await told(here, LATEST, "only-if-cached")
        await told(here, LATEST)
        kept = await told(here, LATEST, "only-if-cached")
        young = await told(here, LATEST, "only-if-cached, max-age=1")
        await here.clock.leap(5)
        old = await told(here, LATEST, "only-if-cached")
        taken = await told(here, LATEST, "only-if-cached, max-stale=10")
        younger = await told(here, LATEST, "only-if-cached, max-stale=10, max-age=1")

        assert [each.status for each in (nothing, old)] == [504, 504]
        assert nothing.get("X-Gateway") == "only-if-cached"
        assert [detail(each) for each in (kept, young, taken)] == ["", "", "max-stale"]
        # RFC 9111, 5.2.1: max-stale counts beyond max-age as well.
        assert was_hit(younger)
        assert sent(here) == [LATEST]


async def test_that_holds_while_the_exchange_is_in_trouble() -> None:
    async with counter() as here:
        await told(here, LATEST)
        await here.clock.leap(10)
        here.exchange.faults.add({"kind": "status", "status": 503})

        assert (await told(here, LATEST, "only-if-cached")).status == 504
        assert detail(await told(here, LATEST)) == "stale-if-error"


@pytest.mark.parametrize("line", ["max-age=60", "no-cache"])
async def test_two_lines_are_one_list(line: str) -> None:
    other = "no-cache" if line == "max-age=60" else "max-age=60"
    async with counter() as here:
        await told(here, CLOSED)

        assert status(await told(here, CLOSED, line, other)) == REQUEST


@pytest.mark.parametrize(
    "directive",
    [
        *("", ",,,", "max-age", "max-age=-1", "max-age=1x", "min-fresh=", "public", "no-transform", "s-maxage=0"),
        *("nocache", "=no-cache", "x" * 3_000 + ", no-cache"),
    ],
)
async def test_what_cannot_be_read_says_nothing(directive: str) -> None:
    async with counter() as here:
        await told(here, CLOSED)
        await here.clock.leap(1)

        assert ttl(await told(here, CLOSED, directive)) == 604_799


async def test_it_means_nothing_where_nothing_is_kept() -> None:
    """It is passed on: the exchange may know what to do with it."""
    async with counter() as here:
        answer = await ask(here.app, "/v5/market/time", "Cache-Control: only-if-cached")

        assert (answer.status, answer.get("Cache-Status")) == (200, None)
        assert ["Cache-Control", "only-if-cached"] in here.exchange.record.entries[0].headers()
