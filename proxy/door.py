"""The door: what a client spends of its own quotas by asking, whether the exchange hears of it or not."""

from __future__ import annotations

from policies.admission import Admitted, Refused
from proxy.describe import Asked
from proxy.limiter import Limiter
from proxy.replies import limited_as
from proxy.telemetry import Story, Telemetry


class Door:
    """Each request passes once, by one of the two ways."""

    def __init__(self, limiter: Limiter, telemetry: Telemetry) -> None:
        self._limiter = limiter
        self._telemetry = telemetry
        self._met = telemetry.metrics.limit_hits.counts

    def let_in_now(self, asked: Asked, story: Story) -> bool:
        """Whether there is room at once; it is spent then. Else nothing is."""
        claim = asked.claim
        if claim.charges:
            admitted = self._limiter.spend_now(claim)
            if admitted is None:
                return False
            self._met[limited_as(asked.descriptor)] += 1
            self._tell(asked, story, admitted)
        return True

    async def let_in(self, asked: Asked, story: Story) -> Refused | None:
        """As soon as there is room, or never."""
        self._met[limited_as(asked.descriptor)] += 1
        answer = await self._limiter.spend(asked.claim)
        if isinstance(answer, Refused):
            return answer
        self._tell(asked, story, answer)
        return None

    def _tell(self, asked: Asked, story: Story, admitted: Admitted) -> None:
        story.door_charges = asked.claim.charges
        self._telemetry.count_admitted(asked.claim.charges, admitted)
