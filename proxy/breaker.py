"""Leaves an upstream alone that fails; what an operator exempts is sent all the same. policies/circuit.py decides."""

from __future__ import annotations

from typing import Any

import structlog

from policies.admission import Match
from policies.circuit import Circuit, CircuitRules, State
from policies.descriptor import Descriptor
from proxy.clock import Clock
from proxy.errors import Broken


class Breaker:
    """may_pass() on arrival, take() before each attempt, then one of ended(), failed() for each that was taken."""

    def __init__(self, rules: CircuitRules | None, exempt: tuple[Match, ...], clock: Clock) -> None:
        """`rules` None: it never opens."""
        self._circuit = None if rules is None else Circuit(rules)
        self._exempt = exempt
        self._clock = clock
        self._shown = State.CLOSED
        self._log: Any = structlog.get_logger()

    @property
    def state(self) -> State:
        return State.CLOSED if self._circuit is None else self._circuit.state(self._clock())

    def adopt(self, rules: CircuitRules | None, exempt: tuple[Match, ...]) -> None:
        """After a reload. It begins closed where its rules have changed."""
        self._exempt = exempt
        if rules is None:
            self._circuit = None
        elif self._circuit is None or self._circuit.rules != rules:
            self._circuit = Circuit(rules)

    def may_pass(self, descriptor: Descriptor) -> None:
        """Raises Broken while nothing is sent."""
        circuit = self._circuit
        if circuit is not None and (wait_us := circuit.wait_us(self._clock())) and not self._is_exempt(descriptor):
            raise Broken(wait_us)

    def take(self, descriptor: Descriptor) -> None:
        """The same, and a place among those that try it again."""
        circuit, now_us = self._circuit, self._clock()
        if circuit is not None and not self._is_exempt(descriptor) and not circuit.take(now_us):
            raise Broken(circuit.wait_us(now_us))

    def ended(self, descriptor: Descriptor, sent_us: int, *, failed: bool) -> None:
        circuit, now_us = self._circuit, self._clock()
        if circuit is None:
            return
        if circuit.state(now_us) is State.CLOSED or not self._is_exempt(descriptor):
            circuit.ended(now_us, now_us - sent_us, failed=failed)
            self._look(circuit.state(now_us))

    def failed(self, descriptor: Descriptor, sent_us: int, *, of_ours: bool = False) -> None:
        """No answer. `of_ours`: and not because of the upstream."""
        if not of_ours:
            self.ended(descriptor, sent_us, failed=True)
        elif self._circuit is not None and not self._is_exempt(descriptor):
            self._circuit.given_back(sent_us)

    def _is_exempt(self, descriptor: Descriptor) -> bool:
        return any(match.accepts(descriptor) for match in self._exempt)

    def _look(self, state: State) -> None:
        if state is not self._shown:
            self._shown = state
            self._log.warning("breaker", state=state.name.lower())
