"""Nothing that one client sends changes what another is told."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from jwt import encode

from tests.by_hand import desk
from tests.cached import (
    BYPASS,
    CLOSED,
    INFO,
    STORED,
    ask,
    by_request,
    candles,
    detail,
    envelope,
    raw,
    status,
    turning,
    unlike,
    was_hit,
)
from tests.gateway_fixture import gateway
from tests.recorder import Answer, Seen, answering, recorder

GOOD, EVIL = "1", "666"
TRICKS: Final = [
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Scheme: nothttps",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Port: 1",
    "X-Forwarded-For: 127.0.0.1",
    "Forwarded: for=127.0.0.1;host=evil.example",
    "X-Real-IP: 127.0.0.1",
    "Via: 1.1 evil",
    "X-HTTP-Method-Override: POST",
    "X-HTTP-Method: DELETE",
    "X-Method-Override: PUT",
    "X-Original-URL: /v5/market/kline?category=spot&symbol=BTCUSDT&interval=1",
    "X-Rewrite-URL: /v5/account/info",
    "Range: bytes=0-1",
    "If-Range: x",
    "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    "If-Match: x",
    "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    'If-None-Match: "theirs"',
    "If-None-Match: *",
    "If-None-Match: nonsense",
    "Origin: https://evil.example",
    "Cookie: sid=1",
    "Authorization: Basic eDp5",
    "Authorization: Bearer token",
    "Accept: text/csv",
    "Accept: text/html, application/xhtml+xml",
    "X-BAPI-API-KEY: k",
    "X-BAPI-SIGN: s",
]


def reacting_to(line: str) -> Answer:
    """An exchange that answers otherwise to this very header, and well enough to be kept."""
    name, _, value = line.partition(": ")

    def answer(request: Seen) -> bytes:
        named = any((each.lower(), given) == (name.lower().encode(), value.encode()) for each, given in request.headers)
        price = EVIL if named else GOOD
        return raw(candles(price) if b"kline" in request.target else envelope({"list": [price]}))

    return by_request(answer)


@pytest.mark.parametrize("asked", [CLOSED, INFO], ids=["candles", "a rule's"])
@pytest.mark.parametrize("line", TRICKS)
async def test_what_a_header_makes_of_an_answer_reaches_nobody_else(line: str, asked: str) -> None:
    """Who sends it gets what he asked for; the rest what the exchange tells everybody."""
    good = candles(GOOD) if asked == CLOSED else envelope({"list": [GOOD]})
    async with recorder(reacting_to(line)) as upstream, gateway(upstream.url) as app:
        await ask(app, asked, line)
        others = [await ask(app, asked), await ask(app, asked)]

        assert [each.body for each in others] == [good] * 2
        assert was_hit(others[1])


@pytest.mark.parametrize("asked", [CLOSED, INFO], ids=["candles", "a rule's"])
@pytest.mark.parametrize("line", [each for each in TRICKS if "X-BAPI" not in each])
async def test_nor_those_who_ask_at_the_same_moment(line: str, asked: str) -> None:
    good = candles(GOOD) if asked == CLOSED else envelope({"list": [GOOD]})
    release, reacting = asyncio.Event(), reacting_to(line)

    async def later(request: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await reacting(request, writer)

    async with recorder(later) as upstream, gateway(upstream.url) as app:
        first = asyncio.gather(ask(app, asked, line))
        while not upstream.seen:
            await asyncio.sleep(0.005)
        others = asyncio.gather(*(ask(app, asked) for _ in range(3)))
        while len(upstream.seen) + app.metrics.collapsed.labels(upstream_endpoint(asked))._value.get() < 4:
            await asyncio.sleep(0.005)
        release.set()
        await first

        assert {each.body for each in await others} == {good}


def upstream_endpoint(asked: str) -> str:
    return asked.partition("?")[0].rpartition("/")[2]


async def test_what_proxies_have_noted_does_not_keep_an_answer_from_the_others() -> None:
    """A proxy in front of the gateway that nobody has declared adds such lines to every request. They say nothing to
    the exchange: what is fetched for all goes without them."""
    lines = [
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: gateway.local",
        "X-Forwarded-Server: x",
        "X-Real-IP: 10.0.0.1",
    ]
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        first = await ask(app, CLOSED, *lines, "User-Agent: bot/1", "X-Own: 1", "X-Own: 2", "Referer: CCXT")
        second = await ask(app, CLOSED, *lines)

        assert (status(first), was_hit(second)) == (STORED, True)
        named = [(name, value) for name, value in upstream.seen[0].headers if name != b"Host"]
        assert named == [(b"User-Agent", b"bot/1"), (b"X-Own", b"1"), (b"X-Own", b"2"), (b"Referer", b"CCXT")]


async def test_a_token_for_the_gateway_is_no_reason_to_fetch_alone() -> None:
    """Authorization that speaks to us ends here: the exchange does not see it, so the answer is for everybody."""
    jwt = {"secret": "a-secret-of-thirty-two-bytes-or-more", "algorithms": ["HS256"]}
    token = encode({"sub": "bot", "exp": 4_000_000_000}, jwt["secret"], "HS256")
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url, identity__jwt=jwt) as app:
        first = await ask(app, CLOSED, f"Authorization: Bearer {token}")
        second = await ask(app, CLOSED, f"Authorization: Bearer {token}")

        assert [status(first), was_hit(second)] == [STORED, True]
        assert b"authorization" not in upstream.seen[0].names()
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("vary", ["Origin", "*", "Accept-Encoding, Origin", "User-Agent", "accept-encoding,x-trick"])
@pytest.mark.parametrize("asked", [CLOSED, INFO], ids=["candles", "a rule's"])
async def test_an_answer_that_differs_by_more_than_its_coding_is_for_one(vary: str, asked: str) -> None:
    """The exchange says so: neither kept, nor learned from, nor given to those who wait."""
    release = asyncio.Event()
    bodies = [candles(GOOD), candles(EVIL)] if asked == CLOSED else [envelope([1]), envelope([2])]
    replies = turning(*(raw(body, f"Vary: {vary}") for body in (*bodies, bodies[1])))

    async def later(request: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await replies(request, writer)

    async with recorder(later) as upstream, gateway(upstream.url) as app:
        first = asyncio.gather(ask(app, asked))
        while not upstream.seen:
            await asyncio.sleep(0.005)
        second = asyncio.gather(ask(app, asked))
        while not app.metrics.collapsed.labels(upstream_endpoint(asked))._value.get():
            await asyncio.sleep(0.005)
        release.set()
        ((one,), (other,)) = await first, await second
        third = await ask(app, asked)

        assert [one.body, other.body, third.body] == [bodies[0], bodies[1], bodies[1]]
        assert not was_hit(third)
        assert len(upstream.seen) == 3


async def test_a_page_of_somebody_in_between_is_for_the_one_who_provoked_it() -> None:
    """200 and no answer of the exchange: a firewall's question to an odd User-Agent. The others ask for themselves."""
    release = asyncio.Event()

    def answer(request: Seen) -> bytes:
        odd = dict(request.headers).get(b"User-Agent") == b"odd"
        return raw(b"<html>are you a robot?</html>") if odd else raw(candles())

    async def later(request: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(answer(request))

    async with recorder(later) as upstream, gateway(upstream.url) as app:
        odd = asyncio.gather(ask(app, CLOSED, "User-Agent: odd"))
        while not upstream.seen:
            await asyncio.sleep(0.005)
        others = asyncio.gather(*(ask(app, CLOSED) for _ in range(3)))
        while app.metrics.collapsed.labels("kline")._value.get() < 3:
            await asyncio.sleep(0.005)
        release.set()
        ((page,), good) = await odd, await others

        assert page.body.startswith(b"<html>")
        assert {each.body for each in good} == {candles()}


@pytest.mark.parametrize("coding", ["gzip, evil", "evil", "gzip\t;q=1", "*;q=0.001", ",gzip,", "identity;q=0"])
async def test_an_odd_wish_for_a_coding_spoils_nothing(coding: str) -> None:
    def answer(request: Seen) -> bytes:
        wished = dict(request.headers).get(b"Accept-Encoding", b"")
        return raw(b"not to be read", "Content-Encoding: evil") if b"evil" in wished else raw(candles())

    async with recorder(by_request(answer)) as upstream, gateway(upstream.url) as app:
        await ask(app, CLOSED, f"Accept-Encoding: {coding}")
        plain = await ask(app, CLOSED)

        assert (plain.body, plain.get("Content-Encoding")) == (candles(), None)
        assert len(upstream.seen) <= 2


POISONED: Final = [
    "/v5/market/kline?category=linear&symbol=ETHUSDT&interval=1&start=1770000000000&end=1770000600000&symbol=BTCUSDT",
    "/v5/market/kline?symbol=ETHUSDT&category=linear&symbol=BTCUSDT&interval=1&start=1770000000000&end=1770000600000",
    CLOSED + "&symbol=ETHUSDT",
    CLOSED + "&Symbol=ETHUSDT",
    CLOSED + "&symbol%00=ETHUSDT",
    CLOSED.replace("BTCUSDT", "BTCUSDT%26symbol=ETHUSDT"),
    CLOSED.replace("BTCUSDT", "BTCUSDT;symbol=ETHUSDT"),
    CLOSED.replace("BTCUSDT", "btcusdt"),
    CLOSED.replace("BTCUSDT", "%42TCUSDT"),
    CLOSED.replace("BTCUSDT", "BTCUSDT%20"),
    CLOSED.replace("BTCUSDT", "BTCUSDT:1:kline:1770000000000:1770000600000:-"),
    CLOSED.replace("interval=1&", "interval=01&"),
    CLOSED.replace("start=1770000000000", "start=01770000000000"),
    CLOSED.replace("start=1770000000000", "start=+1770000000000"),
    CLOSED.replace("start=1770000000000", "start=1770000000000.0"),
    CLOSED.replace("start=1770000000000", "start=１770000000000"),
    CLOSED + "&limit=",
    CLOSED + "&limit=0",
    CLOSED + "&limit=1001",
    CLOSED + "&cb=1",
    CLOSED + "#fragment",
    "/" + CLOSED,
    CLOSED.replace("/v5/market", "/v5/market/."),
    CLOSED.replace("/v5/market/kline", "/v5/market/kline/"),
    CLOSED.replace("/v5/market/kline", "/v5/market/%6bline"),
    CLOSED.replace("/v5/market/kline", "/V5/market/kline"),
    CLOSED.replace("kline", "mark-price-kline"),
    CLOSED.replace("category=linear", "category=inverse"),
    CLOSED.replace("category=linear&", ""),
    CLOSED.replace("category=linear", "category="),
]


@pytest.mark.parametrize("odd", POISONED)
async def test_no_other_way_to_ask_has_a_part_in_an_answer(odd: str) -> None:
    """An exchange that makes of each target another answer: what is kept for one is never given for another."""

    def answer(request: Seen) -> bytes:
        return raw(candles(GOOD if request.target.decode() == CLOSED else EVIL))

    async with recorder(by_request(answer)) as upstream, gateway(upstream.url) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(f"GET {odd} HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n".encode())
        await reader.read()  # whatever it is: some of these are refused
        writer.close()
        mine = [await ask(app, CLOSED), await ask(app, CLOSED)]

        assert [each.body for each in mine] == [candles(GOOD)] * 2
        assert upstream.seen[-1].target.decode() == CLOSED


async def test_a_body_changes_nothing() -> None:
    """A GET that carries one is the same question; none of it goes on."""
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        body = b"symbol=ETHUSDT"
        writer.write(f"GET {CLOSED} HTTP/1.1\r\nHost: me\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert was_hit(await ask(app, CLOSED))
        assert [seen.body for seen in upstream.seen] == [b""]


async def test_who_provokes_an_error_does_not_take_the_others_answer_away() -> None:
    """A kept answer is given on whatever one client makes the exchange say."""
    async with desk(candles__boundary__enabled="false") as here:
        first = await ask(here.app, CLOSED)
        here.exchange.faults.add({"kind": "status", "status": 500})
        for line in ("Cache-Control: no-cache", "Cache-Control: max-age=0"):
            await here.clock.leap(1)
            assert (await ask(here.app, CLOSED, line)).status == 500
        mine = await ask(here.app, CLOSED)

        assert (mine.status, unlike(mine.body), detail(mine)) == (200, unlike(first.body), "")


async def test_what_is_nobody_elses_says_so() -> None:
    async with recorder(answering(raw(candles()))) as upstream, gateway(upstream.url) as app:
        answers = [
            await ask(app, CLOSED, line) for line in ("Cookie: a=b", "X-HTTP-Method-Override: GET", "Accept: a/b")
        ]

        assert [status(each) for each in answers] == [BYPASS] * 3
        assert [b"cookie" in upstream.seen[0].names(), b"accept" in upstream.seen[2].names()] == [True, True]
