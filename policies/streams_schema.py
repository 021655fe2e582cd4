"""The `streams` section: WebSocket connections of clients, passed through to the exchange."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from policies.admission import Counts, Quota, RefuseWith, WhenFull, WindowKind
from policies.quantities import Rate
from policies.schema import RateText, Section, SizeBytes

_NEW: Final = Rate(400, 300_000_000)
"""The exchange allows 500. What is left is for the gateway's own streams of candles, and for a restart."""


class StreamsSection(Section):
    """What the exchange allows: https://bybit-exchange.github.io/docs/v5/ws/connect"""

    enabled: bool = Field(default=True, description="Pass WebSocket connections through; false: they get a 501.")
    new: RateText = Field(
        default=_NEW, description="New connections in any window of that length, of all gateways of the address."
    )
    concurrent: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="Connections at one time to one stream, of all gateways of the address together."
    )
    max_message: Annotated[SizeBytes, Field(ge=1 << 10, le=1 << 30)] = Field(
        default=4 << 20, description="A longer message ends its connection; 1KiB to 1GiB."
    )

    def quota(self) -> Quota:
        """Of new connections."""
        return Quota(
            name="stream-new",
            limit=self.new.limit,
            window_us=self.new.window_us,
            partition=("egress",),
            counts=Counts.UPSTREAM,
            window=WindowKind.SENT,
            when_full=WhenFull.REFUSE,
            refuse_with=RefuseWith.HTTP,
        )
