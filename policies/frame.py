"""The binary frame of every value that the cache keeps in Redis, and what makes it believed when it is read again.

    magic 4 | version 1 | kind 1 | status 2 | stored 8 | expires 8
    lengths: key 2 | encoding 1 | head 4 | body 4 | body unpacked 4
    key | encoding | head | body | mac 16

Numbers are big-endian; instants are epoch microseconds and signed. Both lengths of the body are equal where it is not
packed. Whoever can write to a Redis must not thereby be able to put
answers into the mouth of the exchange: so there is a keyed MAC over all that stands before it, and the key under which
the value was put stands within, lest a good value be moved to another place. Never pickle: whoever reads that runs
what it says.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from struct import error as StructError  # noqa: N812  # beside other errors a bare `error` says too little
from typing import Final, NamedTuple

VERSION: Final = 1
LONGEST_KEY: Final = 1024
LONGEST_HEAD: Final = 64 << 10
LONGEST_ENCODING: Final = 32

_MAGIC: Final = b"BGFR"
_FIXED: Final = Struct(">4sBBHqqHBIII")
_MAC_BYTES: Final = 16
_PERSON: Final = b"bybit-gw frame"

AROUND_BYTES: Final = _FIXED.size + LONGEST_KEY + LONGEST_ENCODING + LONGEST_HEAD + _MAC_BYTES
"""The most that a frame is longer than its body."""


class Kind(IntEnum):
    """What a value is. A reader says which it expects."""

    ENTRY = 1  # an answer, by its request
    SEGMENT = 2  # closed candles
    TAIL = 3  # the newest candles, which still change


class Unreadable(StrEnum):
    """Why a value is not believed: in one word, for metrics."""

    MAGIC = "magic"
    VERSION = "version"
    LENGTH = "length"
    MAC = "mac"
    KEY = "key"
    KIND = "kind"


class Frame(NamedTuple):
    """`head` and `body` mean nothing here; `encoding` is the body's content coding, empty for none."""

    kind: Kind
    status: int
    stored_us: int
    expires_us: int
    key: str
    head: bytes
    encoding: str
    body: bytes
    plain_bytes: int
    """How long the body is when it is unpacked."""

    @property
    def packed(self) -> bool:
        return len(self.body) != self.plain_bytes


def pack(frame: Frame, key: bytes) -> bytes:
    """`key`: of the MAC, 1 to 64 bytes. Raises ValueError for what does not fit into a frame."""
    name, encoding = _bytes_of(frame.key), frame.encoding.encode("ascii")
    if len(name) > LONGEST_KEY or len(encoding) > LONGEST_ENCODING or len(frame.head) > LONGEST_HEAD:
        raise ValueError("key, encoding or head are too long for a frame")
    if frame.plain_bytes < len(frame.body):
        raise ValueError("a body that packing has made longer is kept as it was")
    try:
        fixed = _FIXED.pack(
            _MAGIC,
            VERSION,
            frame.kind,
            frame.status,
            frame.stored_us,
            frame.expires_us,
            len(name),
            len(encoding),
            len(frame.head),
            len(frame.body),
            frame.plain_bytes,
        )
    except StructError as error:
        raise ValueError("a number is too large for a frame") from error
    unsealed = b"".join((fixed, name, encoding, frame.head, frame.body))
    return unsealed + _mac(memoryview(unsealed), key)


def unpack(raw: bytes, expected_key: str, mac_key: bytes) -> Frame | Unreadable:
    """The frame, if it is whole, of this version, sealed with this key and put under `expected_key`.

    Never raises, whatever the bytes. The body is as it was packed: unpacking, with a limit, is the caller's.
    """
    if not raw.startswith(_MAGIC):
        return Unreadable.MAGIC
    if len(raw) < _FIXED.size + _MAC_BYTES:
        return Unreadable.LENGTH
    _, version, kind, status, stored_us, expires_us, *lengths, plain_bytes = _FIXED.unpack_from(raw)
    if version != VERSION:
        return Unreadable.VERSION
    if _FIXED.size + sum(lengths) + _MAC_BYTES != len(raw) or plain_bytes < lengths[-1]:
        return Unreadable.LENGTH
    if not compare_digest(_mac(memoryview(raw)[:-_MAC_BYTES], mac_key), raw[-_MAC_BYTES:]):
        return Unreadable.MAC
    parts, at = [], _FIXED.size
    for length in lengths:
        parts.append(raw[at : at + length])
        at += length
    name, encoding, head, body = parts
    if name != _bytes_of(expected_key):
        return Unreadable.KEY
    if kind not in _KINDS:
        return Unreadable.KIND
    coding = encoding.decode("latin-1")
    return Frame(Kind(kind), status, stored_us, expires_us, expected_key, head, coding, body, plain_bytes)


_KINDS: Final = frozenset(Kind)


def _bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _mac(sealed: memoryview, key: bytes) -> bytes:
    return blake2b(sealed, digest_size=_MAC_BYTES, key=key, person=_PERSON).digest()
