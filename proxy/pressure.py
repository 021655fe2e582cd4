"""How hard pressed this gateway is, and what it therefore turns away: policies/pressure.py, with a memory."""

from __future__ import annotations

from typing import Any

import structlog

from policies.pressure import Level, Readings, Rules, State, judged, sheds
from policies.priority import Priority
from proxy.clock import Clock
from proxy.metrics import Metrics


class Pressure:
    """`rules` None: it is never hard pressed."""

    def __init__(self, rules: Rules | None, metrics: Metrics, clock: Clock) -> None:
        self._rules = rules
        self._state = State()
        self._metrics = metrics
        self._clock = clock
        self._log: Any = structlog.get_logger()

    @property
    def level(self) -> Level:
        return self._state.level

    @property
    def because(self) -> str:
        """The signal that has raised it; empty when it is normal."""
        return self._state.because

    def adopt(self, rules: Rules | None) -> None:
        """After a reload. The level stays until the samples that follow say otherwise."""
        self._rules = rules
        if rules is None:
            self._become(State(), Readings())

    def note(self, readings: Readings) -> None:
        """One more sample."""
        if self._rules is not None:
            self._become(judged(self._state, readings, self._rules, self._clock()), readings)

    def sheds(self, priority: Priority) -> bool:
        """Whether requests of this class are turned away, rather than sent to the exchange."""
        return sheds(self._state.level, priority)

    def _become(self, state: State, readings: Readings) -> None:
        before, self._state = self._state.level, state
        if state.level is before:
            return
        self._metrics.pressure.set(state.level)
        tell = self._log.warning if state.level > before else self._log.info
        # `level` is the word of the log for how important an event is.
        tell("backpressure", pressure=state.level.name.lower(), because=state.because, **readings._asdict())
