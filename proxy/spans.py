"""A request's story as spans: itself, what it waited for, where it looked, what was sent.

Names and attributes follow the semantic conventions for HTTP as far as they are harmless: no query, no header, no body,
nothing of who asks. https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from http import HTTPMethod
from typing import Final, NamedTuple

from policies.routing import OWN, UNKNOWN
from proxy.steps import Steps, Try
from proxy.story import Story

Attributes = Mapping[str, str | int | bool]

_METHODS: Final = frozenset(method.value for method in HTTPMethod)
_LONGEST_PATH: Final = 128
_WORD: Final = re.compile(r"[a-z_-]{0,40}|v[0-9]{1,2}")
_NO_ANSWER: Final = frozenset({"client-gone"})
"""Ends that are nobody's error."""


class Kind(Enum):
    SERVER = auto()
    INTERNAL = auto()
    CLIENT = auto()


class Span(NamedTuple):
    """`error`: in a word, empty where nothing went wrong."""

    name: str
    kind: Kind
    began_us: int
    ended_us: int
    attributes: Attributes
    error: str = ""


class Place(NamedTuple):
    """A host as traces name it."""

    address: str
    port: int


class Cast(NamedTuple):
    """The gateway and the exchange."""

    gateway: Place
    exchange: Place
    exchange_scheme: str


def spans_of(story: Story, steps: Steps, cast: Cast) -> list[Span]:
    """The request's own span first; all others lie inside it, in time too."""
    began_us, ended_us = story.began_us, story.began_us + max(0, story.took_us)
    spans = [_request(story, steps, cast, ended_us), _admit(story, steps, ended_us)]
    looked = _looked_up(story, steps, ended_us)
    if looked is not None:
        spans.append(looked)
    spans += [
        Span("queue", Kind.INTERNAL, wait.began_us, wait.ended_us or ended_us, {"gateway.wait": wait.why})
        for wait in steps.waits
        if wait.ended_us != wait.began_us
    ]
    spans += [_sent(story, attempt, number, cast, ended_us) for number, attempt in enumerate(steps.tries)]
    return [spans[0], *(_within(span, began_us, ended_us) for span in spans[1:])]


def cache_word(story: Story, steps: Steps) -> str:
    """hit, stale, collapsed, miss or bypass; empty where no cache had to do with it."""
    cache = story.cache
    if cache in {"hit", "stale"}:
        return cache
    if cache.removeprefix("fwd=") in {"bypass", "request"}:
        return "bypass"
    if cache.endswith("collapsed") or (steps.leader is not None and not (cache or steps.tries)):
        return "collapsed"
    return "miss" if cache or steps.missed else ""


def _request(story: Story, steps: Steps, cast: Cast, ended_us: int) -> Span:
    known = story.method in _METHODS
    attributes: dict[str, str | int | bool] = {
        "http.request.method": story.method if known else "_OTHER",
        "http.route": story.endpoint,
        "url.scheme": "http",
        "server.address": cast.gateway.address,
        "network.protocol.version": steps.version,
        "gateway.request_id": story.request_id,
        "gateway.source": story.source,
    }
    if cast.gateway.port:
        attributes["server.port"] = cast.gateway.port
    descriptor = story.descriptor
    if descriptor is not None:
        listed = story.endpoint != UNKNOWN and story.endpoint not in OWN
        attributes["url.path"] = descriptor.path if listed else _shown(descriptor.path)
        if descriptor.tier is not None:
            attributes["gateway.tier"] = descriptor.tier
    if story.status:
        attributes["http.response.status_code"] = story.status
        attributes["http.response.body.size"] = story.body_bytes
    if story.ret_code is not None:
        attributes["bybit.ret_code"] = story.ret_code
    words = {"cache": cache_word(story, steps), "rule": story.rule, "outcome": story.outcome}
    attributes.update({f"gateway.{name}": word for name, word in words.items() if word})
    error = ""
    if story.status >= 500 or (not story.status and story.outcome not in _NO_ANSWER):
        error = attributes["error.type"] = story.outcome or str(story.status)
    name = f"{story.method if known else 'HTTP'} {story.endpoint}"
    return Span(name, Kind.SERVER, story.began_us, ended_us, attributes, error)


def _admit(story: Story, steps: Steps, ended_us: int) -> Span:
    """Who asks what, and may he: up to the door, or to where he was turned away."""
    admitted = bool(steps.admitted_us)
    attributes: dict[str, str | int | bool] = {"gateway.admitted": admitted}
    if not admitted and story.rule:
        attributes["gateway.rule"] = story.rule
    return Span("admit", Kind.INTERNAL, story.began_us, steps.admitted_us or ended_us, attributes)


def _looked_up(story: Story, steps: Steps, ended_us: int) -> Span | None:
    """Until something was found, or the next thing began; of who waits for another's fetch, all that time."""
    word = cache_word(story, steps)
    if not word or not steps.admitted_us:
        return None
    if word == "bypass":
        until_us = steps.admitted_us
    else:
        begun = [wait.began_us for wait in steps.waits] + [attempt.sent_us for attempt in steps.tries]
        until_us = min(begun, default=ended_us)
    return Span("cache", Kind.INTERNAL, steps.admitted_us, until_us, {"gateway.cache": word})


def _sent(story: Story, attempt: Try, number: int, cast: Cast, ended_us: int) -> Span:
    method = story.method if story.method in _METHODS else "_OTHER"
    attributes: dict[str, str | int | bool] = {
        "http.request.method": method,
        "url.scheme": cast.exchange_scheme,
        "server.address": cast.exchange.address,
        "server.port": cast.exchange.port,
    }
    if number:
        attributes["http.request.resend_count"] = number
    if attempt.status:
        attributes["http.response.status_code"] = attempt.status
    if attempt.ret_code is not None:
        attributes["bybit.ret_code"] = attempt.ret_code
    error = attempt.error or (str(attempt.status) if attempt.status >= 400 else "")
    if error:
        attributes["error.type"] = error
    if not attempt.ended_us:  # its client has not waited for it
        attributes["gateway.unfinished"] = True
    name = f"{'HTTP' if method == '_OTHER' else method} bybit"
    return Span(name, Kind.CLIENT, attempt.sent_us, attempt.ended_us or ended_us, attributes, error)


def _within(span: Span, began_us: int, ended_us: int) -> Span:
    """What goes on after its request has ended, or began before, is cut off there."""
    since_us = min(max(span.began_us, began_us), ended_us)
    until_us = min(max(span.ended_us, since_us), ended_us)
    return span._replace(began_us=since_us, ended_us=until_us)


def _shown(path: str) -> str:
    """What is not listed is its client's own invention: it may hold a key, or bytes that are no text."""
    segments = path[:_LONGEST_PATH].split("/")
    return "/".join([segment if _WORD.fullmatch(segment) else "*" for segment in segments])
