"""Content codings: read whatever the exchange may choose; write what is quick to make."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final

import brotli
import zstandard
from isal import igzip

MAX_DECODED_BYTES: Final = 16 << 20
_SHORT_BYTES: Final = 4 << 10


MOST: Final = 1000
"""The greatest weight() there is."""
_WEIGHT: Final = re.compile(r"[ \t]*(?:q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?")
WRITTEN: Final = ("zstd", "gzip")
"""What encode() knows, the better first."""
_ZSTD_LEVEL: Final = 1
_GZIP_LEVEL: Final = 1


class Undecodable(Exception):
    """The body is in a coding that is not known here, is not what it claims to be, or would be enormous."""


def decode(body: bytes, coding: str) -> bytes:
    """The identity of a body. Bounded: a few bytes must not become gigabytes."""
    try:
        match coding:
            case "" | "identity":
                return body
            case "gzip" | "x-gzip":
                return _inflate(body, 16 + zlib.MAX_WBITS)
            case "deflate":
                return _inflate(body, zlib.MAX_WBITS)
            case "br":
                return _unbrotli(body)
            case "zstd":
                return _unzstd(body)
            case _:
                pass
    except (zlib.error, brotli.error, zstandard.ZstdError):
        pass
    raise Undecodable(coding)


def encode(body: bytes, coding: str) -> bytes:
    """In one of WRITTEN: a page of candles takes a tenth of a millisecond in either."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    compressed: bytes = igzip.compress(body, compresslevel=_GZIP_LEVEL)
    return compressed


def decode_if_short(body: bytes, coding: str) -> bytes:
    """For a look at an error code: errors are short, so long compressed bodies are left alone (empty answer)."""
    if coding in {"", "identity"}:
        return body
    if len(body) > _SHORT_BYTES:
        return b""
    try:
        return decode(body, coding)
    except Undecodable:
        return b""


def accepted(accept_encoding: str, coding: str) -> bool:
    """Whether an Accept-Encoding admits a coding."""
    return weight(accept_encoding, coding) > 0


@lru_cache(maxsize=512)
def weight(accept_encoding: str, coding: str) -> int:
    """How much an Accept-Encoding would like a coding, in thousandths; 0: it does not admit it. What is written oddly
    does not admit anything. RFC 9110, 12.5.3."""
    star = 0
    for item in accept_encoding.lower().split(","):
        name, _, parameter = item.partition(";")
        name = name.strip(" \t")
        if name not in {coding, "*"}:
            continue
        found = _WEIGHT.fullmatch(parameter)
        thousandths = 0 if found is None else MOST if found[1] is None else round(float(found[1]) * MOST)
        if name == coding:
            return thousandths
        star = thousandths
    return star if coding != "identity" else 0  # admitted where nothing better is


def _inflate(body: bytes, window_bits: int) -> bytes:
    decoder = zlib.decompressobj(window_bits)
    text = decoder.decompress(body, MAX_DECODED_BYTES)
    if not decoder.eof or decoder.unused_data:
        raise Undecodable("deflate")
    return text


def _unbrotli(body: bytes) -> bytes:
    decoder = brotli.Decompressor()
    text: bytes = decoder.process(body, output_buffer_limit=MAX_DECODED_BYTES)
    if not decoder.is_finished():
        raise Undecodable("br")
    return text


def _unzstd(body: bytes) -> bytes:
    decoder = zstandard.ZstdDecompressor().decompressobj()
    if zstandard.frame_content_size(body) > MAX_DECODED_BYTES:
        raise Undecodable("zstd")
    text = decoder.decompress(body)
    if not decoder.eof or decoder.unused_data or len(text) > MAX_DECODED_BYTES:
        raise Undecodable("zstd")
    return text
