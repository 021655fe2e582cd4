"""Asking a gateway until there is an answer: as it tells, as long as it makes sense, and never more at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from policies import bybit
from policies.admission import Charge, Quota, Refused, RefuseWith, Why
from proxy import errors
from proxy.download.asking import Asker, RunEnded, SymbolRefused
from proxy.errors import Broken
from proxy.wire import Whole
from tests.recorder import Recorder, Seen, recorder

NOW_US = 1_800_000_000_000_000
ID = b"1"


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now_us = NOW_US
        self.slept: list[float] = []

    def clock(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now_us += round(seconds * 1e6)
        await asyncio.sleep(0)


def data(answer: Whole) -> bytes:
    return answer._head_bytes + b"\r\n" + answer._body_bytes


def told(code: int, *headers: tuple[str, int], time_ms: int = NOW_US // 1000) -> bytes:
    body = bybit.envelope(code, "said so", time_ms)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reset_in(ms: int) -> bytes:
    return told(10006, ("X-Bapi-Limit", 10), ("X-Bapi-Limit-Reset-Timestamp", NOW_US // 1000 + ms))


def limited(wait_us: int, style: RefuseWith = RefuseWith.HTTP) -> bytes:
    """As the gateway refuses."""
    charge = Charge(Quota("per-ip", 300, 5_000_000, ("ip",), refuse_with=style), ("per-ip",), 1)
    return data(errors.limited(Refused(Why.FULL, charge, wait_us), ID, NOW_US))


def status(code: int, text: str = "", *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {code} Whatever\r\n{lines}Content-Length: {len(text)}\r\n\r\n{text}".encode()


GOOD = told(0)
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"


@asynccontextmanager
async def asking(
    *answers: bytes, parallel: int = 4, patience_s: float = 900, **headers: str
) -> AsyncIterator[tuple[Asker, Time, Recorder, list[tuple[str, float]]]]:
    """The answers in this order, and then good ones."""
    left = list(answers)

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        said = left.pop(0) if left else GOOD
        writer.write(said)
        if said is CUT_OFF:
            await writer.drain()
            writer.close()

    time, waits = Time(), []

    def note(reason: str, wait_us: int) -> None:
        waits.append((reason, wait_us / 1e6))

    async with recorder(answer) as gateway, aiohttp.ClientSession() as session:
        asker = Asker(
            session,
            gateway.url,
            headers=headers,
            parallel=parallel,
            patience_us=int(patience_s * 1e6),
            told=note,
            clock=time.clock,
            sleep=time.sleep,
        )
        yield asker, time, gateway, waits


@pytest.mark.parametrize(
    ("what", "answer", "seconds"),
    [
        ("a refusal of the gateway, to the millisecond", limited(1_234_000), 1.234),
        ("a refusal in the exchange's words", limited(1_500_000, RefuseWith.BYBIT), 1.5),
        ("a reset by the exchange's clock", reset_in(700), 0.7),
        ("a reset that has passed", reset_in(0), 0.5),
        ("no word of when", told(10006), 0.5),
        ("429 of the exchange", status(429, "", "Retry-After: 3"), 3.0),
        ("429 without a word", status(429), 0.5),
        ("the exchange as a whole is asked for too much", told(10429), 0.5),
        ("a ban, told by the gateway", data(errors.banned(600_000_000, ID)), 600.0),
        ("a ban, told by the exchange", status(403, "access too frequent"), 0.5),
        ("the breaker is open", data(errors.broken(Broken(4_200_000), ID)), 5.0),
        ("the exchange cannot be reached", data(errors.not_sent("upstream-unreachable", ID)), 0.5),
        ("its answer broke off", data(errors.broken_answer("upstream-truncated", ID)), 0.5),
        ("no answer came", data(errors.fate_unknown("upstream-timeout", ID, 1, write=False)), 0.5),
        ("a server error of the exchange", told(10016), 0.5),
        ("a time-out of the exchange", told(10000), 0.5),
        ("a mistake of the gateway", data(errors.internal(ID)), 0.5),
        ("less than was promised", CUT_OFF, 0.5),
    ],
)  # fmt: skip
async def test_what_passes_is_waited_for_as_the_answer_tells(what: str, answer: bytes, seconds: float) -> None:
    async with asking(answer) as (asker, time, gateway, _):
        assert await asker.ask("/v5/market/time") == GOOD.partition(b"\r\n\r\n")[2]
        assert sum(time.slept) == pytest.approx(seconds)
        assert len(gateway.seen) == 2
        assert asker.asked == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (told(10001), r"said so \(retCode 10001\)"),
        (told(10027), "retCode 10027"),
    ],
)
async def test_what_the_exchange_refuses_is_this_symbols_end_and_told_in_its_words(answer: bytes, words: str) -> None:
    async with asking(answer) as (asker, time, gateway, _):
        with pytest.raises(SymbolRefused, match=words):
            await asker.ask("/v5/market/kline")
        assert (len(gateway.seen), time.slept) == (1, [])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(401, '{"retCode":10007}'), "X-Gateway-Token"),
        (status(403, "<html>The Amazon CloudFront distribution is configured to block</html>"), "refuses this address"),
        (status(404), "HTTP 404, which no gateway of the exchange answers"),
        (status(301, "", "Location: http://elsewhere/"), "HTTP 301"),
        (status(200, "<html>\x1b[2J router</html>"), r"not the exchange's API: <html> \[2J router"),
    ],
)
async def test_who_is_no_gateway_or_will_never_answer_ends_the_run_at_once(answer: bytes, words: str) -> None:
    async with asking(answer) as (asker, time, gateway, _):
        with pytest.raises(RunEnded, match=words):
            await asker.ask("/v5/market/kline")
        assert (len(gateway.seen), time.slept) == (1, [])


async def test_what_one_is_told_to_wait_for_everybody_waits_for() -> None:
    """The others do not find out one by one."""
    async with asking(limited(2_000_000), parallel=1) as (asker, time, gateway, waits):
        await asyncio.gather(*(asker.ask(f"/{number}") for number in range(5)))
        assert len(gateway.seen) == 6
        assert time.slept[0] == 2.0
        assert waits == [("too many requests (rate-limit)", 2.0)]


async def test_once_a_quota_is_known_questions_come_so_far_apart_that_it_need_not_refuse() -> None:
    """300 in 5 s: every 16.667 ms. Else each that expires would be fought for by all who wait."""
    async with asking(GOOD, GOOD, limited(100_000), parallel=8) as (asker, time, gateway, _):
        sent_us = []

        async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
            sent_us.append(time.now_us - NOW_US)
            await told_so(seen, writer)

        told_so, gateway.answer = gateway.answer, answer
        for number in range(12):
            await asker.ask(f"/{number}")
    assert sent_us[:3] == [0, 0, 0]
    assert sent_us[3:] == [100_000 + number * 16_667 for number in range(10)]


async def test_a_failure_of_one_question_does_not_hold_up_the_others() -> None:
    async with asking(data(errors.not_sent("upstream-dns", ID)), parallel=1) as (asker, time, gateway, _):
        await asyncio.gather(*(asker.ask(f"/{number}") for number in range(3)))
        assert [seen.target for seen in gateway.seen] == [b"/0", b"/1", b"/2", b"/0"]
        assert time.slept == [0.5]


async def test_failures_are_asked_again_ever_less_often_and_not_for_ever() -> None:
    async with asking(GOOD, *[told(10016)] * 30, patience_s=120) as (asker, time, _, __):
        await asker.ask("/first")
        with pytest.raises(RunEnded, match="retCode 10016; another try would make sense in 30s"):
            await asker.ask("/second")
        assert time.slept == [0.5, 1, 2, 4, 8, 16, 30, 30]


async def test_a_ban_longer_than_the_patience_is_told_and_not_waited_for() -> None:
    answer = data(errors.banned(1_200_000_000, ID))
    async with asking(answer) as (asker, time, _, __):
        with pytest.raises(RunEnded, match="banned this address; another try would make sense in 20m"):
            await asker.ask("/v5/market/kline")
        assert time.slept == []


async def test_a_ban_within_the_patience_is_sat_out_by_all() -> None:
    answer = data(errors.banned(600_000_000, ID))
    async with asking(answer, parallel=1) as (asker, time, gateway, waits):
        await asyncio.gather(*(asker.ask(f"/{number}") for number in range(3)))
        assert (time.slept, len(gateway.seen)) == ([600.0], 4)
        assert waits == [("the exchange has banned this address", 600.0)]


async def test_an_address_where_nobody_answers_is_told_soon() -> None:
    time = Time()
    async with aiohttp.ClientSession() as session:
        asker = Asker(
            session,
            "http://127.0.0.1:1",
            headers={},
            parallel=1,
            patience_us=900_000_000,
            told=lambda *_: None,
            clock=time.clock,
            sleep=time.sleep,
        )
        with pytest.raises(RunEnded, match=r"http://127\.0\.0\.1:1 does not answer"):
            await asker.ask("/v5/market/time")
    assert sum(time.slept) <= 10


async def test_never_more_questions_at_a_time_than_allowed() -> None:
    open_now, most = 0, 0
    release = asyncio.Event()

    async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if most == 3:
            asyncio.get_running_loop().call_later(0.05, release.set)  # room for a fourth, if there were one
        await release.wait()
        writer.write(GOOD)
        open_now -= 1

    async with asking(parallel=3) as (asker, _, gateway, __):
        gateway.answer = answer
        await asyncio.gather(*(asker.ask(f"/{number}") for number in range(12)))
    assert most == 3


async def test_questions_carry_the_users_headers_and_pass_by_caches_only_when_asked_anew() -> None:
    async with asking(**{"X-Gateway-Token": "let me in"}) as (asker, _, gateway, __):
        await asker.ask("/v5/market/kline?category=linear&symbol=A%2BB")
        await asker.ask("/v5/market/kline", anew=True)
    first, second = (dict(seen.headers) for seen in gateway.seen)
    assert gateway.seen[0].target == b"/v5/market/kline?category=linear&symbol=A%2BB"
    assert first[b"X-Gateway-Token"] == second[b"X-Gateway-Token"] == b"let me in"
    assert b"Cache-Control" not in first
    assert second[b"Cache-Control"] == b"no-cache"
