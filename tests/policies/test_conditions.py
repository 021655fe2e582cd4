"""What a client says of the answers it will take: Cache-Control of a request, and entity tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import conditions
from policies.conditions import NONE, Directives, acceptable, directives, matches, ours_only, tag_of, tolerable

S = 1_000_000
FOR_EVER = 1 << 31
TAG = tag_of(b"\x01\xab")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("no-cache", Directives(no_cache=True)),
        ("no-store", Directives(no_store=True)),
        ("only-if-cached", Directives(only_if_cached=True)),
        ("No-Cache, NO-STORE", Directives(no_cache=True, no_store=True)),
        ("max-age=0", Directives(max_age_s=0)),
        ("MAX-AGE=5", Directives(max_age_s=5)),
        ('max-age="5"', Directives(max_age_s=5)),
        ("min-fresh=3", Directives(min_fresh_s=3)),
        ("max-stale", Directives(max_stale_s=FOR_EVER)),
        ("max-stale=7", Directives(max_stale_s=7)),
        ("max-age=0007", Directives(max_age_s=7)),
        ("max-age=99999999999999999999999", Directives(max_age_s=FOR_EVER)),
        ("max-age=" + "9" * 2000, Directives(max_age_s=FOR_EVER)),
        ("  max-age=1 ,\tonly-if-cached  ", Directives(only_if_cached=True, max_age_s=1)),
        ("max-age=1,,,no-cache,", Directives(no_cache=True, max_age_s=1)),
        ("max-age=1, max-age=5", Directives(max_age_s=1)),  # said twice: the stricter counts
        ("max-age=5, max-age=1", Directives(max_age_s=1)),
        ("min-fresh=1, min-fresh=5", Directives(min_fresh_s=5)),
        ("max-stale, max-stale=5", Directives(max_stale_s=5)),
        ("max-stale=5, max-stale", Directives(max_stale_s=5)),
        ("no-cache=foo", Directives(no_cache=True)),  # an argument that it does not have changes nothing
        ('foo="a, no-store", max-age=3', Directives(max_age_s=3)),  # a comma in quotes parts nothing
        ('foo="a\\", no-store", max-age=3', Directives(max_age_s=3)),
        ("max-age=x, min-fresh=3", Directives(min_fresh_s=3)),
        ("max age=1, no-cache", Directives(no_cache=True)),
    ],
)
def test_what_a_client_says_is_understood(header: str, expected: Directives) -> None:
    assert directives(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",",
        " ",
        "no-transform",
        "stale-if-error=5",
        "private, must-revalidate",
        "max-age",
        "max-age=",
        "max-age=-1",
        "max-age=+1",
        "max-age=1.5",
        "max-age=٣",
        "max-age = 1",
        'max-age="5',
        'max-age="5"x',
        "min-fresh",
        "max-stale=",
        "max-stale=soon",
        "no-cachee",
        "no cache",
        "=no-cache",
    ],
)
def test_what_is_unknown_or_malformed_is_as_if_not_said(header: str | None) -> None:
    assert directives(header) is NONE


@given(text=st.text(max_size=200))
def test_whatever_stands_in_the_header_is_survived(text: str) -> None:
    said = directives(text)
    assert isinstance(said, Directives)
    assert directives(text) == said


@given(text=st.text(' ,="\\ano-cachemxge15', max_size=80))
def test_what_cannot_be_read_does_not_hide_what_stands_before_it(text: str) -> None:
    assert directives(f"only-if-cached, {text}").only_if_cached


@pytest.mark.parametrize("filler", [",", " ", "a,", 'a="', "x=y,"])
def test_a_header_of_absurd_length_is_not_read(filler: str) -> None:
    """Reading it would cost the time of everybody else."""
    filling = filler * (4096 // len(filler))

    assert directives(f"no-cache,{filling}") is NONE
    assert not matches(f"{TAG},{filling}", TAG)
    assert not ours_only(f"{TAG},{filling}")


def test_what_was_said_is_remembered_only_while_it_is_short() -> None:
    conditions._remembered.cache_clear()
    directives("max-age=" + "0" * 1000 + "1")
    assert conditions._remembered.cache_info().currsize == 0
    assert directives("max-age=1") is directives("max-age=1")


@pytest.mark.parametrize(
    ("header", "age_us", "ttl_us", "expected"),
    [
        pytest.param("", 10 * S, 1, True, id="fresh"),
        pytest.param("", 10 * S, 0, False, id="not fresh any more"),
        pytest.param("no-cache", 0, S, False, id="asks for the exchange's own"),
        pytest.param("no-store", 0, S, False, id="so does he"),
        pytest.param("no-cache, max-stale", 0, S, False, id="whatever else he says"),
        pytest.param("only-if-cached", 0, S, True, id="kept ones only"),
        pytest.param("only-if-cached", 0, -S, False, id="but fresh ones"),
        pytest.param("max-age=0", 0, S, True, id="as of this instant"),
        pytest.param("max-age=0", 1, S, False, id="not a microsecond old"),
        pytest.param("max-age=5", 5 * S, S, True, id="young enough"),
        pytest.param("max-age=5", 5 * S + 1, S, False, id="too old, though fresh"),
        pytest.param("max-age=5", S, 0, False, id="young, but not fresh"),
        pytest.param("min-fresh=2", 0, 2 * S, True, id="stays fresh for long enough"),
        pytest.param("min-fresh=2", 0, 2 * S - 1, False, id="does not"),
        pytest.param("min-fresh=2, max-stale=9", 0, S, False, id="the stricter of the two"),
        pytest.param("min-fresh=0", 0, 0, False, id="fresh all the same"),
        pytest.param("max-stale", 0, -(10**15), True, id="any"),
        pytest.param("max-stale=3", 0, -3 * S, True, id="stale, within what he takes"),
        pytest.param("max-stale=3", 0, -3 * S - 1, False, id="beyond"),
        pytest.param("max-stale=0", 0, 1, True, id="fresh is always within"),
        pytest.param("max-age=5, max-stale=3", 8 * S, S, True, id="so far past the age he names"),
        pytest.param("max-age=5, max-stale=3", 8 * S + 1, S, False, id="and no further"),
        pytest.param("max-age=5, max-stale=3", 6 * S, -4 * S, False, id="by whichever is further"),
    ],
)
def test_a_kept_answer_is_given_if_the_client_takes_it(
    header: str, age_us: int, ttl_us: int, *, expected: bool
) -> None:
    assert acceptable(directives(header), age_us, ttl_us) is expected


@pytest.mark.parametrize(
    ("header", "age_us", "ttl_us", "expected"),
    [
        pytest.param("", 10**15, -(10**15), True, id="nothing said: better than none"),
        pytest.param("only-if-cached", 9 * S, -S, True, id="kept ones only: all the more"),
        pytest.param("no-cache", 0, -S, False, id="asks for the exchange's own"),
        pytest.param("no-store", 0, -S, False, id="so does he"),
        pytest.param("max-age=60", 2 * S, -S, False, id="has said how fresh"),
        pytest.param("min-fresh=1", 2 * S, -S, False, id="has said how fresh it must stay"),
        pytest.param("max-stale=3", 9 * S, -3 * S, True, id="within what he takes"),
        pytest.param("max-stale=3", 9 * S, -4 * S, False, id="beyond"),
        pytest.param("max-age=60, max-stale", 2 * S, -S, True, id="prefers a young one, takes any"),
    ],
)
def test_a_stale_answer_is_better_than_none_unless_the_client_says_otherwise(
    header: str, age_us: int, ttl_us: int, *, expected: bool
) -> None:
    assert tolerable(directives(header), age_us, ttl_us) is expected


_SECONDS = st.none() | st.integers(0, 100)
_SAID = st.builds(Directives, st.booleans(), st.booleans(), st.booleans(), _SECONDS, _SECONDS, _SECONDS)


@given(said=_SAID, age_us=st.integers(0, 10**8), ttl_us=st.integers(-(10**8), 10**8))
def test_what_is_acceptable_is_tolerable_and_every_word_said_only_narrows_it(
    said: Directives, age_us: int, ttl_us: int
) -> None:
    if acceptable(said, age_us, ttl_us):
        assert tolerable(said, age_us, ttl_us)
        assert ttl_us > 0 or said.max_stale_s is not None
        assert not said.refuses_kept
        assert acceptable(said, age_us // 2, ttl_us + 1)  # younger and fresher will do as well


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (TAG, True),
        (TAG.removeprefix("W/"), True),  # weak and strong compare alike
        ("*", True),
        (" * ", True),
        (f'"x", {TAG}', True),
        (f'W/"x" ,\t{TAG} ', True),
        (f",, {TAG},", True),
        (f'"a,b", {TAG}', True),  # a comma may stand in a tag
        (f'"",{TAG}', True),
        (f'"ü", {TAG}', True),
        (None, False),
        ("", False),
        (",", False),
        ('"x"', False),
        (TAG.upper(), False),  # w/ is no W/, and tags are told apart by case
        ("w" + TAG[1:], False),
        (TAG.replace('"', ""), False),
        (TAG[:-1], False),
        (f"{TAG} {TAG}", False),
        (f"{TAG}, *", False),
        (f"{TAG}, x", False),  # malformed: no match
        (f'"a"b", {TAG}', False),
        (f'"a b", {TAG}', False),
        (TAG.replace("W/", "W/ "), False),
    ],
)
def test_a_client_that_has_the_answer_is_recognised(header: str | None, *, expected: bool) -> None:
    assert matches(header, TAG) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (TAG, True),
        (f"{TAG}, {tag_of(b'x')}", True),
        (f'{TAG}, "x"', False),
        ('"x"', False),
        ("*", False),
        ("", False),
        (",", False),
        (f"{TAG}, x", False),
        ('W/"bg"', False),
    ],
)
def test_tags_of_our_making_are_told_from_others(header: str, *, expected: bool) -> None:
    """Only those need not go to the exchange: it may know the others."""
    assert ours_only(header) is expected


@given(digests=st.lists(st.binary(min_size=1, max_size=32), min_size=1, max_size=5), other=st.binary(max_size=32))
def test_every_tag_of_a_list_is_found_and_no_other(digests: list[bytes], other: bytes) -> None:
    header = ", ".join(tag_of(digest) for digest in digests)

    assert ours_only(header)
    assert all(matches(header, tag_of(digest)) for digest in digests)
    assert matches(header, tag_of(other)) is (other in digests)


@given(text=st.text(max_size=100))
def test_whatever_stands_in_a_list_of_tags_is_survived(text: str) -> None:
    assert matches(text, TAG) in {True, False}
    assert not (ours_only(text) and "bg-" not in text)
