"""One answer in several codings: who takes gzip or zstd gets it, who takes neither pays nothing, all read the same."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, Final

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.caching import Life
from proxy import coding
from proxy.cache import L1, Entry
from tests.by_hand import desk
from tests.cached import CLOSED, INFO, ask, candles, envelope, raw, was_hit
from tests.gateway_fixture import gateway
from tests.raw_http import RawAnswer
from tests.recorder import answering, recorder

LONG: Final = CLOSED.replace("end=1770000600000", "end=1770030000000&limit=500")
PAGE: Final = candles(count=500)


def decoded(answer: RawAnswer) -> bytes:
    match answer.get("Content-Encoding"):
        case None:
            return answer.body
        case "gzip":
            return gzip.decompress(answer.body)
        case "zstd":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(answer.body))
        case "br":
            return bytes(brotli.decompress(answer.body))
        case other:
            raise AssertionError(other)


NEGOTIATED: Final = [
    (None, None),
    ("", None),
    ("identity", None),
    ("gzip", "gzip"),
    ("GZip", "gzip"),
    ("zstd", "zstd"),
    ("gzip, zstd", "zstd"),
    ("gzip, deflate, br, zstd", "zstd"),
    ("gzip, deflate", "gzip"),
    ("gzip;q=1.0, deflate;q=0.6, identity;q=0.3", "gzip"),
    ("zstd;q=0.5, gzip;q=0.8", "gzip"),
    ("zstd;q=0.5, gzip;q=0.5", "zstd"),
    ("gzip;q=1.0, *;q=0.5", "gzip"),
    ("identity, gzip;q=0.5", None),
    ("identity;q=0.5, gzip;q=0.5", "gzip"),
    ("identity;q=0, gzip", "gzip"),
    ("gzip;q=0", None),
    ("gzip; q=0", None),
    ("gzip;q=0.000, zstd;q=0", None),
    ("*;q=0", None),
    ("*", "zstd"),
    ("*, zstd;q=0", "gzip"),
    ("zstd;q=0, *;q=0.1", "gzip"),
    ("br, deflate", None),
    ("x-gzip", None),
    ("gzipped, zstandard", None),
    ("gzip;q=high", None),
    ("gzip;q=2", None),
    ("gzip;level=9", None),
    ("gzip q=1", None),
    (";;;,,,=", None),
    ("gzip" * 500, None),
]


@pytest.mark.parametrize(("line", "expected"), NEGOTIATED)
async def test_a_hit_comes_in_the_coding_that_its_client_likes_best(line: str | None, expected: str | None) -> None:
    """RFC 9110, 12.5.3; what is written oddly admits nothing."""
    async with recorder(answering(raw(PAGE))) as upstream, gateway(upstream.url) as app:
        first = await ask(app, LONG)
        answer = await ask(app, LONG, *([] if line is None else [f"Accept-Encoding: {line}"]))

        assert was_hit(answer)
        assert answer.get("Content-Encoding") == expected
        assert decoded(answer) == first.body == PAGE
        assert answer.get("Vary") == "Accept-Encoding"
        assert answer.all("Content-Length") == [str(len(answer.body))]
        assert len(answer.body) < len(PAGE) / 2 or expected is None
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("asked", [LONG, INFO], ids=["candles", "a rule's"])
async def test_all_codings_of_an_answer_have_one_tag(asked: str) -> None:
    body = PAGE if asked == LONG else envelope({"list": ["x" * 2_000]})
    async with recorder(answering(raw(body))) as upstream, gateway(upstream.url) as app:
        lines = ["Accept-Encoding: identity", "Accept-Encoding: gzip", "Accept-Encoding: zstd"]
        answers = [await ask(app, asked, line) for line in ["X-First: 1", *lines]]
        known = await ask(app, asked, "Accept-Encoding: gzip", f"If-None-Match: {answers[0].get('ETag')}")

        assert {decoded(each) for each in answers} == {body}
        assert len({each.get("ETag") for each in answers}) == 1
        assert known.status == 304


async def test_an_answer_put_together_here_comes_in_all_codings_too() -> None:
    async with desk() as here:
        await ask(here.app, LONG)
        shorter = LONG.replace("limit=500", "limit=200")
        answers = [await ask(here.app, shorter, f"Accept-Encoding: {each}") for each in ("gzip", "zstd", "identity")]

        assert [each.get("Content-Encoding") for each in answers] == ["gzip", "zstd", None]
        assert len({decoded(each) for each in answers}) == 1
        assert here.asked() == 1


async def test_each_coding_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    encode = coding.encode

    def counted(body: bytes, name: str) -> bytes:
        made.append(name)
        return encode(body, name)

    monkeypatch.setattr(coding, "encode", counted)
    async with recorder(answering(raw(PAGE))) as upstream, gateway(upstream.url) as app:
        for _ in range(5):
            for line in ("gzip", "zstd", "identity", "gzip, zstd;q=0.1"):
                await ask(app, LONG, f"Accept-Encoding: {line}")

        assert sorted(made) == ["gzip", "zstd"]
        assert len(upstream.seen) == 1


CODINGS: Final[dict[str, Any]] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "br": lambda body: brotli.compress(body, quality=1),
    "zstd": lambda body: zstandard.ZstdCompressor(level=1).compress(body),
    "deflate": lambda body: zlib.compress(body, 1),
}


@pytest.mark.parametrize("name", CODINGS)
async def test_the_exchanges_own_coding_is_kept_and_used(name: str) -> None:
    """Its very bytes for those who take it; for others it is unpacked, and packed anew for those who take another."""
    packed = CODINGS[name](PAGE)
    other = "gzip" if name == "zstd" else "zstd"
    async with recorder(answering(raw(packed, f"Content-Encoding: {name}"))) as upstream, gateway(upstream.url) as app:
        first = await ask(app, LONG, f"Accept-Encoding: {name}")
        same = await ask(app, LONG, f"Accept-Encoding: {other}, {name}")
        plain = await ask(app, LONG)
        repacked = await ask(app, LONG, f"Accept-Encoding: {other}")

        assert first.body == same.body == packed
        assert first.get("Content-Encoding") == same.get("Content-Encoding") == name
        assert (plain.body, plain.get("Content-Encoding")) == (PAGE, None)
        assert (decoded(repacked), repacked.get("Content-Encoding")) == (PAGE, other)
        assert len(upstream.seen) == 1


async def test_short_answers_are_not_worth_it() -> None:
    """Below a KiB; where the exchange has packed one all the same, it stays so."""
    short, packed = raw(candles(count=5)), raw(gzip.compress(candles(count=5)), "Content-Encoding: gzip")
    for answer, expected in ((short, None), (packed, "gzip")):
        async with recorder(answering(answer)) as upstream, gateway(upstream.url) as app:
            await ask(app, CLOSED)
            hit = await ask(app, CLOSED, "Accept-Encoding: gzip, zstd")

            assert was_hit(hit)
            assert hit.get("Content-Encoding") == expected
            assert decoded(hit) == candles(count=5)


async def test_nothing_is_compressed_here_where_that_is_switched_off() -> None:
    """The exchange's own coding is passed on as ever."""
    packed = raw(gzip.compress(PAGE), "Content-Encoding: gzip")
    for answer, expected in ((raw(PAGE), None), (packed, "gzip")):
        async with recorder(answering(answer)) as upstream, gateway(upstream.url, cache__compress="false") as app:
            await ask(app, LONG)
            hit = await ask(app, LONG, "Accept-Encoding: gzip, zstd")

            assert hit.get("Content-Encoding") == expected
            assert decoded(hit) == PAGE


