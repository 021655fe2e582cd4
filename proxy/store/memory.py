"""The store of a gateway that stands alone: windows in this process, decided without a single suspension."""

from __future__ import annotations

from typing import Final, NamedTuple

from policies.admission import Admission, Admitted, Charge, Quota, admit
from policies.window import Window
from proxy.clock import Clock
from proxy.store import Reservation, Usage

_SWEEP_EVERY: Final = 1024
"""New windows between two looks for idle ones: the cost of forgetting is spread over the cost of remembering."""


class _Kept(NamedTuple):
    """A window, and the quota it was made for: after a reload the next charge brings another."""

    quota: Quota
    window: Window


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], _Kept] = {}
        self._taken: dict[str, tuple[Charge, ...]] = {}
        self._until_sweep = _SWEEP_EVERY

    async def reserve(self, reservation: Reservation) -> Admission:
        if reservation.id in self._taken:
            return Admitted()
        now_us = self._clock()
        charges = reservation.charges
        admission = admit([(charge, self._window(charge)) for charge in charges], now_us)
        if isinstance(admission, Admitted):
            over = admission.over
            self._taken[reservation.id] = tuple(charge for charge in charges if charge not in over) if over else charges
        return admission

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        return admit([(charge, self._window(charge)) for charge in charges], self._clock())

    async def complete(self, reservation: Reservation) -> None:
        now_us = self._clock()
        for charge in self._taken.pop(reservation.id, ()):
            self._window(charge).complete(charge.cost, now_us)

    async def refund(self, reservation: Reservation) -> None:
        for charge in self._taken.pop(reservation.id, ()):
            self._window(charge).refund(charge.cost)

    async def usage(self) -> list[Usage]:
        now_us = self._clock()
        return [
            Usage(key, kept.window.limit, kept.window.window_us, kept.window.used(now_us))
            for key, kept in self._windows.items()
        ]

    def _window(self, charge: Charge) -> Window:
        kept = self._windows.get(charge.key)
        if kept is None:
            self._forget_idle()
            kept = self._windows[charge.key] = _Kept(charge.quota, charge.quota.new_window())
        elif kept.quota is not charge.quota:
            kept = self._windows[charge.key] = _Kept(charge.quota, charge.quota.fitted(kept.window, self._clock()))
        return kept.window

    def _forget_idle(self) -> None:
        """Windows of clients that have gone would otherwise pile up, one for each address ever seen."""
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        now_us = self._clock()
        for key in [key for key, kept in self._windows.items() if kept.window.idle(now_us)]:
            del self._windows[key]
        self._until_sweep = max(_SWEEP_EVERY, len(self._windows))
