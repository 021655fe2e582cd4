"""Holds an order request until those that it must not overtake are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from policies.orders import Entry, Operation, OrderLanes
from proxy.clock import Clock


class Passage:
    """A place in the order of an account. Released once its request is answered, or known not to have been sent."""

    def __init__(self, gate: OrderGate, entry: Entry) -> None:
        self._gate = gate
        self._entry = entry

    def release(self, _: object = None) -> None:
        """Let those behind go on. Again changes nothing."""
        self._gate.release(self._entry)


class OrderGate:
    """One for the whole gateway; accounts do not concern each other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes = OrderLanes()
        self._held: dict[Entry, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        """Requests that are on their way or held."""
        return len(self._lanes)

    @property
    def held(self) -> int:
        return len(self._held)

    async def enter(self, account: str, operations: Sequence[Operation], until_us: int) -> Passage | None:
        """Stand in line and wait for one's turn; None when it does not come in time. Cancelled, nothing is held."""
        entry = self._lanes.enter(account, operations)
        if entry.waits_for:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held[entry] = turn
            try:
                async with asyncio.timeout(max(0.0, (until_us - self._clock()) / 1e6)):
                    await turn
            except TimeoutError:
                self.release(entry)
                return None
            except BaseException:
                self.release(entry)
                raise
            finally:
                self._held.pop(entry, None)
        return Passage(self, entry)

    def release(self, entry: Entry) -> None:
        for freed in self._lanes.leave(entry):
            turn = self._held.get(freed)
            if turn is not None and not turn.done():
                turn.set_result(None)
