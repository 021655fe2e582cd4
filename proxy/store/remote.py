"""The windows in Redis: what the scripts are asked, and what their answers mean. Raises StoreLost, decides nothing.

Every key of an egress has the same hash tag, so that one script may look at all of them in a cluster too. The instant
of every decision is Redis' own. API keys come here as keyed hashes and in no other form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from policies.admission import WHOLE, Admitted, Charge, Deferred, Filled, WindowKind
from policies.ban import Ban
from policies.pacing import Learned, Lesson
from policies.trading import TradingMode
from proxy.clock import Clock
from proxy.egress import Trading
from proxy.metrics import Metrics
from proxy.store import Reservation, Usage
from proxy.store.client import Client
from proxy.store.link import Call, Forget, Link, Script
from proxy.store.wording import BUCKET, HELD, LEARNED, Wording, kind_of
from proxy.tasks import TaskOwner

RESERVE: Final = Script("logs", "reserve")
RESERVE_LEARNED: Final = Script("logs", "learned", "reserve")
RESERVE_ALL: Final = Script("logs", "others", "learned", "reserve")
"""The same for windows of all kinds; most requests spend logs only, and cost Redis less that way."""
END: Final = Script("logs", "end")
END_ALL: Final = Script("logs", "others", "end")
USAGE: Final = Script("logs", "others", "learned", "usage")
LEARN: Final = Script("logs", "learned", "learn")
BEAT: Final = Script("logs", "beat")
KEEP: Final = Script("logs", "keep")
BURY: Final = Script("logs", "bury")
BAN: Final = Script("logs", "ban")
PROBE: Final = Script("logs", "probe")
LIFT: Final = Script("logs", "lift")
SWITCH: Final = Script("logs", "switch")
ACCOUNTS: Final = Script("accounts")
FORGET: Final = Script("logs", "forget")
INDEX: Final = Script("logs", "index")
ABOUT: Final = Script("about")

_STEP_US: Final = 100_000
_DRIFT: Final = 1_000


class _Reply(IntEnum):
    """What reserve.lua begins its answers with."""

    GRANTED = 0
    DEFERRED = 1
    BANNED = 2
    HOLDING = 3
    VOID = 4
    REPEATED = 5


class Granted(NamedTuple):
    """Taken. `admitted.filled`: the windows that requests are spaced out in, as all gateways fill them."""

    admitted: Admitted


class Holding(NamedTuple):
    """The store has lost its memory: nothing exact is granted for so long."""

    wait_us: int


class Banned(NamedTuple):
    """Nothing is sent upstream for so long."""

    wait_us: int


class Void(NamedTuple):
    """The call came later than it was of use, or the store's clock has made a step: nothing was done."""


class Ending(NamedTuple):
    """The end of a reservation: completed, or given back because it was not sent."""

    reservation: Reservation
    completed: bool


