"""The store of a gateway that stands alone: windows in this process, decided without a single suspension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from policies.admission import WHOLE, Admission, Admitted, Charge, Deferred, Quota, WindowKind, admit
from policies.pacing import LearnedWindow, Lesson
from policies.restart import ColdStart, Snapshot, new_exact, restored, snapshot
from policies.window import Window
from proxy.accounts import Accounts
from proxy.clock import Clock
from proxy.egress import Egress, Trading
from proxy.store import Reservation, Usage

_GROWS_US: Final = 50_000
_SWEEP_EVERY: Final = 1024
"""New windows between two looks for idle ones: the cost of forgetting is spread over the cost of remembering."""


class _Kept(NamedTuple):
    """A window, and the quota that it is fitted to."""

    quota: Quota
    window: Window


def sooner(admission: Admission, part: int) -> Admission:
    """Where only a part of the address's windows may be used that part grows: no wait is foretold for long."""
    if part == WHOLE or not isinstance(admission, Deferred) or not admission.binding.quota.of_address:
        return admission
    return admission._replace(wait_us=min(admission.wait_us, _GROWS_US))


def usage_of(key: tuple[str, ...], quota: Quota, window: Window, now_us: int) -> Usage:
    used, room_in_us = window.used(now_us), window.wait_us(1, now_us)
    if isinstance(window, LearnedWindow):
        return Usage(key, quota, used, window.room(now_us), room_in_us, window.learned(now_us))
    return Usage(key, quota, used, quota.burst or quota.limit, room_in_us)


class NobodyElse:
    """The news of a gateway that stands alone."""

    def follow(self, egress: Egress, accounts: Accounts) -> None:
        """Nothing is heard from anybody."""

    async def tell_accounts(self) -> None:
        """Nobody else is to be told."""

    async def strike(self, ban_us: int) -> None:
        """Nobody else is to be told."""

    async def may_probe(self) -> bool:
        return True

    async def lift(self) -> None:
        """Nobody else is to be told."""

    async def switch(self, trading: Trading) -> None:
        """Nobody else is to be told."""


