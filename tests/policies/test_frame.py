"""The frame of values in Redis: what was packed comes back, and nothing else is ever believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import frame as frames
from policies.frame import AROUND_BYTES, LONGEST_ENCODING, LONGEST_HEAD, LONGEST_KEY, Frame, Kind, Unreadable

SEAL = b"a key that all gateways know"
FRAME = Frame(
    kind=Kind.ENTRY,
    status=200,
    stored_us=1_800_000_000_000_000,
    expires_us=1_800_000_002_000_000,
    key="bybit:klines:linear:BTCUSDT:1:kline:-:-:200",
    head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
    encoding="gzip",
    body=b'{"retCode":0}',
    plain_bytes=100,
)
instants = st.integers(-(2**63), 2**63 - 1)


@st.composite
def some_frames(draw: st.DrawFn) -> Frame:
    body = draw(st.binary(max_size=200))
    return Frame(
        kind=draw(st.sampled_from(Kind)),
        status=draw(st.integers(0, 0xFFFF)),
        stored_us=draw(instants),
        expires_us=draw(instants),
        key=draw(st.text(max_size=60)),
        head=draw(st.binary(max_size=80)),
        encoding=draw(st.sampled_from(["", "gzip", "br", "zstd"])),
        body=body,
        plain_bytes=len(body) + draw(st.integers(0, 2**20)),
    )


def sealed(unsealed: bytes) -> bytes:
    """What somebody who has the key could write."""
    return unsealed + frames._mac(memoryview(unsealed), SEAL)


@given(some_frames())
def test_what_was_packed_comes_back(frame: Frame) -> None:
    raw = frames.pack(frame, SEAL)
    assert frames.unpack(raw, frame.key, SEAL) == frame
    assert len(raw) - len(frame.body) <= AROUND_BYTES


def test_the_layout_changes_with_the_version_only() -> None:
    """Gateways of two releases share a Redis: another layout under the same number would be misread."""
    raw = frames.pack(FRAME, SEAL)
    fixed = (
        "42474652 01 01 00c8"  # magic, version, kind, status
        "0006651728988000 0006651728b70480"  # stored, expires
        "002b 04 00000031 0000000d 00000064"  # lengths of key, encoding, head, body, body unpacked
    )
    text = FRAME.key.encode() + b"gzip" + FRAME.head + FRAME.body
    assert raw == bytes.fromhex(fixed) + text + bytes.fromhex("d7b50fe2614a1507fe0d472b26e44486")


@given(some_frames(), st.data())
def test_a_frame_that_was_cut_is_unreadable(frame: Frame, data: st.DataObject) -> None:
    raw = frames.pack(frame, SEAL)
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert isinstance(frames.unpack(raw[:cut], frame.key, SEAL), Unreadable)


@given(some_frames(), st.binary(min_size=1, max_size=40))
def test_a_frame_with_more_behind_it_is_unreadable(frame: Frame, more: bytes) -> None:
    assert frames.unpack(frames.pack(frame, SEAL) + more, frame.key, SEAL) is Unreadable.LENGTH


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    raw = frames.pack(FRAME, SEAL)
    for at in range(len(raw)):
        assert isinstance(frames.unpack(raw[:at], FRAME.key, SEAL), Unreadable), f"cut at {at}"
        for bit in range(8):
            flipped = raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]
            assert isinstance(frames.unpack(flipped, FRAME.key, SEAL), Unreadable), f"bit {bit} of byte {at}"


@given(st.binary(max_size=300), st.text(max_size=10), st.booleans())
def test_whatever_stands_there_is_judged_without_an_error(raw: bytes, key: str, begins_well: bool) -> None:
    begun = frames.pack(FRAME, SEAL)[:5] + raw if begins_well else raw
    assert isinstance(frames.unpack(begun, key, SEAL), Unreadable)


@given(st.binary(min_size=frames._FIXED.size, max_size=200))
def test_even_under_a_good_seal_nothing_raises(unsealed: bytes) -> None:
    """A gateway of another kind, with the same key, may have written anything."""
    for begun in (unsealed, b"BGFR\x01" + unsealed[5:]):
        judged = frames.unpack(sealed(begun), FRAME.key, SEAL)
        assert isinstance(judged, Frame | Unreadable)


def test_each_reason_has_its_word() -> None:
    raw = frames.pack(FRAME, SEAL)
    assert frames.unpack(b"", FRAME.key, SEAL) is Unreadable.MAGIC
    assert frames.unpack(b"\x80\x04\x95" + raw[3:], FRAME.key, SEAL) is Unreadable.MAGIC
    assert frames.unpack(raw[:20], FRAME.key, SEAL) is Unreadable.LENGTH
    assert frames.unpack(raw[:-1], FRAME.key, SEAL) is Unreadable.LENGTH
    assert frames.unpack(raw, FRAME.key, SEAL + b"?") is Unreadable.MAC
    assert frames.unpack(raw, FRAME.key + ":1", SEAL) is Unreadable.KEY
    assert frames.unpack(raw, "\udcff", SEAL) is Unreadable.KEY
    later = raw[:4] + bytes([frames.VERSION + 1]) + raw[5:-16]
    assert frames.unpack(sealed(later), FRAME.key, SEAL) is Unreadable.VERSION
    strange = raw[:5] + b"\x09" + raw[6:-16]
    assert frames.unpack(sealed(strange), FRAME.key, SEAL) is Unreadable.KIND
    shrunk = raw[:35] + (12).to_bytes(4, "big") + raw[39:-16]  # it would be longer packed than unpacked
    assert frames.unpack(sealed(shrunk), FRAME.key, SEAL) is Unreadable.LENGTH


@pytest.mark.parametrize(
    "change",
    [
        {"key": "k" * (LONGEST_KEY + 1)},
        {"head": b"h" * (LONGEST_HEAD + 1)},
        {"encoding": "e" * (LONGEST_ENCODING + 1)},
        {"encoding": "gzïp"},
        {"plain_bytes": 1},
        {"plain_bytes": 2**32},
        {"status": 70_000},
        {"stored_us": 2**63},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        frames.pack(FRAME._replace(**change), SEAL)
