"""A changed file becomes a changed gateway: noticed, loaded, judged as a whole, and only then applied.

The file is looked at once a second, and so are the files of secrets that variables name: the entry itself, and what it
resolves to, because Kubernetes swaps a symlink further up the path and never touches the entry itself. A change is read
once it has stood still for one look, so that a file that is still being written is not taken for a shorter one. SIGHUP
asks at once. A file with a mistake changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from pydantic import BaseModel

from policies.routing import RouteTable
from proxy import log
from proxy.clock import Clock
from proxy.config import Config, judged, read
from proxy.config_environment import files
from proxy.config_problems import ConfigError
from proxy.metrics import Metrics
from proxy.yamlfile import Problem

POLL_S: Final = 1.0

AT_START: Final = ("listen", "admin", "workers", "upstream", "store", "egress", "archive")
"""Sections whose sockets, connections and names are made once, but for `admin.token`. All others can change while the
gateway runs."""

_SHOWN: Final = 100

Mark = tuple[object, ...]
"""What of a file changes when somebody changes the file."""


def mark_of(path: Path) -> Mark:
    """Of the entry itself and of the file that it resolves to; something else where there is none."""
    try:
        real = path.resolve(strict=True)
        return (*_stamps(path.lstat()), real, *_stamps(real.stat()))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks, before Python 3.13
        return (type(error),)


def _stamps(entry: os.stat_result) -> tuple[int, int, int]:
    return entry.st_mtime_ns, entry.st_ino, entry.st_size


class Source:
    """Where the configuration comes from. `path` None: the defaults and the environment only."""

    def __init__(self, path: Path | None, environment: Mapping[str, str], routes: RouteTable) -> None:
        self.path = path
        self._environment = dict(environment)
        self._routes = routes
        self.watched = (*(() if path is None else (path,)), *files(self._environment, Config))
        self.seen = self.mark()
        self._loaded = self._said_something = False

    def mark(self) -> Mark:
        return tuple(mark_of(path) for path in self.watched)

    def load(self) -> Config:
        """Raises ConfigError with every problem at once.

        A file that has said something and is empty all of a sudden is a mistake: of an editor, a full disk, a pipe that
        was read before. It would open the gateway to everybody, by limits that nobody has chosen.
        """
        if self._loaded and self.path is not None and _is_read_once(self.path):
            raise self._mistake("no file that can be read again (a pipe?); start anew to change the configuration")
        document = read(self.path)
        empty = document.data is None and not document.problems
        if empty and self._said_something:
            raise self._mistake("empty, and it was not before; {} in it stands for the defaults")
        config = judged(document, self._environment, self._routes)
        self._loaded, self._said_something = True, not empty
        return config

    def _mistake(self, message: str) -> ConfigError:
        return ConfigError([Problem(str(self.path), None, "", message)])


def _is_read_once(path: Path) -> bool:
    """To open it could take for ever, and would find nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # whoever reads it will say so
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class Result(StrEnum):
    APPLIED = "applied"
    REFUSED = "refused"
    UNCHANGED = "unchanged"


class Adopted(NamedTuple):
    """What can be put into force of a wanted configuration, and the fields that need a restart."""

    config: Config
    left: tuple[str, ...]


def adopted(running: Config, wanted: Config) -> Adopted:
    kept: dict[str, Any] = {name: getattr(running, name) for name in AT_START}
    kept["admin"] = running.admin.model_copy(update={"token": wanted.admin.token})
    left = [field for name in AT_START for field in _changed(name, kept[name], getattr(wanted, name))]
    left += _changed("cache.l2", running.cache.l2, wanted.cache.l2)
    left += _changed("candles.stream", running.candles.stream, wanted.candles.stream)
    tracing = running.tracing.model_copy(update={"sample": wanted.tracing.sample})
    left += _changed("tracing", tracing, wanted.tracing)
    kept["tracing"] = tracing
    left += _changed("usage.enabled", running.usage.enabled, wanted.usage.enabled)
    kept["usage"] = wanted.usage.model_copy(update={"enabled": running.usage.enabled})
    kept["cache"] = wanted.cache.model_copy(update={"l2": running.cache.l2})
    kept["candles"] = wanted.candles.model_copy(update={"stream": running.candles.stream})
    return Adopted(wanted.model_copy(update=kept), tuple(left))


def _changed(place: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, BaseModel):
        for name in type(old).model_fields:
            yield from _changed(f"{place}.{name}", getattr(old, name), getattr(new, name))
    elif old != new:
        yield place


class Reloader:
    """`apply` puts a configuration into force without suspending, and names the fields that need a restart."""

    def __init__(
        self,
        *,
        source: Source,
        config: Config,
        apply: Callable[[Config], tuple[str, ...]],
        metrics: Metrics,
        clock: Clock,
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._accepted = config
        self._apply = apply
        self._metrics = metrics
        self._clock = clock
        self._poll_s = poll_s
        self._asked = asyncio.Event()
        self._left: tuple[str, ...] = ()
        self._loaded_us = clock()
        self._errors = 0
        self._log: Any = structlog.get_logger()
        metrics.config_good.set(1)

    def ask(self) -> None:
        """SIGHUP: load the file now, changed or not."""
        self._asked.set()

    def state(self) -> dict[str, object]:
        """For the health page: nothing of what the configuration says."""
        status = "refused" if self._errors else "needs-restart" if self._left else "ok"
        loaded_at = datetime.fromtimestamp(self._loaded_us // 1_000_000, UTC)
        return {"status": status, "loaded_at": loaded_at.isoformat(), "error_count": self._errors}

    async def run(self) -> None:
        """Watch until cancelled."""
        before = self._source.seen
        while True:
            asked = await self._wait()
            mark = await asyncio.to_thread(self._source.mark)
            if asked or (mark != self._source.seen and mark == before):
                self._source.seen = mark
                await self.reload()
            before = mark

    async def reload(self) -> Result:
        """Load, judge, apply. Whatever goes wrong, the gateway runs on with what it has."""
        try:
            config = await asyncio.to_thread(self._source.load)
            result = self._take(config)
        except ConfigError as error:
            result = self._refuse([str(problem) for problem in error.problems])
        except Exception as error:  # noqa: BLE001  # whatever a file makes go wrong must not end the watching
            result = self._refuse([f"cannot be used: {type(error).__name__}"])
        self._metrics.config_reloads.labels(result.value).inc()
        self._metrics.config_good.set(result is not Result.REFUSED)
        return result

    def _take(self, config: Config) -> Result:
        if config == self._accepted:
            self._errors = 0
            log.adopt(config.log.level, config.log.format)  # whatever somebody has set it to since
            self._log.info("config_unchanged")
            return Result.UNCHANGED
        self._left = self._apply(config)
        self._accepted, self._loaded_us, self._errors = config, self._clock(), 0
        self._log.info("config_applied", rules=[rule.name for rule in config.limits])
        if self._left:
            self._log.warning("config_needs_restart", fields=list(self._left))
        return Result.APPLIED

    def _refuse(self, problems: list[str]) -> Result:
        self._errors = len(problems)
        self._log.error("config_refused", problems=problems[:_SHOWN], error_count=len(problems))
        return Result.REFUSED

    async def _wait(self) -> bool:
        """Until somebody asks, or it is time to look at the file."""
        try:
            async with asyncio.timeout(self._poll_s if self._source.watched else None):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True