class MemoryStore:
    warnings: Sequence[str] = ()
    news = NobodyElse()
    way = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], _Kept] = {}
        self._taken: dict[str, list[tuple[Charge, Window]]] = {}
        """What a reservation ends in: the windows that it was taken from, whatever has become of the rules since."""
        self._rules: dict[str, Quota] | None = None
        """By name; None until somebody says."""
        self._until_sweep = _SWEEP_EVERY
        self._listeners: list[Callable[[], None]] = []
        self._part: Callable[[], int] = lambda: WHOLE
        self._cold: ColdStart | None = None
        self._cold_until_us = 0
        self._new_since: dict[str, ColdStart] = {}
        """Rules of the exchange that a reload has brought: what was sent before is in none of their windows."""

    def begin_cold(self, cold: ColdStart, until_us: int) -> None:
        """Windows that are made until then start as full as what was sent before us may have left them."""
        self._cold, self._cold_until_us = cold, until_us

    @property
    def cold(self) -> bool:
        """Windows are held for what may have been sent before us."""
        return self._clock() < self._cold_until_us

    def snapshots(self, wanted: Callable[[Quota], bool]) -> Iterator[tuple[tuple[str, ...], Snapshot]]:
        """Of every window of the wanted rules that holds something."""
        now_us = self._clock()
        for key, kept in self._windows.items():
            if wanted(kept.quota) and not kept.window.idle(now_us):
                yield key, snapshot(kept.window, now_us)

    def restore(self, key: tuple[str, ...], quota: Quota, taken: Snapshot, at_us: int) -> bool:
        """Go on with a window as it was at `at_us`; False where nothing of it counts any more."""
        now_us = self._clock()
        window = restored(quota, taken, at_us, now_us)
        if window.idle(now_us):
            return False
        self._windows[key] = _Kept(quota, window)
        return True

    async def reserve(self, reservation: Reservation) -> Admission:
        if reservation.id in self._taken:
            return Admitted()
        now_us = self._clock()
        self._forget_idle(now_us)
        states = [(charge, self._window(charge)) for charge in reservation.charges]
        admission = admit(states, now_us, self._part())
        if isinstance(admission, Admitted):
            over = admission.over
            self._taken[reservation.id] = [state for state in states if state[0] not in over] if over else states
        return sooner(admission, self._part())

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        return self.spend_now(charges)

    def spend_now(self, charges: tuple[Charge, ...]) -> Admission:
        now_us = self._clock()
        self._forget_idle(now_us)
        return admit([(charge, self._window(charge)) for charge in charges], now_us)

    def look(self, charges: Iterable[Charge]) -> list[tuple[Charge, Window]]:
        """The windows of charges, for somebody who decides over several stores at once. He calls tidy() between."""
        return [(charge, self._window(charge)) for charge in charges]

    def enter(self, number: str, states: list[tuple[Charge, Window]]) -> None:
        """These were taken from for the reservation of that id, which ends in them."""
        self._taken[number] = states

    def tidy(self) -> None:
        """Forget whom nobody will miss, now and then."""
        self._forget_idle(self._clock())

    async def complete(self, reservation: Reservation, lesson: Lesson | None = None) -> None:
        now_us = self._clock()
        refused = 0 if lesson is None else lesson.refused
        for charge, window in self._taken.pop(reservation.id, ()):
            if refused and isinstance(window, LearnedWindow):  # what was refused was not counted
                back = min(refused, charge.cost)
                window.refund(back)
                window.complete(charge.cost - back, now_us)
            else:
                window.complete(charge.cost, now_us)
        if lesson is not None:
            self._learn(reservation.charges, lesson, now_us)

    def _learn(self, charges: tuple[Charge, ...], lesson: Lesson, now_us: int) -> None:
        for charge in charges:
            if charge.quota.window is WindowKind.LEARNED:
                window = self._window(charge)
                assert isinstance(window, LearnedWindow)  # noqa: S101
                before = window.limit
                window.learn(lesson, now_us)
                if window.limit > before:
                    for changed in self._listeners:
                        changed()

    async def refund(self, reservation: Reservation) -> None:
        for charge, window in self._taken.pop(reservation.id, ()):
            window.refund(charge.cost)

    @property
    def poll_us(self) -> None:
        """All replies come here."""

    async def start(self) -> None:
        """Nothing to do: the windows are here."""

    async def stop(self) -> None:
        """Nothing to do."""

    def narrow(self, part: Callable[[], int]) -> None:
        self._part = part

    def allows(self, charge: Charge) -> int:
        kept = self._windows.get(charge.key)
        return charge.quota.limit if kept is None else kept.window.limit

    def listen(self, changed: Callable[[], None]) -> None:
        """What was foretold holds, but for a limit that turns out higher: nobody else takes anything."""
        self._listeners.append(changed)

    def adopt(self, quotas: Iterable[Quota]) -> None:
        """These are the rules from now on: windows are fitted at once, those of no rule kept until they are idle."""
        before, self._rules = self._rules, {quota.name: quota for quota in quotas}
        now_us = self._clock()
        if before is not None:
            self._new_since |= {name: ColdStart(now_us) for name in new_exact(before, self._rules)}
        for key, kept in self._windows.items():
            quota = self._today(kept.quota)
            window = kept.window if quota == kept.quota else quota.fitted(kept.window, now_us)
            self._windows[key] = _Kept(quota, window)
        self._forget_removed(now_us)

    async def usage(self, charges: Sequence[Charge] | None = None) -> list[Usage]:
        now_us = self._clock()
        if charges is not None:
            return [self._usage_of(charge, now_us) for charge in charges]
        self._sweep(now_us)
        return [usage_of(key, kept.quota, kept.window, now_us) for key, kept in self._windows.items()]

    def _usage_of(self, charge: Charge, now_us: int) -> Usage:
        """Without making a window: nobody has taken from it."""
        kept = self._windows.get(charge.key)
        if kept is None:
            quota = self._today(charge.quota)
            return usage_of(charge.key, quota, self._new_window(quota), now_us)
        return usage_of(charge.key, kept.quota, kept.window, now_us)

    def status(self) -> dict[str, Any]:
        return {"kind": "memory", "status": "cold" if self.cold else "ok"}

    def windows(self) -> int:
        return len(self._windows)

    def _window(self, charge: Charge) -> Window:
        kept = self._windows.get(charge.key)
        if kept is None:
            self._until_sweep -= 1
            quota = self._today(charge.quota)
            kept = self._windows[charge.key] = _Kept(quota, self._new_window(quota))
        elif kept.quota is not charge.quota:
            # A request that has waited since before a reload: the window is fitted to the rule of today.
            quota = self._today(charge.quota)
            if kept.quota is not quota:
                window = kept.window if kept.quota == quota else quota.fitted(kept.window, self._clock())
                kept = self._windows[charge.key] = _Kept(quota, window)
        return kept.window

    def _new_window(self, quota: Quota) -> Window:
        cold = self._new_since.get(quota.name, self._cold)
        return quota.new_window() if cold is None else cold.new_window(quota, self._clock())

    def _today(self, quota: Quota) -> Quota:
        """The rule that goes on with the windows of a quota: of its name, and of the same partition. Or itself."""
        rule = None if self._rules is None else self._rules.get(quota.name)
        return quota if rule is None or rule.partition != quota.partition else rule

    def _forget_removed(self, now_us: int) -> None:
        """Windows of no rule are kept as long as there is something in them: who waits for them still does."""
        rules = self._rules
        if rules is None:
            return
        gone = [key for key, kept in self._windows.items() if rules.get(kept.quota.name) is not kept.quota]
        for key in gone:
            if self._windows[key].window.idle(now_us):
                del self._windows[key]

    def _sweep(self, now_us: int) -> None:
        for key in [key for key, kept in self._windows.items() if kept.window.idle(now_us)]:
            del self._windows[key]

    def _forget_idle(self, now_us: int) -> None:
        """Windows of clients that have gone would otherwise pile up, one for each address ever seen.

        Only between two admissions: within one, a window that is not yet taken from looks idle too.
        """
        if self._until_sweep <= 0:
            self._sweep(now_us)
            self._until_sweep = max(_SWEEP_EVERY, len(self._windows))
