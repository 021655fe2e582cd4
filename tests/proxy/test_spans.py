"""Whatever happened to a request, and whenever: its spans lie inside it, are short, and can be encoded."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.descriptor import Descriptor
from proxy.config import load_routes
from proxy.spans import Cast, Kind, Place, cache_word, spans_of
from proxy.steps import Steps
from proxy.story import Story

CAST: Final = Cast(Place("gateway-1", 8080), Place("api.bybit.com", 443), "https")
INSTANTS: Final = st.integers(0, 100)
ENDS: Final = st.one_of(st.just(0), INSTANTS)
TEXT: Final = st.text(st.characters(codec=None, categories=None), max_size=300)


def of(path: str = "/v5/market/time", method: str = "GET", endpoint: str = "server-time") -> Story:
    story = Story("id-1", method, 40)
    story.endpoint, story.took_us = endpoint, 20
    story.descriptor = Descriptor(method, path, "secret=1", endpoint, "egress", "203.0.113.7")
    return story


@given(
    st.lists(st.tuples(st.sampled_from(["queue", "order-lane", "pause"]), INSTANTS, ENDS), max_size=4),
    st.lists(st.tuples(INSTANTS, ENDS, st.sampled_from([0, 200, 404, 500])), max_size=4),
    ENDS,
    st.sampled_from(["", "hit", "stale", "bypass", "fwd=bypass", "uri-miss", "fwd=uri-miss; collapsed"]),
)
def test_every_span_lies_inside_its_request(
    waits: list[tuple[str, int, int]], tries: list[tuple[int, int, int]], admitted_us: int, cache: str
) -> None:
    """Clocks may be odd, and what is sent may be answered when nobody waits any more."""
    story, steps = of(), Steps(1, 2, "", "1.1")
    story.cache, steps.admitted_us = cache, admitted_us
    for why, began_us, ended_us in waits:
        steps.wait(why, began_us, ended_us)
    for sent_us, ended_us, status in tries:
        attempt = steps.sent(sent_us)
        attempt.ended_us, attempt.status = ended_us, status

    request, *parts = spans_of(story, steps, CAST)

    assert (request.began_us, request.ended_us) == (40, 60)
    assert all(40 <= span.began_us <= span.ended_us <= 60 for span in parts)
    assert len([span for span in parts if span.kind is Kind.CLIENT]) == len(tries)


@given(TEXT, TEXT, st.sampled_from(["unknown", "prices", "marketdata-klines"]))
def test_nothing_that_a_client_invents_is_told(path: str, method: str, endpoint: str) -> None:
    spans = spans_of(of(path, method, endpoint), Steps(1, 2, "", "1.1"), CAST)

    for span in spans:
        assert len(span.name) < 60
        for value in (span.name, *span.attributes.values()):
            if isinstance(value, str):
                assert len(value.encode()) <= 128
    shown = str(spans[0].attributes["url.path"])
    assert all(character in "/*-_v0123456789abcdefghijklmnopqrstuvwxyz" for character in shown)


def test_every_known_path_is_told_as_it_is() -> None:
    for route in load_routes().routes:
        (request, *_) = spans_of(of(route.path, endpoint=route.endpoint), Steps(1, 2, "", "1.1"), CAST)
        assert request.attributes["url.path"] == route.path


@pytest.mark.parametrize(
    ("cache", "missed", "led", "sent", "word"),
    [
        ("hit", False, False, False, "hit"),
        ("stale", True, False, True, "stale"),
        ("fwd=uri-miss; fwd-status=200; stored", True, False, True, "miss"),
        ("fwd=partial; fwd-status=200", True, False, True, "miss"),
        ("fwd=uri-miss; collapsed", True, True, False, "collapsed"),
        ("", True, True, False, "collapsed"),
        ("", True, False, True, "miss"),
        ("fwd=uri-miss", True, True, True, "miss"),
        ("bypass", False, False, False, "bypass"),
        ("fwd=request", True, False, True, "bypass"),
        ("", False, False, True, ""),
    ],
)
def test_what_the_cache_had_to_do_with_it_is_one_word(
    cache: str, missed: bool, led: bool, sent: bool, word: str
) -> None:
    story, steps = of(), Steps(1, 2, "", "1.1")
    story.cache, steps.missed = cache, missed
    if led:
        steps.leader = Steps(1, 3, "", "1.1")
    if sent:
        steps.sent(1)

    assert cache_word(story, steps) == word
