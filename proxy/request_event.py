"""What the log says of a request: one event, in the same words as the code, and of which requests it is said.

A request that took longer than `log.slow` is told as `slow_request`, where its time has gone included; every other one
as `request`, of plain hits only so many in a hundred as `log.sample_hits` says.
"""

from __future__ import annotations

from http import HTTPMethod
from typing import Any, Final

from policies.admission import Charge
from policies.descriptor import Descriptor
from policies.priority import Priority
from proxy import log
from proxy.metrics import Metrics
from proxy.story import Story

_NEVER_US: Final = 1 << 62
_SHOWN_OF_A_HASH: Final = 12
_METHODS: Final = frozenset(method.value for method in HTTPMethod)
_CLASSES: Final = {priority: priority.name.lower() for priority in Priority}


class RequestLog:
    """`sample_hits` is a percentage; `slow_us` None: no request is called slow."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._write = log.request_events()
        self.adopt(100, None)

    def adopt(self, sample_hits: int, slow_us: int | None) -> None:
        """Say it of these from now on."""
        self.sample_hits, self.slow_us = sample_hits, slow_us
        self._bound_us = _NEVER_US if slow_us is None else slow_us
        # The first hit of all is told, so that nobody looks in vain for the one that he has just caused.
        self._owed = 100 - max(1, sample_hits)

    def tell(self, story: Story) -> None:
        """On the hot path."""
        # What is streamed goes at the pace of its reader: it is judged by when it began.
        took_us = story.streamed_us - story.began_us if story.streamed_us else story.took_us
        if took_us > self._bound_us:
            self._metrics.slow.labels(story.endpoint).inc()
            self._write({**event_of(story), **_breakdown(story)}, slow=True)
        elif log.tells_requests():
            plain = _is_plain_hit(story)
            if not plain or self.sample_hits == 100 or self._is_its_turn():
                self._write(_hit_of(story) if plain else event_of(story))

    def _is_its_turn(self) -> bool:
        """Of a hundred that are asked about as many as configured, evenly spread."""
        self._owed += self.sample_hits
        if self._owed >= 100:
            self._owed -= 100
            return True
        self._metrics.unlogged.counts[()] += 1
        return False


def event_of(story: Story) -> dict[str, Any]:
    """What is empty is left out. None of it is a text of the client's own making."""
    event = _hit_of(story)
    if not _is_plain_hit(story):
        _add_way(event, story)
    return event


def _hit_of(story: Story) -> dict[str, Any]:
    """Short: one is like the other."""
    descriptor = story.descriptor
    event: dict[str, Any] = {
        "id": story.request_id,
        "method": story.method if story.method in _METHODS else "other",
        "endpoint": story.endpoint,
        "ip": "" if descriptor is None else descriptor.ip,
        "status": story.status,
        "source": story.source,
        "took_us": story.took_us,
        "bytes": story.body_bytes,
    }
    if descriptor is not None and descriptor.client is not None:
        event["client"] = _shown(descriptor)
        if descriptor.tier is not None:
            event["tier"] = descriptor.tier
    if story.cache:
        event["cache"] = story.cache
    if story.trace is not None:
        event["trace_id"] = story.trace.trace_id
    return event


def _add_way(event: dict[str, Any], story: Story) -> None:
    """What became of it past the cache."""
    event["waited_us"] = story.waited_us
    event["upstream_us"] = story.upstream_us
    event["attempts"] = story.attempts
    if story.descriptor is not None:
        event["priority"] = _CLASSES[story.descriptor.priority]
    if charges := story.door_charges + story.sent_charges:
        event["charges"] = _names(charges)
    if story.upstream_status and (story.source != "exchange" or story.upstream_status != story.status):
        event["upstream_status"] = story.upstream_status
    if story.ret_code is not None:
        event["ret_code"] = story.ret_code
    if story.outcome:
        event["outcome"] = story.outcome
    if story.rule:
        event["rule"] = story.rule
    if story.asked_bytes:
        event["bytes_in"] = story.asked_bytes


def _breakdown(story: Story) -> dict[str, int]:
    """Where its time has gone. Of several questions at a time each has waited: their sum can be more than there was."""
    answered_us = story.streamed_us - story.began_us if story.streamed_us else story.took_us
    own_us = max(0, answered_us - story.waited_us - story.upstream_us)
    return {"waited_us": story.waited_us, "upstream_us": story.upstream_us, "own_us": own_us}


def _is_plain_hit(story: Story) -> bool:
    """Answered from what was kept and still good, without a wait: one is like the other."""
    return (
        story.source == "cache"
        and story.cache != "stale"
        and not (story.attempts or story.waited_us or story.upstream_us or story.outcome)
    )


def _names(charges: tuple[Charge, ...]) -> str:
    """Of the rules. Put together each time: to look a tuple of charges up somewhere takes longer."""
    return ",".join([charge.quota.name for charge in charges])


def _shown(descriptor: Descriptor) -> str | None:
    """A name, an address, or enough of an account's hash to tell it from others."""
    client = descriptor.client
    return client[:_SHOWN_OF_A_HASH] if client is not None and client == descriptor.api_key else client
