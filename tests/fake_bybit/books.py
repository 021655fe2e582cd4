"""The exchange's three limiters as bookkeeping: no clock, no sockets, time comes in as `now_us`.

The server uses them on the wall clock; a simulation can use them directly on a virtual one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from tests.fake_bybit.limits import SECOND_US, Limit, find_limit
from tests.fake_bybit.settings import Settings
from tests.fake_bybit.windows import FixedWindow, RollingWindow


class Verdict(Enum):
    """What the IP limiter says to one arrival."""

    OK = "ok"
    BREACH = "breach"  # this one was too many: the ban begins
    BANNED = "banned"


@dataclass(slots=True)
class IpHistory:
    """What one source address did: `seen` holds refused arrivals too, the limit is held against `counted`."""

    seen: RollingWindow = field(default_factory=RollingWindow)
    counted: RollingWindow = field(default_factory=RollingWindow)
    requests: int = 0
    breaches: int = 0
    banned_hits: int = 0
    bans: int = 0
    banned_until_us: int = 0


class IpBook:
    """bybit.md 1.1: 600 requests in a 5-s window per source IP, over everything; then 403 for ten minutes."""

    def __init__(
        self,
        limit: int = 600,
        window_us: int = 5_000_000,
        ban_us: int = 600_000_000,
        *,
        ban_extends_on_hit: bool = False,
        rejected_counts: bool = False,
    ) -> None:
        self.limit = limit
        self.window_us = window_us
        self.ban_us = ban_us
        self.ban_extends_on_hit = ban_extends_on_hit
        self.rejected_counts = rejected_counts
        self.ips: dict[str, IpHistory] = {}

    def arrive(self, ip: str, now_us: int) -> Verdict:
        """Book one arrival and judge it."""
        known = self._of(ip)
        known.requests += 1
        known.seen.add(now_us, self.window_us)
        if now_us < known.banned_until_us:
            known.banned_hits += 1
            if self.rejected_counts:
                known.counted.add(now_us, self.window_us)
            if self.ban_extends_on_hit:  # bybit.md 1.1: not documented whether hits during a ban extend it
                known.banned_until_us = now_us + self.ban_us
            return Verdict.BANNED
        if known.counted.count(now_us, self.window_us) < self.limit:
            known.counted.add(now_us, self.window_us)
            return Verdict.OK
        if self.rejected_counts:
            known.counted.add(now_us, self.window_us)
        known.breaches += 1
        self.ban(ip, now_us)
        return Verdict.BREACH

    def ban(self, ip: str, now_us: int, ban_us: int | None = None) -> int:
        """Begin a ban now; returns when it ends."""
        known = self._of(ip)
        known.bans += 1
        known.banned_until_us = now_us + (self.ban_us if ban_us is None else ban_us)
        return known.banned_until_us

    def unban(self, ip: str) -> None:
        """Lift a ban. The window keeps what it holds."""
        self._of(ip).banned_until_us = 0

    def banned_until_us(self, ip: str) -> int:
        """When the ban of `ip` ends or ended; 0 if there was none."""
        known = self.ips.get(ip)
        return known.banned_until_us if known else 0

    def max_in_window(self, ip: str | None = None) -> int:
        """The most arrivals any window ever held, refused ones included; over all addresses by default."""
        if ip is not None:
            return self.ips[ip].seen.peak if ip in self.ips else 0
        return max((known.seen.peak for known in self.ips.values()), default=0)

    @property
    def breaches(self) -> int:
        """Arrivals that started a ban."""
        return sum(known.breaches for known in self.ips.values())

    @property
    def bans(self) -> int:
        """Bans, those begun by hand included."""
        return sum(known.bans for known in self.ips.values())

    def _of(self, ip: str) -> IpHistory:
        known = self.ips.get(ip)
        if known is None:
            known = self.ips[ip] = IpHistory()
        return known


class EndpointBook:
    """The limiter behind 10006 on public market data, of unknown size and key (bybit.md 1.2, Unknown 2)."""

    def __init__(self) -> None:
        self.windows: dict[str, RollingWindow] = {}
        self.refused = 0

    def take(self, key: str, limit: int, window_us: int, now_us: int) -> tuple[bool, int]:
        """Whether one more fits, and how many are left after it."""
        window = self.windows.get(key)
        if window is None:
            window = self.windows[key] = RollingWindow()
        held = window.count(now_us, window_us)
        if held >= limit:
            self.refused += 1
            return False, 0
        window.add(now_us, window_us)
        return True, limit - held - 1

    def max_in_window(self, key: str | None = None) -> int:
        """The most that was ever let through in one window."""
        if key is not None:
            return self.windows[key].peak if key in self.windows else 0
        return max((window.peak for window in self.windows.values()), default=0)


class Grant(NamedTuple):
    """What the account limiter lets through. `limit` 0 means that nothing limits this endpoint."""

    allowed: int
    limit: int
    remaining: int
    reset_ms: int
    window_us: int = SECOND_US


Bucket = tuple[str, str, str, str]  # uid, method, path, category group


@dataclass(slots=True)
class Account:
    """One bucket: what was admitted, and everything that was asked."""

    admitted: RollingWindow | FixedWindow
    asked: RollingWindow = field(default_factory=RollingWindow)
    refused: int = 0


class AccountBook:
    """bybit.md 1.2 to 1.6: UID x endpoint x category, answered inside HTTP 200."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.buckets: dict[Bucket, Account] = {}

    def take(self, uid: str, method: str, path: str, category: str, cost: int, now_us: int) -> Grant:
        """Take up to `cost`; a batch may get a part (bybit.md 1.5: with 5 left, a batch of 8 places 5)."""
        limit = self._limit(method, path, category)
        if limit is None:
            return Grant(cost, 0, 0, now_us // 1000)
        account = self._bucket(uid, method, path, category, limit)
        number, window_us = limit.number, limit.window_us
        account.asked.add(now_us, window_us, cost)
        room = max(0, number - account.admitted.count(now_us, window_us))
        allowed = min(cost, room)
        counted = cost if self.settings.account_rejected_counts else allowed
        if counted:
            account.admitted.add(now_us, window_us, counted)
        if allowed == cost:
            # bybit.md 1.2: unless exceeded, the reset header is just about the current server time
            return Grant(allowed, number, room - allowed, now_us // 1000, window_us)
        account.refused += cost - allowed
        free_us = account.admitted.room_at_us(number, 1, now_us, window_us)
        return Grant(allowed, number, 0, -(-free_us // 1000), window_us)

    def max_in_window(self, bucket: Bucket | None = None) -> int:
        """The most that was ever asked for in one rolling window, refused or not."""
        if bucket is not None:
            return self.buckets[bucket].asked.peak if bucket in self.buckets else 0
        return max((account.asked.peak for account in self.buckets.values()), default=0)

    def max_admitted(self, bucket: Bucket) -> int:
        """The most one window ever let through."""
        return self.buckets[bucket].admitted.peak if bucket in self.buckets else 0

    @property
    def refused(self) -> int:
        """Requests, or orders of batches, turned away with 10006."""
        return sum(account.refused for account in self.buckets.values())

    def group(self, category: str) -> str:
        """The business line a category is counted under."""
        # bybit.md 1.4: linear and inverse probably share one bucket; not stated outright
        if self.settings.linear_inverse_shared and category in ("linear", "inverse"):
            return "futures"
        return category

    def _bucket(self, uid: str, method: str, path: str, category: str, limit: Limit) -> Account:
        # bybit.md 1.5: the path is part of the key, so a batch endpoint has its own budget
        key = (uid, method, path, self.group(category) if limit.split else "")
        account = self.buckets.get(key)
        kind = RollingWindow if self.settings.account_window == "rolling" else FixedWindow
        if account is None:
            account = self.buckets[key] = Account(kind())
        elif type(account.admitted) is not kind:  # the switch was turned: count anew from here
            account.admitted = kind()
        return account

    def _limit(self, method: str, path: str, category: str) -> Limit | None:
        found = find_limit(method, path, category, self.settings.account_level)
        if self.settings.account_limits and (number := self._override(method, path, category)) is not None:
            return Limit(number, found.window_us, found.split) if found else Limit(number, SECOND_US, split=False)
        if found is None and self.settings.unlisted_limit:
            return Limit(self.settings.unlisted_limit, SECOND_US, split=False)
        return found

    def _override(self, method: str, path: str, category: str) -> int | None:
        """The number set by hand, if there is one; 0 lets nothing through."""
        name = f"{method} {path}"
        return self.settings.account_limits.get(f"{name} {category}", self.settings.account_limits.get(name))


@dataclass(slots=True)
class Books:
    """All three, as one exchange keeps them."""

    settings: Settings
    ip: IpBook = field(init=False)
    endpoint: EndpointBook = field(init=False)
    account: AccountBook = field(init=False)

    def __post_init__(self) -> None:
        self.ip = IpBook()
        self.endpoint = EndpointBook()
        self.account = AccountBook(self.settings)
        self.follow_settings()

    def follow_settings(self) -> None:
        """Hand the IP book its current figures; cheap enough to do before each request."""
        settings, book = self.settings, self.ip
        book.limit = settings.ip_limit
        book.window_us = settings.ip_window_us
        book.ban_us = settings.ip_ban_us
        book.ban_extends_on_hit = settings.ban_extends_on_hit
        book.rejected_counts = settings.rejected_counts
