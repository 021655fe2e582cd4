"""How an operator writes durations, sizes and quotas: `5s`, `64MiB`, `600/5s`. A bare number is no quantity."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_UNITS_US: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SIZES: Final = {
    "B": 1,
    "kB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
DURATION: Final = r"([0-9]{1,14})(us|ms|s|m|h|d)"
SIZE: Final = r"([0-9]{1,12})(B|kB|MB|GB|KiB|MiB|GiB)"
QUOTA: Final = r"([0-9]{1,12})/([0-9]{0,14}(?:us|ms|s|m|h|d))"

_DURATION: Final = re.compile(DURATION)
_SIZE: Final = re.compile(SIZE)
_QUOTA: Final = re.compile(QUOTA)

MAX_DURATION_US: Final = 366 * _UNITS_US["d"]


class Rate(NamedTuple):
    """At most `limit` in any window of `window_us` microseconds."""

    limit: int
    window_us: int


def duration_us(text: str, longest_us: int = MAX_DURATION_US) -> int:
    """`250ms`, `5s`, `10m`, `1h`, `7d` in microseconds."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a duration such as 250ms, 5s, 10m, 1h or 7d, got {text!r}")
    value = int(found.group(1)) * _UNITS_US[found.group(2)]
    if value > longest_us:
        raise ValueError(f"expected a duration of at most {duration_text(longest_us)}, got {text!r}")
    return value


def size_bytes(text: str) -> int:
    """`512KiB`, `64MiB`, `10MB` in bytes."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a size such as 512KiB, 64MiB or 10MB, got {text!r}")
    return int(found.group(1)) * _SIZES[found.group(2)]


def rate(text: str) -> Rate:
    """`600/5s`, `10/s`, `3000000/1h`: a number in any window of that length."""
    found = _QUOTA.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a quota such as 600/5s, 120/1s or 10000/1h, got {text!r}")
    window = found.group(2)
    window_us = duration_us(window if window[0].isdigit() else f"1{window}")
    limit = int(found.group(1))
    if limit == 0:
        raise ValueError(f"expected a quota of at least 1, got {text!r} (to close an endpoint, do not set it to 0)")
    if window_us < _UNITS_US["ms"]:
        raise ValueError(f"expected a window of at least 1ms, got {text!r}")
    return Rate(limit, window_us)


def duration_text(value_us: int) -> str:
    """The shortest exact way to write a duration: 5_000_000 -> `5s`."""
    for unit in ("d", "h", "m", "s", "ms"):
        if value_us >= _UNITS_US[unit] and value_us % _UNITS_US[unit] == 0:
            return f"{value_us // _UNITS_US[unit]}{unit}"
    return f"{value_us}us"


def size_text(value_bytes: int) -> str:
    """The shortest exact way to write a size: 67_108_864 -> `64MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if value_bytes >= _SIZES[unit] and value_bytes % _SIZES[unit] == 0:
            return f"{value_bytes // _SIZES[unit]}{unit}"
    return f"{value_bytes}B"
