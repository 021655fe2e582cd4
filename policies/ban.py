"""The ban of an address: what a 403 means, how long nothing is sent, and how it goes on afterwards.

The exchange answers 403 for several reasons. One is that the address has sent too much: everything must stop for at
least ten minutes, and whatever is sent meanwhile may make it worse. The others (a GET with a body, a blocked country, a
page of the CDN) concern one request or last for ever, and stopping would help nobody. Only the documented phrase is
believed.

A ban ends by itself, nobody knows when: once it should be over one gateway of the address asks one harmless question.
The answer lifts the ban, and the budget grows from a quarter to the whole; another 403 begins it anew. A ban that
follows another within a day lasts twice as long, up to eight times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from policies import bybit
from policies.admission import WHOLE

_LOOKED_AT_BYTES: Final = 16 << 10
_AGAIN_US: Final = 86_400_000_000
_MOST_DOUBLED: Final = 3
_FIRST_PART: Final = 250_000


class Forbidden(StrEnum):
    """Why the exchange says 403; labels of the metric `gateway_forbidden`."""

    BAN = "ban"  # the address has sent too much
    COUNTRY = "country"  # the address lies where the exchange offers no service
    PAGE = "page"  # a page of the CDN: a GET with a body, a malformed request, its firewall
    OTHER = "other"  # whatever else: it says no phrase that is known


def why_forbidden(body: bytes) -> Forbidden:
    """From the (decoded) body of a 403. Its wording is nowhere documented to the letter, its type not at all."""
    text = body[:_LOOKED_AT_BYTES].lower()
    if bybit.BANNED_TEXT.encode() in text or bybit.ret_code(body) == bybit.IP_LIMITED:
        return Forbidden.BAN
    if b"country" in text or b"region" in text:
        return Forbidden.COUNTRY
    if b"<html" in text or b"<!doctype" in text or b"cloudfront" in text:
        return Forbidden.PAGE
    return Forbidden.OTHER


def longest_ban_us(ban_us: int) -> int:
    """However many have followed each other."""
    return ban_us << _MOST_DOUBLED


@dataclass(frozen=True, slots=True)
class Ban:
    """What is known of the bans of an address. Instants are microseconds of whoever keeps it."""

    until_us: int = 0
    """Nothing is sent until then, and until an answer has lifted it. 0: no ban."""
    begun_us: int = 0
    times: int = 0
    """How many followed each other closely."""
    lifted_us: int = 0

    @property
    def stands(self) -> bool:
        """Nothing is sent, but for one question when it should be over."""
        return self.until_us != 0

    def struck(self, now_us: int, ban_us: int) -> Ban:
        """Another 403: a new ban, or one of the answers that were still on their way when it began."""
        if self.stands and now_us < self.until_us:
            return replace(self, until_us=max(self.until_us, now_us + self._length_us(self.times, ban_us)))
        recent = self.times and now_us - max(self.lifted_us, self.begun_us) < _AGAIN_US
        times = self.times + 1 if recent else 1
        return Ban(now_us + self._length_us(times, ban_us), now_us, times, self.lifted_us)

    def lifted(self, now_us: int) -> Ban:
        return replace(self, until_us=0, lifted_us=now_us)

    def part(self, now_us: int, ramp_us: int) -> int:
        """How much of the budget may be used, in millionths."""
        since_us = max(0, now_us - self.lifted_us)  # another gateway's instant may lie a little ahead of our clock
        if not self.lifted_us or since_us >= ramp_us:
            return WHOLE
        return _FIRST_PART + (WHOLE - _FIRST_PART) * since_us // ramp_us

    @staticmethod
    def _length_us(times: int, ban_us: int) -> int:
        return ban_us << min(max(times - 1, 0), _MOST_DOUBLED)
