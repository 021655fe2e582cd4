"""What a client says of the answers it will take: `Cache-Control` of a request, and entity tags.

RFC 9111, 5.2.1 (directives of a request) and RFC 9110, 8.8.3 and 13.1.2 (entity tags, If-None-Match). What cannot be
read is taken as if it were not there: the worst that follows is a whole answer where a shorter one would have done.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

_SECOND_US: Final = 1_000_000
_FOR_EVER_S: Final = 1 << 31
"""RFC 9111, 1.2.2: what a larger number of seconds is taken for."""

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE: Final = re.compile(rf'[ \t]*({_WORD})(?:=(?:({_WORD})|"((?:[^"\\]|\\.)*)"))?[ \t]*(?:,|\Z)')
_ELEMENT: Final = re.compile(r'[ \t]*(?:((?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*")[ \t]*)?(?:,|\Z)')
_MEMORABLE: Final = 128
_LONGEST: Final = 2048
"""Nobody who means it says more, and reading costs the time of others."""
_OPAQUE: Final = '"bg-'


class Directives(NamedTuple):
    """Of a request's Cache-Control. Seconds, as the client counts them."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int | None = None
    max_stale_s: int | None = None
    """How long past its time an answer may be; a max-stale without a number takes any."""

    @property
    def refuses_kept(self) -> bool:
        """No kept answer will do. no-store says less than that, but is sent by those who mean it."""
        return self.no_cache or self.no_store


NONE: Final = Directives()


def directives(cache_control: str | None) -> Directives:
    """Of the header, its lines joined by commas; NONE itself where it is missing or says nothing that is known."""
    if not cache_control or len(cache_control) > _LONGEST:
        return NONE
    return _remembered(cache_control) if len(cache_control) <= _MEMORABLE else _read(cache_control)


def _read(text: str) -> Directives:
    flags: set[str] = set()
    seconds: dict[str, int] = {}
    at = 0
    while at < len(text):
        found = _DIRECTIVE.match(text, at)
        if found is None:  # malformed: go on behind the next comma
            at = (text.find(",", at) + 1) or len(text)
            continue
        at = found.end()
        name, bare, quoted = found[1].lower(), found[2], found[3]
        argument = bare if quoted is None else quoted
        if name in {"no-cache", "no-store", "only-if-cached"}:
            flags.add(name)
        elif name == "max-stale" and argument is None:
            seconds.setdefault(name, _FOR_EVER_S)
        elif name in {"max-age", "min-fresh", "max-stale"} and argument is not None and _is_number(argument):
            value = _seconds(argument)
            # Said twice: the stricter counts (RFC 9111, 4.2.1).
            stricter = max if name == "min-fresh" else min
            seconds[name] = stricter(value, seconds.get(name, value))
    if not flags and not seconds:
        return NONE
    return Directives(
        "no-cache" in flags,
        "no-store" in flags,
        "only-if-cached" in flags,
        seconds.get("max-age"),
        seconds.get("min-fresh"),
        seconds.get("max-stale"),
    )


_remembered = lru_cache(maxsize=256)(_read)


def acceptable(said: Directives, age_us: int, ttl_us: int) -> bool:
    """Whether a kept answer may be given without a look at the exchange.

    `ttl_us` is how long it is still fresh; zero or less: for how long it has not been. Only a client that says so
    (max-stale) takes one that is not.
    """
    if said is NONE:
        return ttl_us > 0
    if said.refuses_kept:
        return False
    if said.min_fresh_s is not None and ttl_us < said.min_fresh_s * _SECOND_US:
        return False
    fresh = ttl_us > 0
    beyond_us = max(0, -ttl_us)
    if said.max_age_s is not None:
        beyond_us = max(beyond_us, age_us - said.max_age_s * _SECOND_US)
        fresh = fresh and beyond_us <= 0
    return fresh or (said.max_stale_s is not None and beyond_us <= said.max_stale_s * _SECOND_US)


def tolerable(said: Directives, age_us: int, ttl_us: int) -> bool:
    """Whether a kept answer that is past its time may be given while a newer one is fetched or cannot be had.

    Yes, unless the client has said how fresh it must be.
    """
    if said is NONE:
        return True
    if said.refuses_kept:
        return False
    spoken = (said.max_age_s, said.min_fresh_s, said.max_stale_s) != (None, None, None)
    return not spoken or acceptable(said, age_us, ttl_us)


def tag_of(digest: bytes) -> str:
    """A weak tag of our making: one for all codings of an answer, and blind to what changes with every reply."""
    return f'W/{_OPAQUE}{digest.hex()}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has the answer of this tag already: the weak comparison of RFC 9110, 8.8.3.2."""
    if if_none_match is None:
        return False
    if if_none_match == tag or if_none_match.strip(" \t") == "*":
        return True
    return tag.removeprefix("W/") in _opaque_tags(if_none_match)


def ours_only(if_none_match: str) -> bool:
    """Whether the client asks by tags of our making alone: the exchange does not know them, and need not see them."""
    tags = _opaque_tags(if_none_match)
    return bool(tags) and all(tag.startswith(_OPAQUE) for tag in tags)


def _opaque_tags(text: str) -> list[str]:
    """The tags of a list without their W/, quotes included; none at all when any of it cannot be read."""
    tags: list[str] = []
    at = 0
    if len(text) > _LONGEST:
        return []
    while at < len(text):
        found = _ELEMENT.match(text, at)
        if found is None:
            return []
        if found[1] is not None:
            tags.append(found[1].removeprefix("W/"))
        at = found.end()
    return tags


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _seconds(digits: str) -> int:
    digits = digits.lstrip("0")
    return _FOR_EVER_S if len(digits) > 10 else min(int(digits or "0"), _FOR_EVER_S)
