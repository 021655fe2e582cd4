"""Which API keys belong to one account, as the exchange itself has told: keys of one account share its limits.

An operator may say so (identity.accounts). Where he does not, the exchange's answer to the question whose key it is,
which most clients ask when they start, is read in passing. Account and keys are known here by their hashes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from policies.admission import Charge, WindowKind

_MOST: Final = 10_000

Hashed = Callable[[str], str]


class Accounts:
    """`hashed`: as the hashes of API keys are made."""

    def __init__(self, hashed: Hashed) -> None:
        self._hashed = hashed
        self._account_of: dict[str, str] = {}
        self._replaced: dict[int, tuple[tuple[Charge, ...], tuple[Charge, ...]]] = {}
        self._log: Any = structlog.get_logger()

    def charges(self, charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
        """The same, with learned quotas spent by account instead of by key."""
        if not self._account_of:
            return charges
        known = self._replaced.get(id(charges))
        if known is None or known[0] is not charges:
            if len(self._replaced) > _MOST:
                self._replaced.clear()
            known = self._replaced[id(charges)] = (charges, self._by_account(charges))
        return known[1]

    @property
    def known(self) -> dict[str, str]:
        """Accounts by keys."""
        return dict(self._account_of)

    def learn(self, api_key: str, user: str) -> bool:
        """The exchange says whose key it is. Whether this is news."""
        account = self._hashed(user)
        if self._account_of.get(api_key) == account or len(self._account_of) >= _MOST:
            return False
        self.hear({api_key: account})
        return True

    def hear(self, accounts: Mapping[str, str]) -> None:
        """What is known elsewhere: accounts by keys."""
        for api_key, account in accounts.items():
            if self._account_of.get(api_key) != account and len(self._account_of) < _MOST:
                self._account_of[api_key] = account
                self._replaced.clear()
                self._log.info("account_learned", api_key=api_key[:8], account=account[:8])

    def _by_account(self, charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
        replaced = tuple(self._of_account(charge) for charge in charges)
        return charges if replaced == charges else replaced

    def _of_account(self, charge: Charge) -> Charge:
        if charge.quota.window is not WindowKind.LEARNED or charge.quota.partition != ("api_key",):
            return charge
        account = self._account_of.get(charge.key[1])
        return charge if account is None else charge._replace(key=(charge.key[0], account))
