"""The rows of a block as they go into a file: oldest first, and nothing among them that was not asked for."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from policies import kline_text
from policies.blocks import Block
from policies.segments import Series

_LINES: Final = re.compile(rb"(?:[0-9]++(?:,-?+[0-9]++(?:\.[0-9]++)?+){4,6}+\n)*+")
"""Decimals and nothing else: what is written here is read by spreadsheets, too."""
_MARKS: Final = b'[]" '


class Unfit(ValueError):
    """An answer that is not the answer to the question. The message says what is wrong with it."""


class Lines(NamedTuple):
    """`text`: a line for each candle, its values as the exchange wrote them, with commas between. `opens`: their open
    times, ascending."""

    text: bytes
    opens: list[int]


NO_LINES: Final = Lines(b"", [])


def read_block(series: Series, block: Block, body: bytes) -> Lines:
    """The candles in a successful answer about a block. Raises Unfit.

    They ascend, none is there twice, and each opens where a candle of the interval does, within the block.
    """
    opens, texts = _rows(series, body)
    lines = _lines(texts)
    expected = block.opens()
    if opens != expected and not set(opens) <= set(expected):
        stray = min(set(opens) - set(expected))
        raise Unfit(f"a candle that was not asked for: {stray}")
    return Lines(lines, opens)


def first_open(series: Series, body: bytes) -> int | None:
    """The earliest open time in a successful answer; None where it holds none. Raises Unfit."""
    opens, _ = _rows(series, body)
    return opens[0] if opens else None


def _rows(series: Series, body: bytes) -> tuple[list[int], list[bytes]]:
    told = kline_text.read(series, body)
    if told is None:
        raise Unfit("not a list of candles as it is documented")
    return told.rows.opens[::-1], told.rows.texts[::-1]


def _lines(texts: list[bytes]) -> bytes:
    if not texts:
        return b""
    lines = b"\n".join(texts).translate(None, _MARKS) + b"\n"
    if _LINES.fullmatch(lines) is None:
        raise Unfit("a value that is not a decimal number")
    return lines