class RemoteWindows:
    """`replica` begins the ids of all that we take. `clock` is our own, `fixed` stands in for Redis' in tests."""

    def __init__(
        self,
        client: Client,
        *,
        egress: str,
        replica: str,
        lease_us: int,
        timeout_us: int,
        connect_s: float,
        clock: Clock,
        metrics: Metrics,
        fixed: Clock | None = None,
    ) -> None:
        self.replica = replica
        self.offset_us = 0
        """Redis' clock minus ours."""
        self._wording = Wording(egress, clock)
        prefix = self._wording.prefix
        self.state = prefix + b"state"
        self._replicas = prefix + b"replicas"
        self._about = prefix + b"about"
        self._flying = prefix + b"flying"
        self._index = prefix + b"windows"
        self._accounts = prefix + b"accounts"
        self._lease_us = lease_us
        self._timeout_us = timeout_us
        self._clock = clock
        self._fixed = fixed
        self._synced = False
        self._heard_us = 0
        self.stepped = False
        """Redis' clock has made a step forward: its windows let go of what still counts. Until forget() is called."""
        self.link = Link(
            client,
            metrics,
            clock,
            timeout_s=timeout_us / 1e6,
            connect_s=connect_s,
            forget=Forget(FORGET, self.state, self._now_or_zero),
            not_after=self._not_after,
        )

    def start(self, tasks: TaskOwner) -> None:
        self.link.start(tasks)

    async def reserve(
        self,
        reservation: Reservation,
        *,
        ended_by_reply: bool = True,
        orphaned: Callable[[], None] | None = None,
        part: int = WHOLE,
    ) -> Granted | Deferred | Holding | Banned | Void:
        """Take all charges or none. `orphaned`: it was taken, or may have been, for a caller that had gone. `part`: how
        much of the address's windows may be used, in millionths."""
        call = self._reservation(reservation, ask=True, lease=ended_by_reply, orphaned=orphaned, part=part)
        answer = await self.link.call(call)
        self._heard(int(answer[1]))
        match answer[0]:
            case _Reply.GRANTED:
                return Granted(self._admitted(reservation.charges, answer))
            case _Reply.DEFERRED:
                binding = reservation.charges[answer[3] - 1]
                return Deferred(-1 if answer[4] else int(answer[2]), binding)
            case _Reply.BANNED:
                return Banned(int(answer[2]))
            case _Reply.HOLDING:
                return Holding(int(answer[2]))
            case _Reply.REPEATED:
                return Granted(Admitted())
            case _:
                return Void()

    async def record(self, reservation: Reservation) -> bool:
        """Enter what is sent all the same. False: the call was void."""
        answer = await self.link.call(self._reservation(reservation, ask=False, lease=True, orphaned=None))
        self._heard(int(answer[1]))
        return bool(answer[0] != _Reply.VOID)

    async def end(self, endings: Sequence[Ending]) -> None:
        answer = await self.link.call(self._endings(endings))
        self._heard(int(answer[0]))

    async def usage(self, charges: Sequence[Charge]) -> list[Usage]:
        answer = await self.link.call(self._usages(charges))
        return [
            Usage(
                charge.key,
                charge.quota,
                answer[at],
                answer[at + 1],
                -1 if answer[at + 3] else int(answer[at + 2]),
                Learned(answer[at + 4], bool(answer[at + 5]), answer[at + 6], int(answer[at + 7]))
                if charge.quota.window is WindowKind.LEARNED
                else None,
            )
            for at, charge in zip(range(0, len(answer), 8), charges, strict=True)
        ]

    def ends(self, reservation: Reservation) -> bool:
        """Whether the store must hear of its end."""
        return self._wording.of(reservation.charges).ends

    async def learn(self, number: str, charge: Charge, lesson: Lesson, accepted: int) -> tuple[int, int]:
        """What an answer says of a learned limit; the reply is the limit before and now. The lesson's instants are on
        our clock. `accepted`: it speaks for so many answers."""
        answer = await self.link.call(self._lesson(number, charge, lesson, accepted))
        return int(answer[1]), int(answer[2])

    def _lesson(self, number: str, charge: Charge, lesson: Lesson, accepted: int) -> Call:
        said = (lesson.limit, lesson.remaining, lesson.stamp_ms, lesson.reset_us)
        args = [
            self._now_or_zero(),
            self._wording.once((charge,)).block,
            f"{self.replica}:{number}",
            lesson.refused,
            accepted,
            lesson.sent_us + self.offset_us,
            *(-1 if value is None else value for value in said),
            lesson.chance,
        ]
        return Call(LEARN, [self._wording.key(charge), self._wording.beside(charge)], args)

    async def ban(self, for_us: int) -> Ban:
        """The exchange has banned the address. The answer is what is known of it, on our clock."""
        answer = await self.link.call(Call(BAN, [self.state], [self._now_or_zero(), for_us, 0, 0, 0, 0]))
        return self.ban_of(answer[1:])

    async def remember_ban(self, ban: Ban) -> None:
        """Where the store does not know it."""
        at = self.offset_us
        args = [self._now_or_zero(), 0, 1, ban.until_us + at, ban.begun_us + at, ban.times]
        await self.link.call(Call(BAN, [self.state], args))

    def ban_of(self, words: Sequence[Any]) -> Ban:
        """until, begun, times, lifted: as the scripts say it."""
        until, begun, times, lifted = (int(word) for word in words)
        at = self.offset_us
        return Ban(until and until - at, begun and begun - at, times, lifted and lifted - at)

    async def may_probe(self, for_us: int) -> bool:
        answer = await self.link.call(Call(PROBE, [self.state], [self._now_or_zero(), for_us]))
        return bool(answer[1])

    async def lift(self) -> None:
        await self.link.call(Call(LIFT, [self.state], [self._now_or_zero()]))

    async def switch(self, trading: Trading, *, again: bool = False) -> Trading | None:
        """The answer is the latest word. `again`: it is told again, and was not set just now."""
        args = [self._now_or_zero(), trading.set_us + self.offset_us, trading.mode.value, int(not again)]
        answer = await self.link.call(Call(SWITCH, [self.state], args))
        return self.trading_of(answer[1], answer[2])

    def trading_of(self, set_at: bytes, mode: bytes) -> Trading | None:
        """As the scripts say it; None where nobody has ever set it."""
        known = {each.value.encode(): each for each in TradingMode}
        return Trading(known[mode], int(set_at) - self.offset_us) if mode in known else None

    async def accounts(self, known: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Enter whose keys are known here; the answer is all that is known there, and its version."""
        pairs = [word for pair in known.items() for word in pair]
        answer = await self.link.call(Call(ACCOUNTS, [self.state, self._accounts], [0, *pairs]))
        words = [word.decode() for word in answer[1:]]
        return int(answer[0]), dict(zip(words[::2], words[1::2], strict=True))

    async def beat(self, args: Sequence[Any]) -> list[Any] | Void:
        """beat.lua; `args` are those behind our id."""
        keys = [self.state, self._replicas, self._about, self._flying]
        # Without an idea of Redis' clock nothing can be too late.
        call = Call(BEAT, keys, [self._now_or_zero(), 0, self.replica, *args], fenced=self._synced)
        answer = await self.link.call(call)
        if answer[0] == b"void":
            self._heard(int(answer[1]))
            return Void()
        self._heard(int(answer[0]))
        return list(answer)

    async def forget(self) -> None:
        """The windows cannot be believed: nothing exact is granted for one window."""
        self.stepped = False
        await self.link.call(Call(FORGET, [self.state], [self._now_or_zero()]))

    async def keep(self, replica: bytes) -> None:
        """A gateway that gives no sign of life is known to live: its share stays its own."""
        await self.link.call(Call(KEEP, [self._replicas], [self._now_or_zero(), replica]))

    async def bury(self, replica: bytes, held: Sequence[Charge]) -> None:
        """A gateway is known to be dead: what it had in flight runs out from now on."""
        windows = [self._wording.key(charge) for charge in held]
        keys = [self._replicas, self._about, self._flying, *windows]
        await self.link.call(Call(BURY, keys, [self._now_or_zero(), replica]))

    async def note_windows(self, names: Sequence[bytes], *, forgotten_after_us: int, most: int) -> list[bytes]:
        """Enter windows as being in use; the answer names them all, the latest first."""
        args = [self._now_or_zero(), forgotten_after_us, most, *names]
        return list(await self.link.call(Call(INDEX, [self._index], args)))

    async def what_they_say(self) -> dict[bytes, bytes]:
        """What each gateway says of itself, by its id."""
        answer = await self.link.call(Call(ABOUT, [self._about], [self._now_or_zero()]))
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _reservation(
        self,
        reservation: Reservation,
        *,
        ask: bool,
        lease: bool,
        orphaned: Callable[[], None] | None,
        part: int = WHOLE,
    ) -> Call:
        told = self._wording.of(reservation.charges)
        block = self._wording.block(told)
        args: list[Any] = [
            self._now_or_zero(),
            0,
            self._id(reservation),
            self._lease_us if lease else 0,
            int(ask),
            int(told.upstream and not reservation.despite_ban),
            told.mark,
            block,
            part,
        ]
        script = (RESERVE_LEARNED if told.learns else RESERVE) if told.only_logs else RESERVE_ALL
        gone = None if orphaned is None else lambda _: orphaned()
        return Call(script, (self.state, self._flying, *told.keys), args, fenced=self._synced, orphaned=gone)

    def _endings(self, endings: Sequence[Ending]) -> Call:
        keys: dict[bytes, int] = {self._flying: 1}
        args: list[Any] = [self._now_or_zero()]
        only_logs = True
        for reservation, completed in endings:
            told = self._wording.of(reservation.charges)
            only_logs = only_logs and told.only_logs
            mark = keys.setdefault(told.keys[told.mark - 1], len(keys) + 1) if told.mark else 1
            args += (self._id(reservation), b"c" if completed else b"r", mark, 0)
            count = len(args) - 1
            for key, charge in zip(told.keys, told.charges, strict=False):
                kind = kind_of(charge.quota)
                if kind in {HELD, LEARNED} or (kind == BUCKET and not completed):
                    args += (keys.setdefault(key, len(keys) + 1), kind, charge.cost)
                    args[count] += 1
        return Call(END if only_logs else END_ALL, list(keys), args)

    def _usages(self, charges: Sequence[Charge]) -> Call:
        told = self._wording.once(tuple(charges))
        return Call(USAGE, (self.state, *told.keys), [self._now_or_zero(), told.block])

    @staticmethod
    def _admitted(charges: tuple[Charge, ...], answer: list[Any]) -> Admitted:
        over, near, rooms = answer[2], answer[3], answer[4:]
        filled = tuple(Filled(limit, used) for limit, used in zip(rooms[::2], rooms[1::2], strict=True))
        if not over and not near:
            return Admitted(filled=filled)
        return Admitted(_chosen(charges, over), _chosen(charges, near), filled)

    def _id(self, reservation: Reservation) -> str:
        return f"{self.replica}:{reservation.id}"

    def _now_or_zero(self) -> int:
        return 0 if self._fixed is None else self._fixed()

    def _not_after(self) -> int:
        return self._clock() + self.offset_us + 2 * self._timeout_us

    def _heard(self, store_us: int) -> None:
        """What time it is over there. An answer is late by its way and by whatever kept us, never early."""
        if self._fixed is not None:
            return
        now_us = self._clock()
        sample_us = store_us - now_us
        if not self._synced:
            self._synced, self.offset_us = True, sample_us
        elif sample_us > self.offset_us:
            self.stepped = self.stepped or sample_us > self.offset_us + _STEP_US
            self.offset_us = sample_us
        else:
            # Clocks drift: the best sample is believed a little less with time.
            self.offset_us = max(sample_us, self.offset_us - (now_us - self._heard_us) // _DRIFT)
        self._heard_us = now_us


def _chosen(charges: tuple[Charge, ...], mask: int) -> tuple[Charge, ...]:
    return tuple(charge for place, charge in enumerate(charges) if mask >> place & 1)
