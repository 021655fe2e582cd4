"""The store of a gateway that stands alone: windows in this process, decided without a single suspension."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from policies.admission import Admission, Admitted, Charge, Quota, admit
from policies.window import Window
from proxy.clock import Clock
from proxy.store import Reservation, Usage

_SWEEP_EVERY: Final = 1024
"""New windows between two looks for idle ones: the cost of forgetting is spread over the cost of remembering."""


class _Kept(NamedTuple):
    """A window, and the quota that it is fitted to."""

    quota: Quota
    window: Window


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], _Kept] = {}
        self._taken: dict[str, list[tuple[Charge, Window]]] = {}
        """What a reservation ends in: the windows that it was taken from, whatever has become of the rules since."""
        self._rules: dict[str, Quota] | None = None
        """By name; None until somebody says."""
        self._until_sweep = _SWEEP_EVERY

    async def reserve(self, reservation: Reservation) -> Admission:
        if reservation.id in self._taken:
            return Admitted()
        now_us = self._clock()
        self._forget_idle(now_us)
        states = [(charge, self._window(charge)) for charge in reservation.charges]
        admission = admit(states, now_us)
        if isinstance(admission, Admitted):
            over = admission.over
            self._taken[reservation.id] = [state for state in states if state[0] not in over] if over else states
        return admission

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        return self.spend_now(charges)

    def spend_now(self, charges: tuple[Charge, ...]) -> Admission:
        now_us = self._clock()
        self._forget_idle(now_us)
        return admit([(charge, self._window(charge)) for charge in charges], now_us)

    async def complete(self, reservation: Reservation) -> None:
        now_us = self._clock()
        for charge, window in self._taken.pop(reservation.id, ()):
            window.complete(charge.cost, now_us)

    async def refund(self, reservation: Reservation) -> None:
        for charge, window in self._taken.pop(reservation.id, ()):
            window.refund(charge.cost)

    def adopt(self, quotas: Iterable[Quota]) -> None:
        """These are the rules from now on: windows are fitted at once, those of no rule kept until they are idle."""
        self._rules = {quota.name: quota for quota in quotas}
        now_us = self._clock()
        for key, kept in self._windows.items():
            quota = self._today(kept.quota)
            window = kept.window if quota == kept.quota else quota.fitted(kept.window, now_us)
            self._windows[key] = _Kept(quota, window)
        self._forget_removed(now_us)

    async def usage(self) -> list[Usage]:
        now_us = self._clock()
        self._sweep(now_us)
        return [
            Usage(key, kept.quota, kept.window.used(now_us), kept.window.wait_us(1, now_us))
            for key, kept in self._windows.items()
        ]

    def _window(self, charge: Charge) -> Window:
        kept = self._windows.get(charge.key)
        if kept is None:
            self._until_sweep -= 1
            quota = self._today(charge.quota)
            kept = self._windows[charge.key] = _Kept(quota, quota.new_window())
        elif kept.quota is not charge.quota:
            # A request that has waited since before a reload: the window is fitted to the rule of today.
            quota = self._today(charge.quota)
            if kept.quota is not quota:
                kept = self._windows[charge.key] = _Kept(quota, quota.fitted(kept.window, self._clock()))
        return kept.window

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
