"""Leaves an upstream alone that fails; what an operator exempts is sent all the same. policies/circuit.py decides."""

from __future__ import annotations

from typing import Any, NamedTuple

import structlog

from policies.admission import Match
from policies.circuit import Circuit, CircuitRules, State
from policies.descriptor import Descriptor
from proxy.clock import Clock
from proxy.errors import Broken


class Tried(NamedTuple):
    """A call that was let through: by which circuit, and whether as one of those that it counts when it is not closed.
    A reload may change what is exempt before the call ends."""

    circuit: Circuit | None
    counts: bool


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

    @property
    def left_us(self) -> int:
        """How much longer it stays open; 0 where it is not."""
        now_us = self._clock()
        circuit = self._circuit
        return 0 if circuit is None or circuit.state(now_us) is not State.OPEN else circuit.wait_us(now_us)

    def adopt(self, rules: CircuitRules | None, exempt: tuple[Match, ...]) -> None:
        """After a reload. It begins closed where its rules have changed."""
        self._exempt = exempt
        if rules is None:
            self._circuit = None
        elif self._circuit is None or self._circuit.rules != rules:
            self._circuit = Circuit(rules)

    def may_pass(self, descriptor: Descriptor) -> None:
        """Raises Broken while nothing is sent."""
        wait_us = self.wait_us(descriptor)
        if wait_us:
            raise Broken(wait_us)

    def wait_us(self, descriptor: Descriptor) -> int:
        """For how long nothing of its kind is sent; 0 while it is."""
        circuit = self._circuit
        wait_us = 0 if circuit is None else circuit.wait_us(self._clock())
        return wait_us if wait_us and not self._is_exempt(descriptor) else 0

    def take(self, descriptor: Descriptor) -> Tried:
        """The same, and a place among those that try it again. The answer goes to ended() or failed()."""
        circuit, now_us = self._circuit, self._clock()
        if circuit is None or self._is_exempt(descriptor):
            return Tried(circuit, counts=False)
        if not circuit.take(now_us):
            raise Broken(circuit.wait_us(now_us))
        return Tried(circuit, counts=True)

    def ended(self, tried: Tried, sent_us: int, *, failed: bool) -> None:
        circuit, now_us = tried.circuit, self._clock()
        if circuit is None:
            return
        if tried.counts or circuit.state(now_us) is State.CLOSED:
            circuit.ended(now_us, now_us - sent_us, failed=failed)
            self._look()

    def failed(self, tried: Tried, sent_us: int, *, of_ours: bool = False) -> None:
        """No answer. `of_ours`: and not because of the upstream."""
        if not of_ours:
            self.ended(tried, sent_us, failed=True)
        elif tried.circuit is not None and tried.counts:
            tried.circuit.given_back(sent_us)

    def _is_exempt(self, descriptor: Descriptor) -> bool:
        return any(match.accepts(descriptor) for match in self._exempt)

    def _look(self) -> None:
        state = self.state
        if state is not self._shown:
            self._shown = state
            self._log.warning("breaker", state=state.name.lower())
