"""How charges are told to the scripts: keys, and one block of numbers, made once for each kind of request.

A reservation is known in the store by its member of a held window. Where it has none, but something that may be given
back, by an entry among those in flight; else by its member of any log.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple
from urllib.parse import quote

from policies.admission import Charge, Counts, Quota, WhenFull, WindowKind
from policies.sharing import set_aside
from proxy.clock import Clock

HELD, SENT, SLOTTED, BUCKET, LEARNED = 1, 2, 3, 4, 5
_KINDS: Final = {
    WindowKind.HELD: HELD,
    WindowKind.SENT: SENT,
    WindowKind.SLOTTED: SLOTTED,
    WindowKind.BUCKET: BUCKET,
    WindowKind.LEARNED: LEARNED,
}
_SHADOW, _REFUSES, _DIVIDED, _SPACES, _RENEW, _ADDRESS = 1, 2, 4, 8, 16, 32
_RECORD: Final = struct.Struct("<7d")
_REMEMBERED: Final = 20_000
_RENEW_US: Final = (1_000_000, 10_000_000)
"""Old members are cleared away, and keys kept alive, no more often and no less often than that."""


class Told(NamedTuple):
    """Charges as the scripts are told of them."""

    charges: tuple[Charge, ...]
    keys: tuple[bytes, ...]
    """Of the windows, in the order of the charges, and behind them of what is learned of some."""
    block: bytes
    renewing: bytes
    """The same, and: clear away what is old."""
    mark: int
    """The place among the windows of the one that shows whether a reservation was granted; 0: none does."""
    upstream: bool
    only_logs: bool
    learns: bool
    ends: bool
    """Something in the store waits for the end of the reservation."""
    renew_every_us: int


class Wording:
    def __init__(self, egress: str, clock: Clock) -> None:
        self.prefix = b"bg:{%b}:" % egress.encode()
        self._clock = clock
        self._told: dict[int, Told] = {}
        self._renew_us: dict[int, int] = {}

    def of(self, charges: tuple[Charge, ...]) -> Told:
        """The rules hand out the same charges for the same kind of request: the object itself is remembered."""
        told = self._told.get(id(charges))
        if told is not None and told.charges is charges:
            return told
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
            self._renew_us.clear()
        told = self._told[id(charges)] = self._worded(charges)
        return told

    def block(self, told: Told) -> bytes:
        """With the order to clear away, now and then."""
        place, now_us = id(told.charges), self._clock()
        if self._renew_us.get(place, 0) > now_us:
            return told.block
        self._renew_us[place] = now_us + told.renew_every_us
        return told.renewing

    def once(self, charges: tuple[Charge, ...]) -> Told:
        """As of(), for charges that will not come again."""
        return self._worded(charges)

    def key(self, charge: Charge) -> bytes:
        name = b"|".join(quote(part, safe="").encode() for part in charge.key)
        return self.prefix + b"w:" + name

    def beside(self, charge: Charge) -> bytes:
        """Of what is learned of its limit."""
        return self.key(charge) + b"|learned"

    def _worded(self, charges: tuple[Charge, ...]) -> Told:
        kinds = [_KINDS[charge.quota.window] for charge in charges]
        return Told(
            charges,
            (
                *(self.key(charge) for charge in charges),
                *(self.beside(charge) for charge in charges if _learns(charge)),
            ),
            b"".join(_described(charge, 0) for charge in charges),
            b"".join(_described(charge, _RENEW) for charge in charges),
            _mark(charges),
            any(charge.quota.counts is Counts.UPSTREAM for charge in charges),
            not {SLOTTED, BUCKET} & set(kinds),
            LEARNED in kinds,
            HELD in kinds or LEARNED in kinds or _mark(charges) == 0,
            min((_renewed_every_us(charge.quota) for charge in charges), default=_RENEW_US[1]),
        )


def kind_of(quota: Quota) -> int:
    return _KINDS[quota.window]


def _mark(charges: tuple[Charge, ...]) -> int:
    # A window on trial may not have been taken from, and a sent one does not show what is still in flight.
    sure = {kind_of(charge.quota): place for place, charge in enumerate(charges, 1) if not charge.quota.shadow}
    if HELD in sure:
        return sure[HELD]
    gives_back = any(kind_of(charge.quota) in {HELD, BUCKET, LEARNED} for charge in charges)
    return 0 if gives_back else sure.get(SENT, 0)


def _learns(charge: Charge) -> bool:
    return charge.quota.window is WindowKind.LEARNED


def _renewed_every_us(quota: Quota) -> int:
    return min(max(quota.window_us, _RENEW_US[0]), _RENEW_US[1])


def _described(charge: Charge, flags: int) -> bytes:
    """kind, limit, window, cost, flags, burst, fifth: as logs.lua reads them. Of a learned window the last two are its
    ceiling (0: none) and its floor."""
    quota = charge.quota
    flags += (
        _SHADOW * quota.shadow
        + _REFUSES * (quota.when_full is WhenFull.REFUSE)
        + _DIVIDED * (quota.counts is Counts.UPSTREAM)
        + _SPACES * quota.spaces
        + _ADDRESS * quota.of_address
    )
    limit, window_us = quota.limit - set_aside(quota), quota.window_us
    if quota.window is WindowKind.BUCKET:
        # In the smallest whole numbers: a bucket is kept in parts of 1/limit microseconds.
        common = math.gcd(limit, window_us)
        limit, window_us = limit // common, window_us // common
    if quota.window is WindowKind.LEARNED:
        return _RECORD.pack(LEARNED, limit, window_us, charge.cost, flags, quota.ceiling or 0, quota.floor)
    return _RECORD.pack(kind_of(quota), limit, window_us, charge.cost, flags, quota.burst, quota.limit // 5 or 1)
