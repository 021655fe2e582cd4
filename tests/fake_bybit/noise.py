"""Numbers that look random and are not: every one is an integer hash of a key and a position."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

MASK: Final = (1 << 64) - 1


def key_of(*parts: object) -> int:
    """A 64-bit key for a series; the same parts give the same key on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def mix(key: int, position: int) -> int:
    """64 well-stirred bits (the finaliser of splitmix64)."""
    word = (key + position * 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def swing(key: int, position: int, reach: int) -> int:
    """A whole number in [-reach, reach]."""
    return mix(key, position) % (2 * reach + 1) - reach


@lru_cache(maxsize=65_536)
def _node(key: int, shift: int, index: int, reach: int) -> int:
    return swing(key ^ shift, index, reach)


def wave(key: int, shift: int, position: int, reach: int) -> int:
    """A slow line through random nodes 2**shift apart, in [-reach, reach]."""
    index = position >> shift
    size = 1 << shift
    part = position & (size - 1)
    left = _node(key, shift, index, reach)
    right = _node(key, shift, index + 1, reach)
    return (left * (size - part) + right * part) >> shift
