"""What holds for all that is sent from our address: the ban, the throttle, and the trade switch.

The corridor asks here right before anything is sent, without a suspension. What other gateways of the address find out
comes in by hear_ban() and hear_trading(); what we find out goes to them through the store.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import structlog

from policies.admission import WHOLE
from policies.ban import Ban
from policies.throttle import Throttle
from policies.trading import TradingMode
from proxy.clock import Clock

_SAME_US: Final = 1_000_000
"""Instants of another clock are known to within less than this."""


class Trading(NamedTuple):
    """The position of the trade switch and when it was set: the latest word counts."""

    mode: TradingMode = TradingMode.NORMAL
    set_us: int = 0


class EgressRules(NamedTuple):
    ban_us: int
    ramp_us: int


class Egress:
    """`stopped` are called when a ban begins, `resumed` when it is lifted, `struck` when the exchange has told us of
    one, or has told us again."""

    def __init__(self, rules: EgressRules, clock: Clock) -> None:
        self.rules = rules
        self.ban = Ban()
        self.trading = Trading()
        self.stopped: list[Callable[[], None]] = []
        self.struck: list[Callable[[], None]] = []
        self.resumed: list[Callable[[], None]] = []
        self._throttle = Throttle()
        self._clock = clock
        self._log: Any = structlog.get_logger()

    @property
    def banned(self) -> bool:
        """Nothing is sent."""
        return self.ban.stands

    @property
    def ban_left_us(self) -> int:
        """At least so much longer."""
        return max(0, self.ban.until_us - self._clock())

    @property
    def halted(self) -> bool:
        return self.trading.mode is TradingMode.HALT_NEW

    def part(self) -> int:
        """How much of the address's budget may be used, in millionths."""
        if self._throttle.part == WHOLE and not self.ban.lifted_us:
            return WHOLE  # nearly always
        now_us = self._clock()
        return self.ban.part(now_us, self.rules.ramp_us) * self._throttle.now(now_us) // WHOLE

    def strike(self) -> None:
        """The exchange has banned the address, or says so again."""
        self._become(self.ban.struck(self._clock(), self.rules.ban_us), "exchange")
        _tell(self.struck)

    def lift(self) -> None:
        """An answer has come: the ban is over."""
        self._become(self.ban.lifted(self._clock()), "probe")

    def hear_ban(self, heard: Ban) -> None:
        """What the gateways of this address know together; instants are on our clock, and not to the microsecond."""
        ours = self.ban
        if heard.stands:
            newer = heard.until_us > ours.until_us + _SAME_US
            if heard.begun_us + _SAME_US >= ours.lifted_us and (newer or not ours.stands):
                self._become(heard, "store")
        elif ours.stands and heard.lifted_us > ours.begun_us:
            self._become(heard, "store")
        elif not ours.stands and heard.lifted_us > ours.lifted_us:
            self.ban = heard  # of before our time: the budget still grows, and another ban would be longer

    def hear_trading(self, heard: Trading) -> None:
        if heard.set_us > self.trading.set_us:
            changed = heard.mode is not self.trading.mode
            self.trading = heard
            if changed:
                self._log.warning("trading_switched", mode=heard.mode.value)

    def cut(self, sent_us: int) -> bool:
        """The exchange protects itself from what was sent then. Whether this is news."""
        before, self._throttle = self._throttle, self._throttle.cut(sent_us, self._clock())
        if self._throttle is before:
            return False
        self._log.warning("throttled", part=self._throttle.part / WHOLE)
        return True

    def status(self) -> dict[str, Any]:
        """For the health page."""
        ban = self.ban
        return {
            "status": "banned" if ban.stands else "ok",
            "banned_until": _shown(ban.until_us) if ban.stands else None,
            "banned_since": _shown(ban.begun_us) if ban.stands else None,
            "bans": ban.times,
            "budget_part": round(self.part() / WHOLE, 3),
            "trading": self.trading.mode.value,
        }

    def _become(self, ban: Ban, source: str) -> None:
        before, self.ban = self.ban, ban
        if ban.stands and not before.stands:
            self._log.error("banned", until=_shown(ban.until_us), times=ban.times, source=source)
            _tell(self.stopped)
        elif before.stands and not ban.stands:
            self._log.warning("ban_lifted", source=source, ramp_s=self.rules.ramp_us / 1e6)
            _tell(self.resumed)
        elif ban.stands and ban.until_us > before.until_us + _SAME_US:
            self._log.error("ban_prolonged", until=_shown(ban.until_us), source=source)


def _tell(listeners: list[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()


def _shown(instant_us: int) -> str:
    return datetime.fromtimestamp(instant_us // 1_000_000, UTC).isoformat()
