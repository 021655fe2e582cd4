"""The way to the exchange breaks at every byte of a request and of its answer; what clients are told stays true.

The exchange, the way to it (tests/cutting_relay.py), the gateway and its clients live in this process, on real sockets.
The normal profile resets the connection at every byte of an order and of its answer and steps through the other ways
to break; the deep profile steps ten times as closely. On the loop of production and on the plain one: they tell of
a broken connection at different moments and by different exceptions.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest
import uvloop

from proxy.app import App
from tests.cutting_relay import BEHIND, Attempt, Cut, CuttingRelay, Fault, How, Leg, Say, Sizes
from tests.fake_bybit import Entry, FakeBybit, Settings
from tests.gateway_fixture import DEEP, gateway
from tests.raw_http import RawAnswer, read_answer
from tests.recorder import OK, recorder
from tests.signing import signed

pytestmark = pytest.mark.usefixtures("warnings_only")
Run = Callable[[Coroutine[None, None, None]], None]
ON_BOTH_LOOPS = pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])

OVERRIDES: Final[dict[str, Any]] = {
    "pacing__enabled": "false",
    "breaker__enabled": "false",
    "retry__budget": "100",
    "candles__enabled": "false",
    "cache__stale_while_revalidate": "0s",
    "cache__stale_if_error": "0s",
}
"""Of every gateway here, beside what `world` says: nothing but the faults stands in the way, and each may be healed."""
READ_S, PATIENT_READ_S = 0.5, 1.0
"""How long a gateway bears silence. Patient ones serve where an answer is certain unless this machine stands still."""
SHORT_S: Final = 0.02
"""A stall that no gateway here notices; one that it does not bear takes 0.2 s longer than it waits."""
WAIT_S, TOTAL_S, SLOWNESS_S = 1.5, 2.0, 1.0
"""How long it may go on sending; the longest wait for one answer; what this machine may add to them."""
PATIENCE_S: Final = 10.0
"""Of clients: none needs it."""
AT_ONCE, FEW_AT_ONCE = 64, 16
MOST_HICCUPS: Final = 4
"""Times that this machine may stand still for longer than READ_S; each spoils what is under way, and no more."""
SWEEPS: Final = 50 if DEEP else 2
SEED: Final = 20_261_120

SAYINGS: Final = [
    Say(status, content_type, body, forwarded)
    for status in (502, 503, 504)
    for forwarded in (False, True)
    for content_type, body in (
        ("text/html", b"<html><head><title>Oops</title></head></html>\r\n"),
        ("text/plain", b"upstream connect error"),
        ("application/json", b'{"retCode":10016,"retMsg":"Server error.","result":{},"retExtInfo":{}}'),
    )
]
TOO_MANY: Final = Say(
    200,
    "application/json",
    b'{"retCode":10006,"retMsg":"Too many visits.","result":{},"retExtInfo":{}}',
    forwarded=False,
)
"""The one answer after which an order may be sent again: the exchange says it before it does anything."""


@dataclass(frozen=True)
class Case:
    """One request of one client, and what its attempts meet."""

    name: str
    method: str
    target: str
    faults: tuple[Fault, ...]
    body: bytes = b""
    signed: bool = True
    lines: str = ""

    def request(self) -> bytes:
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: me\r\nX-Case: {self.name}\r\n{self.lines}"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        if self.signed:
            payload = self.body or self.target.partition("?")[2]
            head += "".join(f"{name}: {value}\r\n" for name, value in signed(payload, window_ms=600_000).items())
        return head.encode() + b"\r\n" + self.body


Kind = Callable[[str, Iterable[Fault]], Case]


def order(name: str, faults: Iterable[Fault] = (), *, note: str = "") -> Case:
    """Far below the market. Its orderLinkId is the name of its case."""
    fields = {"category": "linear", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.001"}
    fields |= {"price": "1000", "orderLinkId": name, **({"note": note} if note else {})}
    return Case(name, "POST", "/v5/order/create", (*faults,), body=orjson.dumps(fields))


def server_time(name: str, faults: Iterable[Fault] = ()) -> Case:
    return Case(name, "GET", "/v5/market/time", (*faults,), signed=False)


def candles(name: str, faults: Iterable[Fault] = ()) -> Case:
    """No two of them ask for the same, so each is fetched."""
    end_ms = 1_700_000_000_000 + int(name.rpartition("-")[2]) * 60_000
    target = f"/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=4&end={end_ms}"
    return Case(name, "GET", target, (*faults,), signed=False, lines="Accept-Encoding: gzip\r\n")


def open_orders(name: str, faults: Iterable[Fault] = ()) -> Case:
    return Case(name, "GET", "/v5/order/realtime?category=linear&symbol=BTCUSDT", (*faults,))


@dataclass
class World:
    exchange: FakeBybit
    relay: CuttingRelay
    app: App


@asynccontextmanager
async def world(read_s: float = READ_S, **more: str) -> AsyncIterator[World]:
    """What is left of it afterwards has settled: nothing is on its way any more."""
    unlimited = {"POST /v5/order/create": 100_000, "GET /v5/order/realtime": 100_000}
    settings = Settings(account_limits=unlimited, ip_limit=1_000_000)
    overrides = {
        "limits": [],
        "queue__max_wait": f"{WAIT_S * 1000:g}ms",
        "upstream__timeouts__read": f"{read_s * 1000:g}ms",
        "upstream__timeouts__total": f"{TOTAL_S * 1000:g}ms",
    }
    async with (
        FakeBybit(settings=settings) as exchange,
        CuttingRelay(exchange.port) as relay,
        gateway(relay.url, **overrides | OVERRIDES | more) as app,
    ):
        yield World(exchange, relay, app)


@dataclass(frozen=True)
class Told:
    """What a client got, and after which time."""

    answer: RawAnswer | None
    trouble: str
    took_s: float

    def __str__(self) -> str:
        if self.answer is None:
            return self.trouble
        return f"{self.answer.status} {self.answer.get('X-Gateway')} {self.answer.body[:60]!r}"


class Client:
    """Asks one thing after another on a kept connection, as trading clients do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, case: Case) -> Told:
        self._world.relay.plan(case.name, case.faults)
        now = asyncio.get_running_loop().time
        began = now()
        answer, trouble = None, ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._exchange(case.request())
        except TimeoutError:
            trouble = "hangs"
        except (EOFError, OSError) as error:
            trouble = f"closed without an answer ({type(error).__name__})"
        if answer is not None and not answer.complete:
            answer, trouble = None, "a part of an answer"
        if answer is None or answer.get("Connection") == "close":
            self.close()
        return Told(answer, trouble, now() - began)

    async def _exchange(self, request: bytes) -> RawAnswer:
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self._world.app.port)
        reader, writer = self._ends
        writer.write(request)
        return await read_answer(reader)

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def ask(world: World, case: Case) -> Told:
    client = Client(world)
    try:
        return await client.ask(case)
    finally:
        client.close()


