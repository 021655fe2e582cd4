"""What is known of one request, from its arrival to its end."""

from __future__ import annotations

from policies.admission import Charge
from policies.descriptor import Descriptor
from policies.traceparent import Trace
from proxy.steps import Steps


class Story:
    """What is known of one request so far. The corridor writes it, nobody reads it before the end.

    What stays at its default is not written for every request: this is on the hot path.
    """

    endpoint = "unknown"
    descriptor: Descriptor | None = None
    """Who asks and what, once that is understood."""
    trace: Trace | None = None
    """The trace that it belongs to, if its client has named one or it begins one of its own."""
    steps: Steps | None = None
    """Noted on the way of a request of which spans are made; None for all others."""
    source = "gateway"
    """Who made the answer: exchange, cache or gateway."""
    status = 0
    outcome = ""
    """Why the gateway answered itself, or what went wrong; empty for whole answers of the exchange."""
    rule = ""
    cache = ""
    ret_code: int | None = None
    upstream_status = 0
    """Both of the latest answer that the exchange gave, whatever the client was given; 0: it gave none."""
    attempts = 0
    waited_us = 0
    upstream_us = 0
    streamed_us = 0
    """When the answer began to be given at the pace of its reader; 0: it was not."""
    door_charges: tuple[Charge, ...] = ()
    sent_charges: tuple[Charge, ...] = ()
    """What it was charged for asking, and for its latest attempt."""
    body_bytes = 0
    asked_bytes = 0
    """Of the bodies of the answer and of the request."""
    took_us = 0
    """Known at the end."""

    def __init__(self, request_id: str, method: str, began_us: int) -> None:
        self.request_id = request_id
        self.method = method
        self.began_us = began_us

    @property
    def exemplar(self) -> str:
        """The trace where somebody can look at this very request; empty where none is kept."""
        return self.trace.trace_id if self.trace is not None and self.trace.sampled else ""
