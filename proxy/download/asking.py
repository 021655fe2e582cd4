"""Asks a gateway, and asks again as long as that is worth it: as it is told to, or ever less often.

What everybody is told to wait for, everybody waits for: one answer that says so stops all questions of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, assert_never

import aiohttp
from yarl import URL

from policies.quantities import duration_text
from proxy.clock import Clock, Sleep
from proxy.download.reading import Again, Good, Refused, Useless, Verdict, judge

_FIRST_PAUSE_US: Final = 500_000
_LONGEST_PAUSE_US: Final = 30_000_000
_LEAST_PAUSE_US: Final = 50_000
_GREETING_US: Final = 10_000_000
"""How long it is tried as long as nothing has ever been answered: a wrong address should be told soon."""
TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
"""A question may wait in the gateway's queue."""


class SymbolRefused(Exception):
    """The exchange will not answer this question."""


class RunEnded(Exception):
    """Nothing more will be answered in this run, or not in time."""


class Tries(NamedTuple):
    """What a question has been through. `failures`: those that did not say when to come back."""

    since_us: int
    failures: int = 0


class Asker:
    """`patience_us`: how long one question is asked again; `told`: is called with what is waited for, and how long."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        *,
        headers: Mapping[str, str],
        parallel: int,
        patience_us: int,
        told: Callable[[str, int], None],
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._session = session
        self._base = base
        self._headers = {"Accept": "application/json", "Accept-Encoding": "gzip", **headers}
        self._places = asyncio.Semaphore(parallel)
        self._patience_us = patience_us
        self._told = told
        self._clock = clock
        self._sleep = sleep
        self._until_us = 0
        self._gap_us = 0
        self._heard = False
        self.asked = 0
        """Questions that went out, those that were asked again included."""

    async def ask(self, target: str, *, anew: bool = False) -> bytes:
        """The body of a good answer. Raises SymbolRefused, RunEnded. `anew`: not from a cache on the way."""
        headers = {**self._headers, "Cache-Control": "no-cache"} if anew else self._headers
        tries: Tries | None = None
        while True:
            async with self._places:
                await self._turn()
                verdict = await self._once(target, headers)
            match verdict:
                case Good(body):
                    self._heard = True
                    return body
                case Refused(reason):
                    raise SymbolRefused(reason)
                case Useless(reason):
                    raise RunEnded(reason)
                case Again():
                    tries = await self._wait(verdict, tries or Tries(self._clock()))
                case _:
                    assert_never(verdict)

    async def _turn(self) -> None:
        """Until nobody has to wait any more; and where a quota is known, so far apart that it need not refuse again."""
        while (wait_us := self._until_us - self._clock()) > 0:
            await self._sleep(wait_us / 1e6)
        if self._gap_us:
            self._until_us = self._clock() + self._gap_us

    async def _once(self, target: str, headers: Mapping[str, str]) -> Verdict:
        self.asked += 1
        try:
            async with self._session.get(
                URL(self._base + target, encoded=True), headers=headers, allow_redirects=False, timeout=TIMEOUT
            ) as answer:
                return judge(answer.status, answer.headers, await answer.read())
        except aiohttp.ClientConnectorCertificateError:
            return Useless(f"{self._base}: its certificate is not to be trusted")
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            return Again(f"{self._base} does not answer ({type(error).__name__})")
        except aiohttp.ClientError as error:
            return Again(f"an answer that broke off ({type(error).__name__})")

    async def _wait(self, again: Again, tries: Tries) -> Tries:
        now_us = self._clock()
        if again.wait_us is None:
            wait_us = min(_FIRST_PAUSE_US << min(tries.failures, 16), _LONGEST_PAUSE_US)
            tries = tries._replace(failures=tries.failures + 1)
        else:
            wait_us = max(again.wait_us, _LEAST_PAUSE_US)
            self._heard = True  # whoever tells when to come back is there
        patience_us = self._patience_us if self._heard else min(_GREETING_US, self._patience_us)
        if now_us + wait_us - tries.since_us > patience_us:
            raise RunEnded(f"{again.reason}; another try would make sense in {duration_text(_rounded(wait_us))}")
        self._told(again.reason, wait_us)
        self._gap_us = min(max(self._gap_us, again.gap_us), _LONGEST_PAUSE_US)
        if again.everybody:
            self._until_us = max(self._until_us, now_us + wait_us)
        else:
            await self._sleep(wait_us / 1e6)
        return tries


def _rounded(wait_us: int) -> int:
    return max(1, -(-wait_us // 1_000_000)) * 1_000_000
