"""What the gateways of one address tell each other through the store beside the windows: bans, the trade switch, and
whose API keys are whose.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from policies.ban import Ban
from proxy.accounts import Accounts
from proxy.egress import Egress, Trading
from proxy.store.client import StoreLost
from proxy.store.remote import RemoteWindows

_SAME_US: Final = 1_000_000
"""Instants of another clock are known to within less than this."""
_PROBE_US: Final = 40_000_000
"""Longer than any question takes: then another one may ask."""


class News:
    """Where the store is away nothing is lost: what we know is told again when it is back."""

    def __init__(self, remote: RemoteWindows) -> None:
        self._remote = remote
        self._egress: Egress | None = None
        self._accounts: Accounts | None = None
        self._version = 0
        """Of the accounts as they were heard last."""

    def follow(self, egress: Egress, accounts: Accounts) -> None:
        self._egress, self._accounts = egress, accounts

    async def strike(self, ban_us: int) -> None:
        with suppress(StoreLost):
            self._hear(await self._remote.ban(ban_us))

    async def may_probe(self) -> bool:
        """Who is cut off finds out for himself: nobody would tell him."""
        try:
            return await self._remote.may_probe(_PROBE_US)
        except StoreLost:
            return True

    async def lift(self) -> None:
        with suppress(StoreLost):
            await self._remote.lift()

    async def switch(self, trading: Trading) -> None:
        with suppress(StoreLost):
            latest = await self._remote.switch(trading)
            if latest is not None and self._egress is not None:
                self._egress.hear_trading(latest)

    async def tell_accounts(self) -> None:
        with suppress(StoreLost):
            await self._exchange_accounts()

    async def heard(self, words: Sequence[Any]) -> None:
        """With a sign of life: until, begun, times, lifted; when the switch was set, mode; the version of the accounts.
        Raises StoreLost."""
        egress = self._egress
        if egress is None:
            return
        ban = self._remote.ban_of(words[:4])
        self._hear(ban)
        ours = egress.ban
        unknown = not ban.stands and ban.lifted_us <= ours.begun_us
        if ours.stands and (unknown or ours.until_us > ban.until_us + _SAME_US):
            await self._remote.remember_ban(ours)  # it has lost it, or was away when we found out
        elif ban.stands and not ours.stands:
            await self._remote.lift()  # it was away when we found out
        trading = self._remote.trading_of(words[4], words[5])
        if trading is not None:
            egress.hear_trading(trading)
        if egress.trading.set_us and (trading is None or trading.set_us < egress.trading.set_us - 1_000):
            await self._remote.switch(egress.trading, again=True)
        if int(words[6]) != self._version:
            await self._exchange_accounts()

    async def _exchange_accounts(self) -> None:
        if self._accounts is not None:
            self._version, heard = await self._remote.accounts(self._accounts.known)
            self._accounts.hear(heard)

    def _hear(self, ban: Ban) -> None:
        if self._egress is not None:
            self._egress.hear_ban(ban)
