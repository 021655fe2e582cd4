"""How much of the shared budget is used while the exchange protects itself: additive increase, multiplicative
decrease.

HTTP 429 and its codes name no limit and no reset: the exchange as a whole is asked for too much. Each such answer
halves what we send; answers to requests that had left before do not halve it again. It comes back by a twentieth with
every second that passes without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policies.admission import WHOLE

_LEAST: Final = 100_000
_STEP: Final = 50_000
_STEP_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Throttle:
    """`part`: of the budget, in millionths, when it was last cut."""

    part: int = WHOLE
    cut_us: int = 0

    def now(self, now_us: int) -> int:
        """The part that may be used, in millionths."""
        return min(WHOLE, self.part + _STEP * max(0, now_us - self.cut_us) // _STEP_US)

    def cut(self, sent_us: int, now_us: int) -> Throttle:
        """A request that was sent then has been refused."""
        if sent_us < self.cut_us:
            return self
        return Throttle(max(_LEAST, self.now(now_us) // 2), now_us)