async def test_who_caused_the_fetch_gets_the_exchanges_own_bytes() -> None:
    """In the coding that it chose for him, and not one that he does not take."""
    async with desk() as here:
        first = await ask(here.app, LONG)
        assert first.get("Content-Encoding") is None
        other = await ask(here.app, LONG.replace("BTC", "ETH"), "Accept-Encoding: gzip, zstd")
        assert other.get("Content-Encoding") == "gzip"
        assert gzip.decompress(other.body).endswith(b"}")


async def test_a_head_request_passes_by_the_cache() -> None:
    async with desk() as here:
        await ask(here.app, LONG)
        answer = await ask(here.app, LONG, method="HEAD")

        # This exchange knows no HEAD: its answer is passed on, although the cache could have told of the page.
        assert (answer.status, answer.body) == (404, b"")
        assert answer.get("Cache-Status") == "bybit-gateway; fwd=bypass"
        assert [entry.method for entry in here.exchange.record.entries] == ["GET", "HEAD"]


def entry(key: str, size: int) -> Entry:
    body = b'{"retCode":0,' + b"1234567890" * (size // 10)
    return Entry.of(key, b"HTTP/1.1 200 OK\r\n", body, 0, 0, Life(1_000, 1_000, 1_000))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.sampled_from([20, 900, 3_000, 9_000]), st.sampled_from([None, "gzip", "zstd"])
        ),
        max_size=40,
    ),
    st.integers(5_000, 30_000),
)
def test_all_variants_count_and_never_exceed_what_memory_allows(steps: list[Any], most: int) -> None:
    """Whatever is put, replaced, packed, dropped and packed again after that."""
    l1, given_out = L1(most, compresses=True), []
    for key, size, line in steps:
        known = l1.stale(key)
        if known is None or line is None:
            known = entry(key, size)
            l1.put(known)
        given_out.append(known)
        for each in given_out:  # some of them have been replaced or dropped since
            l1.variant(each, line)

        kept = [found for name in "abcde" if (found := l1.stale(name)) is not None]
        assert l1.size_bytes == sum(each.size_bytes for each in kept) <= most
        assert len(l1) == len(kept)
