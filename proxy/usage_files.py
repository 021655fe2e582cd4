"""The figures for bills of a gateway that stands alone, over restarts: a file for each hour, beside the state file.

A file is read, added to and replaced whole, under a lock that several processes of one machine respect: what is found
is the state before or the one after. All of it happens in threads: a disk may be slow.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from policies.usage import COUNTS, MOST, MOST_ROWS, Batch, Ledger, Who, hour_name, hour_of_name
from proxy.clock import Clock
from proxy.store.client import StoreLost
from proxy.store.state_file import AUTO, make_private, places
from proxy.usage_store import Found, Keeping, oldest

T = TypeVar("T")

_SUFFIX: Final = ".json"
_VERSION: Final = 1


@dataclass
class _Record:
    """What is in a file. `numbers`: the last batch of each process that has added to it."""

    numbers: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[str, str, list[int]]] = field(default_factory=list)
    holed: bool = False

    @classmethod
    def read(cls, text: bytes) -> _Record:
        """What was torn by a loss of power, or is somebody's, has a hole where its figures were."""
        try:
            told: Any = orjson.loads(text)
            rows = [(str(client), str(tier), [int(each) for each in sums]) for client, tier, sums in told["rows"]]
            numbers = {str(source): int(number) for source, number in told["numbers"].items()}
            good = told["bybit_gateway_usage"] == _VERSION and all(
                len(sums) == len(COUNTS) and min(sums) >= 0 and max(sums) <= MOST for _, _, sums in rows
            )
            holed = bool(told["holed"])
        except (ValueError, KeyError, TypeError, AttributeError):
            good, numbers, rows, holed = False, {}, [], True
        return cls(numbers, rows, holed) if good else cls(holed=True)

    def text(self) -> bytes:
        return orjson.dumps({"bybit_gateway_usage": _VERSION, **vars(self)})


class FileUsage:
    """`directory` is there, and ours."""

    shared = False
    most_rows = MOST_ROWS

    def __init__(self, directory: Path, keeping: Keeping, clock: Clock) -> None:
        self.keeping = keeping
        self.directory = directory
        self._clock = clock
        self._swept = 0

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def add(self, batch: Batch) -> bool:
        return await asyncio.to_thread(_renamed, lambda: self._add(batch))

    async def hours(self) -> list[int]:
        first = oldest(self._clock(), self.keeping)
        return [hour for hour in await asyncio.to_thread(_renamed, self._hours) if hour >= first]

    async def read(self, hour: int, source: str) -> Found | None:
        record = await asyncio.to_thread(_renamed, lambda: self._read(hour))
        if record is None:
            return None
        return Found(_rows(record), record.numbers.get(source, 0), record.holed)

    def _add(self, batch: Batch) -> bool:
        with self._locked():
            self._sweep()
            record = self._read(batch.hour) or _Record()
            last = record.numbers.get(batch.source, 0)
            if batch.number <= last:
                return False
            ledger = Ledger(self.keeping.most_clients)
            for who, sums in (*_rows(record).items(), *batch.rows):
                ledger.add(batch.hour, who, sums)
            record.rows = [(*who, list(sums)) for who, sums in ledger.rows(batch.hour).items()]
            record.holed = record.holed or batch.number != last + 1
            record.numbers[batch.source] = batch.number
            self._replace(batch.hour, record.text())
            return True

    def _read(self, hour: int) -> _Record | None:
        try:
            return _Record.read(self._path(hour).read_bytes())
        except FileNotFoundError:
            return None

    def _replace(self, hour: int, text: bytes) -> None:
        path = self._path(hour)
        new = path.with_suffix(f".{os.getpid()}.new")
        try:
            new.write_bytes(text)
            new.chmod(0o600)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _hours(self) -> list[int]:
        names = (path.name.removesuffix(_SUFFIX) for path in self.directory.glob(f"*{_SUFFIX}"))
        return sorted(hour for name in names if (hour := hour_of_name(name)) is not None)

    def _sweep(self) -> None:
        """Once an hour: what is older than it is kept."""
        first = oldest(self._clock(), self.keeping)
        if first != self._swept:
            for hour in self._hours():
                if hour < first:
                    self._path(hour).unlink(missing_ok=True)
            self._swept = first

    def _path(self, hour: int) -> Path:
        return self.directory / f"{hour_name(hour)}{_SUFFIX}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def directory_of(setting: str, budget: tuple[str, str], environment: Mapping[str, str]) -> Path | None:
    """Where hours can be kept beside the state file; None where nowhere. `budget` as for the state file."""
    for path in places(setting, budget, environment):
        directory = path.with_suffix(".usage")
        try:
            if setting == AUTO:
                make_private(path.parent)
            make_private(directory)
        except OSError:
            continue
        if os.access(directory, os.W_OK | os.X_OK):
            return directory
    return None


def _rows(record: _Record) -> dict[Who, list[int]]:
    return {(client, tier): sums for client, tier, sums in record.rows}


def _renamed(work: Callable[[], T]) -> T:
    """In the words of all stores."""
    try:
        return work()
    except OSError as error:
        raise StoreLost("disk-full" if error.errno == errno.ENOSPC else "disk") from None