async def ask_all(world: World, cases: Sequence[Case], *, at_once: int = AT_ONCE) -> dict[str, Told]:
    """In a fixed shuffled order, many at once, so that every kind of fault meets fresh and used connections."""
    mixed = list(cases)
    random.Random(SEED).shuffle(mixed)
    waiting = iter(mixed)
    told: dict[str, Told] = {}

    async def work() -> None:
        client = Client(world)
        for case in waiting:
            told[case.name] = await client.ask(case)
        client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return told


async def sizes(world: World, kind: Kind) -> Sizes:
    """Measured on one that nothing happens to: those of one kind are of one length."""
    (case,) = numbered(kind, [()], first=99_999)
    told = await ask(world, case)
    assert told.answer is not None, told
    assert told.answer.status == 200
    *_, attempt = world.relay.attempts.pop(case.name)  # the one that was answered, if the machine stood still
    return Sizes.of(attempt)


def numbered(kind: Kind, plans: Sequence[Sequence[Fault]], *, first: int = 0) -> list[Case]:
    return [kind(f"{kind.__name__}-{number:05}", plan) for number, plan in enumerate(plans, first)]


def every(step: int) -> int:
    return max(1, step // 10) if DEEP else step


class Truth:
    """What really happened, by case. To be asked of a world that has settled."""

    def __init__(self, world: World) -> None:
        self.attempts = {name: list(attempts) for name, attempts in world.relay.attempts.items()}
        self.arrived: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in world.exchange.record.entries:
            self.arrived[dict(entry.raw_headers)[b"X-Case"].decode()].append(entry)
        self.placed = Counter({name: times for (_, name), times in world.exchange.stats.placed_link_ids.items()})
        self.accepted = {arrival.link_id for arrival in world.exchange.trading.arrivals if arrival.ok}
        self.duplicated = world.exchange.stats.duplicated_link_ids()

    def of(self, case: Case) -> list[Attempt]:
        return self.attempts.get(case.name, [])

    def bodies(self, case: Case) -> list[bytes]:
        """What the exchange answered to each attempt that it answered."""
        return [attempt.answer_body for attempt in self.of(case) if attempt.answer_body is not None]

    def changed(self, case: Case) -> str:
        """How what arrived differs from what the client sent; nothing when each arrival is what was sent."""
        sent = (case.method, case.target, hashlib.sha256(case.body).hexdigest())
        arrivals = [(entry.method, entry.target, entry.body_sha256) for entry in self.arrived[case.name]]
        answered, whole = len(self.bodies(case)), sum(attempt.whole for attempt in self.of(case))
        if not answered <= len(arrivals) <= whole:
            return f"forwarded whole {whole} times, answered {answered} times, arrived {len(arrivals)} times"
        return "" if set(arrivals) <= {sent} else f"sent {sent}, arrived {arrivals}"


def is_not_sent(answer: RawAnswer) -> bool:
    text = (answer.get("Content-Type") or "").startswith("text/plain")
    return answer.status in {502, 503} and answer.get("X-Gateway") is not None and text and b"not sent" in answer.body


def is_fate_unknown(answer: RawAnswer) -> bool:
    if answer.status != 504 or answer.get("X-Gateway") is None:
        return False
    body = json.loads(answer.body)
    return bool(body["retCode"] == 10016 and body["retMsg"] == "Request timeout, please try again later")


def is_slow(told: Told) -> bool:
    """Nobody knows, said after a silence that no fault was the reason of: this machine stood still.

    That is the truth, too. `hiccups` counts them, so that it cannot become the rule.
    """
    answer = told.answer
    return answer is not None and is_fate_unknown(answer) and answer.get("X-Gateway") == "upstream-timeout"


def hiccups(cases: Sequence[Case], told: dict[str, Told]) -> int:
    """Requests that nothing slow was planned for and that were given up as too slow."""
    return sum(is_slow(told[case.name]) for case in cases if not any(map(is_long_stall, case.faults)))


def is_said(answer: RawAnswer, fault: Fault) -> bool:
    """Byte for byte what the exchange seemed to say, and nobody else."""
    got = (answer.status, answer.get("Content-Type"), answer.body, answer.get("X-Gateway"))
    return isinstance(fault, Say) and got == (fault.status, fault.content_type, fault.body, None)


def lie_about_a_write(case: Case, told: Told, truth: Truth) -> str:
    """What is not true of the answer to an order; nothing when all of it is."""
    attempts, answer = truth.of(case), told.answer
    if answer is None:
        return "no answer"
    if len(attempts) > 1 + case.faults.count(TOO_MANY) or truth.placed[case.name] > 1:
        return f"sent {len(attempts)} times, placed {truth.placed[case.name]} times"
    last_met = case.faults[len(attempts) - 1 : len(attempts)]
    if any(isinstance(fault, Say) for fault in last_met):
        return "" if is_said(answer, last_met[0]) or is_slow(told) else "not the exchange's words"
    if answer.status == 200:
        done = case.name in truth.accepted and json.loads(answer.body)["retCode"] == 0
        return "" if done and answer.body in truth.bodies(case) else "not done, or not its answer"
    if is_not_sent(answer):
        return "sent all the same" if attempts or truth.placed[case.name] else ""
    return "" if is_fate_unknown(answer) else "an answer of no kind"


def lie_about_a_read(case: Case, told: Told, truth: Truth) -> str:
    """What is not true of the answer to a read; nothing when all of it is."""
    answer = told.answer
    if answer is None:
        return "no answer"
    if answer.status == 200:
        return "" if answer.body in truth.bodies(case) else "not its answer"
    if any(is_said(answer, fault) for fault in case.faults):
        return ""
    if is_not_sent(answer):
        return "sent all the same" if truth.of(case) else ""
    broken = answer.status == 502 and answer.get("X-Gateway") is not None
    return "" if broken or is_fate_unknown(answer) else "an answer of no kind"


Lie = Callable[[Case, Told, Truth], str]


def lies(cases: Sequence[Case], told: dict[str, Told], truth: Truth, lie: Lie) -> list[str]:
    """What met what, what the client heard, and what is wrong with it: untrue, changed on the way, or late."""
    found = []
    for case in cases:
        problem = lie(case, told[case.name], truth) or truth.changed(case)
        if told[case.name].took_s > WAIT_S + TOTAL_S + SLOWNESS_S:
            problem += f" late: after {told[case.name].took_s:.1f} s"
        if problem:
            found.append(f"{case.name} {case.faults}: {problem}: {told[case.name]}")
    return found


def missed(cases: Sequence[Case], truth: Truth) -> list[str]:
    """Cases whose first fault was never reached: they would prove nothing."""
    return [case.name for case in cases if case.faults and not any(each.struck for each in truth.of(case)[:1])]


def unserved(cases: Sequence[Case], told: dict[str, Told]) -> list[str]:
    """Those that did not get the exchange's 200."""
    served = {name for name, each in told.items() if each.answer is not None and each.answer.status == 200}
    return [f"{case.name} {case.faults[:1]}: {told[case.name]}" for case in cases if case.name not in served]


def unmarked(cases: Sequence[Case], told: dict[str, Told]) -> list[str]:
    """Orders of unknown fate whose answer says so in the body and not in the header."""
    answers = [(case.name, told[case.name].answer) for case in cases]
    unknown = [(name, answer) for name, answer in answers if answer is not None and is_fate_unknown(answer)]
    return [name for name, answer in unknown if answer.get("X-Gateway-Outcome") != "unknown"]


def answer_of(told: Told) -> RawAnswer:
    assert told.answer is not None, told
    return told.answer


def is_long_stall(fault: Fault) -> bool:
    return isinstance(fault, Cut) and fault.stall_s > SHORT_S


def summary(cases: Sequence[Case], told: dict[str, Told], truth: Truth) -> str:
    answers = {case.name: told[case.name].answer for case in cases}
    kinds = Counter(f"{each.status} {each.get('X-Gateway') or ''}".strip() for each in answers.values() if each)
    used = sum(attempt.on_used and attempt.struck for case in cases for attempt in truth.of(case))
    done = sum(each is not None and is_fate_unknown(each) and truth.placed[name] for name, each in answers.items())
    return f"{len(cases)} requests, {used} hit on a used connection, {dict(kinds)}, {done} done all the same"


# The relay itself.


@ON_BOTH_LOOPS
@pytest.mark.parametrize("how", [How.RESET, How.END])
@pytest.mark.parametrize("leg", list(Leg))
def test_the_way_breaks_at_the_byte_it_is_told_to(leg: Leg, how: How, run: Run) -> None:
    """So many bytes have passed and not one more, and the connection ends as it is told to."""
    run(each_byte(leg, how))


async def each_byte(leg: Leg, how: How) -> None:
    request = b"POST /v5/x HTTP/1.1\r\nX-Case: %05d\r\nContent-Length: 2\r\n\r\n{}"
    size = len(request % 0) if leg is Leg.REQUEST else len(OK)
    places = range(size + 1)
    async with recorder() as exchange, CuttingRelay(exchange.port) as relay:
        for at in places:
            relay.plan(f"{at:05}", [Cut(leg, BEHIND if at == size else at, how)])
            assert await talk(relay.port, request % at) == (OK[:at] if leg is Leg.ANSWER else b"", how)
    attempts = [relay.attempts[f"{at:05}"][0] for at in places]
    assert all(attempt.struck for attempt in attempts)
    assert [attempt.given if leg is Leg.ANSWER else attempt.forwarded for attempt in attempts] == [*places]
    assert len(exchange.seen) in ({len(places)} if leg is Leg.ANSWER else {0, 1})


async def talk(port: int, request: bytes) -> tuple[bytes, How]:
    """What comes back, and how the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    got = b""
    try:
        while data := await reader.read(1000):
            got += data
    except ConnectionResetError:
        return got, How.RESET
    finally:
        writer.close()
    return got, How.END


# Orders.


def write_faults(size: Sizes) -> list[Fault]:
    faults: list[Fault] = [*SAYINGS, *SAYINGS]
    for how, step in ((How.RESET, 1), (How.END, every(2))):
        for leg in Leg:
            faults += [*size.cuts(leg, how, step), Cut(leg, BEHIND, how)]
        faults += [*size.cuts(Leg.ANSWER, how, every(10), chunked=True), Cut(Leg.ANSWER, BEHIND, how, chunked=True)]
    for leg in Leg:
        faults += size.cuts(leg, How.STALL, every(25), stall_s=SHORT_S)
        faults += size.cuts(leg, How.STALL, every(25), stall_s=READ_S + 0.2)
    return faults


@ON_BOTH_LOOPS
def test_no_order_is_placed_twice_and_no_answer_to_one_is_a_lie(run: Run) -> None:
    """Done means in the exchange's record, not sent means not there, everything else says that nobody knows.

    What was forwarded whole arrives as it was sent, and what seems to be the exchange's answer is passed on as it is.
    """
    run(two_thousand_orders())


async def two_thousand_orders() -> None:
    async with world() as here:
        cases = numbered(order, [[fault] for fault in write_faults(await sizes(here, order))])
        healthy = numbered(order, [()] * (len(cases) // 8), first=50_000)
        told = await ask_all(here, [*cases, *healthy])
        left = here.app.metrics.in_flight._value.get(), len(here.app.attempts.gate)
    truth = Truth(here)

    print(summary(cases, told, truth))
    assert len(cases) >= 2_000
    assert missed(cases, truth) == []
    assert truth.duplicated == {}
    assert lies([*cases, *healthy], told, truth, lie_about_a_write) == []
    assert hiccups([*cases, *healthy], told) <= MOST_HICCUPS * AT_ONCE
    assert left == (0, 0)
    assert unmarked([*cases, *healthy], told) == []


@ON_BOTH_LOOPS
def test_an_order_that_was_refused_as_too_many_goes_once_more_and_not_twice(run: Run) -> None:
    """What holds for an order holds for its second attempt, wherever that breaks."""
    run(orders_refused_first())


async def orders_refused_first() -> None:
    async with world() as here:
        size = await sizes(here, order)
        cuts = [cut for leg in Leg for how in (How.RESET, How.END) for cut in size.cuts(leg, how, every(15))]
        cases = numbered(order, [[TOO_MANY, cut] for cut in cuts])
        told = await ask_all(here, cases, at_once=FEW_AT_ONCE)
    truth = Truth(here)

    print(summary(cases, told, truth))
    assert {len(truth.of(case)) for case in cases if not is_slow(told[case.name])} == {2}
    assert hiccups(cases, told) <= MOST_HICCUPS * FEW_AT_ONCE
    assert lies(cases, told, truth, lie_about_a_write) == []
    assert unmarked(cases, told) == []


@ON_BOTH_LOOPS
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # aiohttp, above 1 MiB
def test_a_long_order_may_break_off_while_it_is_still_being_written(run: Run) -> None:
    """Its end has not left the gateway yet when the connection ends."""
    run(long_orders())


async def long_orders() -> None:
    long = functools.partial(order, note="x" * 8_000_000)  # more than kernels keep for a connection
    places = range(0, 8_000_000, 50_000 if DEEP else 1_000_000)
    cuts = [Cut(Leg.REQUEST, at, how) for at in places for how in (How.RESET, How.END)]
    async with world() as here:
        cases = [long(f"long-{number:05}", [cut]) for number, cut in enumerate(cuts)]
        told = await ask_all(here, [*cases, long("whole")], at_once=4)
    truth = Truth(here)

    assert missed(cases, truth) == []
    assert lies([*cases, long("whole")], told, truth, lie_about_a_write) == []
    assert truth.placed == {"whole": 1}
    assert unmarked(cases, told) == []


# Reads.


def read_faults(size: Sizes, step: int, read_s: float) -> list[Fault]:
    faults: list[Fault] = [*SAYINGS]
    for how in (How.RESET, How.END):
        faults += [*size.cuts(Leg.REQUEST, how, every(step)), Cut(Leg.REQUEST, BEHIND, how)]
        faults += size.cuts(Leg.ANSWER, how, every(step))
        faults += size.cuts(Leg.ANSWER, how, every(5 * step), chunked=True)
    for leg in Leg:
        faults += size.cuts(leg, How.STALL, every(10 * step), stall_s=SHORT_S)
        faults += size.cuts(leg, How.STALL, every(40 * step), stall_s=read_s + 0.2)
    return faults


async def read_cases(here: World, steps: Sequence[int], read_s: float, *, attempts: int) -> list[Case]:
    """Three kinds of reads, each at its own steps; so many attempts of each meet the same fault."""
    for number in range(2):
        await ask(here, order(f"resting-{number}"))
    cases: list[Case] = []
    for kind, step in zip((server_time, candles, open_orders), steps, strict=True):
        faults = read_faults(await sizes(here, kind), step, read_s)
        cases += numbered(kind, [[fault] * attempts for fault in faults])
    return cases


@ON_BOTH_LOOPS
def test_a_read_that_meets_one_fault_is_answered_all_the_same(run: Run) -> None:
    """Cut off, broken off, refused with 502, 503 or 504: the next attempt is sound, and the client sees only that."""
    run(reads_with_one_fault())


async def reads_with_one_fault() -> None:
    async with world(PATIENT_READ_S) as here:
        cases = await read_cases(here, (5, 15, 16), PATIENT_READ_S, attempts=1)
        told = await ask_all(here, cases)
    truth = Truth(here)

    print(summary(cases, told, truth))
    assert len(cases) >= 1_000
    assert missed(cases, truth) == []
    assert lies(cases, told, truth, lie_about_a_read) == []
    assert unserved([case for case in cases if not is_long_stall(case.faults[0])], told) == []


@ON_BOTH_LOOPS
def test_a_read_that_meets_a_fault_at_every_attempt_is_told_the_truth_in_time(run: Run) -> None:
    """Within what it may wait for being sent and for one answer, whatever is tried meanwhile."""
    run(reads_with_nothing_but_faults())


async def reads_with_nothing_but_faults() -> None:
    async with world() as here:
        cases = await read_cases(here, (41, 97, 191), READ_S, attempts=50)
        told = await ask_all(here, cases, at_once=250)
    truth = Truth(here)

    print(summary(cases, told, truth))
    assert missed(cases, truth) == []
    assert lies(cases, told, truth, lie_about_a_read) == []


# Connections that are dead before anything is sent, and doors that are shut.


@ON_BOTH_LOOPS
@pytest.mark.parametrize("how", [How.RESET, How.END])
def test_an_idle_connection_may_end_at_any_turn_of_the_loop(how: How, run: Run) -> None:
    """While the next request comes in, is handled, is sent: a read is answered, nothing false is said of an order."""
    run(idle_cuts(how))


async def idle_cuts(how: How) -> None:
    orders: dict[Case, Told] = {}
    reads: dict[Case, Told] = {}
    async with world(PATIENT_READ_S) as here:
        for number in range(SWEEPS):
            orders |= await sweep(here, order, number, how)
            reads |= await sweep(here, open_orders, number, how)
    truth = Truth(here)

    told = {case.name: each for case, each in (orders | reads).items()}
    print(summary([*orders], told, truth), summary([*reads], told, truth), sep="\n")
    assert lies([*orders], told, truth, lie_about_a_write) == []
    assert lies([*reads], told, truth, lie_about_a_read) == []
    assert unserved([*reads], told) == []
    assert {answer_of(each).status for each in orders.values()} == {200, 504}
    assert unmarked([*orders], told) == []


async def sweep(here: World, kind: Kind, number: int, how: How) -> dict[Case, Told]:
    """One turn of the loop later each time, until the request has got through before the cut."""
    told: dict[Case, Told] = {}
    for turn in itertools.count():
        await ask(here, server_time("warm"))  # leaves an idle connection
        case = kind(f"{kind.__name__}-{number}-{turn:03}", ())
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(here, case))
            for _ in range(turn):
                await asyncio.sleep(0)  # one turn of the loop
            through = here.relay.cut_idle(how) == 0 or asking.done()
        told[case] = asking.result()
        if through:
            break
    return told


@ON_BOTH_LOOPS
def test_a_connection_that_ends_as_soon_as_it_stands_is_one_more_fault(run: Run) -> None:
    run(slammed_doors())


async def slammed_doors() -> None:
    orders, reads = numbered(order, [()] * 10), numbered(open_orders, [()] * 10)
    told: dict[str, Told] = {}
    async with world(PATIENT_READ_S, upstream__pool__keepalive="1ms") as here:
        for case in (*orders, *reads):
            await asyncio.sleep(0.002)  # until the gateway takes no connection for alive
            here.relay.slammed = 1
            told[case.name] = await ask(here, case)
        assert here.relay.slammed == 0
    truth = Truth(here)

    print(summary(orders, told, truth), summary(reads, told, truth), sep="\n")
    assert lies(orders, told, truth, lie_about_a_write) == []
    assert lies(reads, told, truth, lie_about_a_read) == []
    assert unserved(reads, told) == []
    assert truth.placed == {}
    assert unmarked(orders, told) == []


@ON_BOTH_LOOPS
def test_behind_a_shut_door_nothing_is_sent_and_that_is_said(run: Run) -> None:
    run(shut_door())


async def shut_door() -> None:
    orders, reads = numbered(order, [()] * 50), numbered(open_orders, [()] * 20)
    after = order("after")
    async with world() as here:
        await here.relay.shut()
        told = await ask_all(here, [*orders, *reads])
        await here.relay.open()
        told[after.name] = await ask(here, after)
    truth = Truth(here)

    assert lies([*orders, after], told, truth, lie_about_a_write) == []
    assert lies(reads, told, truth, lie_about_a_read) == []
    assert [case.name for case in (*orders, *reads) if not is_not_sent(answer_of(told[case.name]))] == []
    assert truth.placed == {"after": 1}


@ON_BOTH_LOOPS
@pytest.mark.parametrize("obstacle", ["door", "breaker"])
def test_a_read_that_was_sent_once_is_not_said_to_be_unsent(obstacle: str, run: Run) -> None:
    """Its connection breaks, and now the door is shut, or this opens the breaker: it cannot be sent again."""
    run(sent_once(obstacle))


async def sent_once(obstacle: str) -> None:
    case = open_orders("open_orders-0", [Cut(Leg.REQUEST, 20, How.RESET)])
    wary = {"breaker__enabled": "true", "breaker__least_calls": "1", "breaker__failures": "1"}
    async with world(PATIENT_READ_S, **wary if obstacle == "breaker" else {}) as here:
        await ask(here, server_time("warm"))  # leaves an idle connection
        if obstacle == "door":
            await here.relay.shut()
        told = {case.name: await ask(here, case)}
    truth = Truth(here)

    assert missed([case], truth) == []
    assert lies([case], told, truth, lie_about_a_read) == []
