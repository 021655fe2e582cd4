"""Keeps the memory of a gateway that stands alone over a restart: policies/restart.py says what the next one does.

While the gateway runs, its state file gets a sign of life every second. When it ends in peace, the file gets the
windows: no secrets, API keys are hashes there as everywhere.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from policies.admission import Quota, WindowKind
from policies.ban import Ban, longest_ban_us
from policies.restart import Beginning, ColdStart, Found, Snapshot, beginning, longest_us
from policies.sharing import exact
from policies.trading import TradingMode
from proxy.clock import Clock, Sleep
from proxy.egress import Egress, Trading
from proxy.store.memory import MemoryStore
from proxy.store.state_file import AUTO, InUseError, NotOursError, StateFile, first_usable

SIGN_S: Final = 1.0
_VERSION: Final = 1
_MOST_NUMBERS: Final = 1_000_000
"""About 8 MB. What clients have spent is left out beyond that; what the exchange counts must fit."""
_HASHED: Final = frozenset({"api_key", "client"})
"""Parts of a partition that are hashes: another key makes other names of them."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Moment(NamedTuple):
    """An instant that another process can compare with its own: by the clock without steps, within one boot."""

    boot: str
    monotonic_us: int
    wall_us: int


def system_moment() -> Moment:
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return Moment(boot, time.monotonic_ns() // 1000, time.time_ns() // 1000)


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Window(_Form):
    key: list[str]
    kind: WindowKind
    limit: PositiveInt
    window_us: PositiveInt
    burst: NonNegativeInt
    state: list[int]


class _Egress(_Form):
    """What holds for the address: the ban, and the trade switch. Instants are of the wall clock."""

    until_us: NonNegativeInt
    begun_us: NonNegativeInt
    times: NonNegativeInt
    lifted_us: NonNegativeInt
    trading: TradingMode
    set_us: NonNegativeInt


class _Record(_Form):
    """What is in the file. `rules`: each a name and its partition; `hashes` tells by which key hashes were made."""

    bybit_gateway_state: Literal[1]
    status: Literal["running", "stopped"]
    boot: str
    monotonic_us: int
    wall_us: int
    hashes: str = ""
    egress: _Egress | None = None
    rules: list[list[str]] = []
    windows: list[_Window] = []


class Keeper:
    """`budget`: egress id and upstream, which together name what is counted at the exchange."""

    def __init__(
        self,
        setting: str,
        budget: tuple[str, str],
        store: MemoryStore,
        clock: Clock,
        egress: Egress,
        *,
        moment: Callable[[], Moment] = system_moment,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._setting = setting
        self._budget = budget
        self._store = store
        self._clock = clock
        self._egress = egress
        self._moment = moment
        self._sleep = sleep
        self._file: StateFile | None = None
        self._awaited = False
        self._failing = False
        self._log: Any = structlog.get_logger()

    def begin(self, rules: Sequence[Quota], hashes: str) -> None:
        """Before the first request: go on where the last gateway stopped, or hold for what it may have sent."""
        found, record = self._find()
        if record is not None and record.egress is not None:
            self._take_egress(record.egress)
        away_us = None if record is None else self._away_us(record)
        match beginning(found, away_us, longest_us(rules)):
            case Beginning.RESTORED if record is not None and away_us is not None:
                self._restore(record, self._clock() - away_us, rules, hashes)
            case Beginning.EMPTY:
                pass
            case _:
                self._hold(ColdStart(self._clock()), rules, found)
        self._give_sign(sync=True)

    async def run(self) -> None:
        """Signs of life, in a thread: a disk may be slow."""
        while self._file is not None or self._awaited:
            await self._sleep(SIGN_S)
            await asyncio.to_thread(self._give_sign)

    def note(self) -> None:
        """Something has happened that must not be forgotten: not only with the next sign of life."""
        self._give_sign(sync=True)

    def end(self, rules: Sequence[Quota], hashes: str) -> None:
        """After the last request. What is still in flight is written down as completed now."""
        if self._file is None:
            return
        # While it is held, the windows do not tell what is held of those that nobody has used yet.
        windows = None if self._store.cold else self._windows()
        names = [[rule.name, *rule.partition] for rule in rules]
        last = self._sign()
        with suppress(orjson.JSONEncodeError):  # a name that is no Unicode
            if windows is not None:
                more = {"hashes": hashes, "rules": names, "windows": windows}
                last = _text(self._moment(), "stopped", egress=self._of_egress(), **more)
        try:
            self._file.finish(last)
        except OSError as error:
            self._log.warning("state_not_saved", path=str(self._file.path), error=error.strerror)

    def _find(self) -> tuple[Found, _Record | None]:
        try:
            opened = first_usable(self._setting, self._budget, os.environ)
        except InUseError as error:
            remedy = (
                "another gateway with this egress.id runs here, and in memory mode the two do not share their budget: "
                "give both store.url: redis://HOST, or each its own egress.id if the exchange sees two addresses"
            )
            self._log.warning("state_file_in_use", path=str(error), remedy=remedy)
            self._awaited = True
            return Found.LOCKED, None
        except NotOursError as error:
            remedy = "no gateway has written this: remove it, or let store.state_file name another file"
            self._log.warning("state_file_unreadable", path=str(error), remedy=remedy)
            return Found.UNREADABLE, None
        if isinstance(opened, list):
            tell = self._log.info if self._setting == AUTO else self._log.warning
            tell("state_file_nowhere", tried=opened)
            return Found.NOWHERE, None
        self._file = opened
        if opened.text is None:
            return Found.NOTHING, None
        try:
            record = _Record.model_validate_json(opened.text)
        except ValidationError:
            remedy = "none needed: it is written anew; windows start as full as the last gateway may have left them"
            self._log.warning("state_file_unreadable", path=str(opened.path), remedy=remedy)
            return Found.UNREADABLE, None
        return Found.CLEAN if record.status == "stopped" else Found.RUNNING, record

    def _away_us(self, record: _Record) -> int:
        now = self._moment()
        if record.boot and record.boot == now.boot:
            return now.monotonic_us - record.monotonic_us
        return now.wall_us - record.wall_us

    def _restore(self, record: _Record, at_us: int, rules: Sequence[Quota], hashes: str) -> None:
        known = {tuple(rule) for rule in record.rules}
        today = {rule.name: rule for rule in rules if (rule.name, *rule.partition) in known}
        count = 0
        for window in record.windows:
            rule = today.get(window.key[0]) if window.key else None
            if rule is not None and len(window.key) == 1 + len(rule.partition):
                taken = Snapshot(window.kind, window.limit, window.window_us, window.burst, window.state)
                count += self._store.restore(tuple(window.key), rule, taken, at_us)
        self._log.info("state_restored", windows=count)
        lost = [
            rule
            for rule in rules
            if rule.name not in today or (hashes != record.hashes and _HASHED.intersection(rule.partition))
        ]
        self._hold(ColdStart(at_us, frozenset(rule.name for rule in lost)), lost, "other-rules")

    def _hold(self, cold: ColdStart, rules: Sequence[Quota], reason: str) -> None:
        """Rules that nothing was kept for start as full as they may be at the exchange."""
        until_us = cold.since_us + longest_us(rules)
        hold_us = until_us - self._clock()
        if hold_us <= 0:
            return
        self._store.begin_cold(cold, until_us)
        self._log.warning("cold_start", hold_s=round(hold_us / 1e6, 3), reason=str(reason))

    def _windows(self) -> list[dict[str, Any]] | None:
        """Those that the exchange counts come first; None where not even they fit."""
        rows: list[dict[str, Any]] = []
        numbers = 0
        for wanted in (exact, lambda quota: not exact(quota)):
            for key, taken in self._store.snapshots(wanted):
                numbers += len(taken.state) + len(taken)
                if numbers > _MOST_NUMBERS:
                    return None if wanted is exact else rows
                rows.append({"key": list(key), **taken._asdict()})
        return rows

    def _take_over(self) -> None:
        """Who held the file may have been draining. What he left in it is older than what our windows know."""
        with suppress(InUseError, NotOursError):
            opened = first_usable(self._setting, self._budget, os.environ)
            if isinstance(opened, StateFile):
                self._file, self._awaited = opened, False

    def _give_sign(self, *, sync: bool = False) -> None:
        if self._awaited:
            self._take_over()
        if self._file is None:
            return
        try:
            self._file.write(self._sign(), sync=sync)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._log.warning("state_not_saved", path=str(self._file.path), error=error.strerror)
            self._failing = True

    def _sign(self) -> bytes:
        return _text(self._moment(), "running", egress=self._of_egress())

    def _take_egress(self, kept: _Egress) -> None:
        """The clock of then may have been ahead of ours: no ban lasts longer than one that begins now."""
        now_us = self._clock()
        until_us = min(kept.until_us, now_us + longest_ban_us(self._egress.rules.ban_us))
        self._egress.hear_ban(Ban(until_us, min(kept.begun_us, now_us), kept.times, min(kept.lifted_us, now_us)))
        self._egress.hear_trading(Trading(kept.trading, min(kept.set_us, now_us)))

    def _of_egress(self) -> dict[str, Any]:
        ban, trading = self._egress.ban, self._egress.trading
        return {**asdict(ban), "trading": trading.mode, "set_us": trading.set_us}


def _text(moment: Moment, status: str, **more: Any) -> bytes:
    return orjson.dumps({"bybit_gateway_state": _VERSION, "status": status, **moment._asdict(), **more})
