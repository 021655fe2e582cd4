"""The store of a gateway that stands alone: windows in this process, decided without a single suspension."""

from __future__ import annotations

from typing import Final

from policies.admission import Admission, Admitted, Charge, admit
from policies.window import Window
from proxy.clock import Clock
from proxy.store import Reservation, Usage

_SWEEP_EVERY: Final = 1024
"""New windows between two looks for idle ones: the cost of forgetting is spread over the cost of remembering."""


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], Window] = {}
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
            Usage(key, window.limit, window.window_us, window.used(now_us)) for key, window in self._windows.items()
        ]

    def _window(self, charge: Charge) -> Window:
        window = self._windows.get(charge.key)
        if window is None:
            self._forget_idle()
            window = self._windows[charge.key] = charge.quota.new_window()
        return window

    def _forget_idle(self) -> None:
        """Windows of clients that have gone would otherwise pile up, one for each address ever seen."""
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        now_us = self._clock()
        for key in [key for key, window in self._windows.items() if window.idle(now_us)]:
            del self._windows[key]
        self._until_sweep = max(_SWEEP_EVERY, len(self._windows))
