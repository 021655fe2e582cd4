"""Builds the rooms of the cache, and puts a new configuration into them. What they do stands in proxy/lookup.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies.busy import Busy
from policies.history import Learned
from policies.priority import Priority
from policies.segments import Series
from proxy.archive.archive import Archive
from proxy.archived import Archived
from proxy.attempts import Attempts
from proxy.boundary import Boundary, BoundaryRules
from proxy.cache import L1
from proxy.candles import CandleRules, Candles
from proxy.clock import Clock, Sleep, shown
from proxy.config import Config
from proxy.describe import Describer
from proxy.egress import Egress
from proxy.inner import Inner
from proxy.l2 import L2, L2Status, mac_key_of
from proxy.lease import Leases
from proxy.level_two import LevelTwo, SharedRules
from proxy.lookup import Lookup, LookupRules
from proxy.metrics import Metrics
from proxy.pulse import SLOW_PART, Pulse, Queries
from proxy.shadow import Shadow
from proxy.store.client import connect_s, connected
from proxy.store.commands import Commands
from proxy.stream import Streams
from proxy.tasks import TaskOwner

_MAINNET: Final = "https://api.bybit.com"


class Caches:
    """`sharers` tells how many gateways spend the budget, `describer` understands the gateway's own requests."""

    def __init__(
        self,
        config: Config,
        *,
        attempts: Attempts,
        egress: Egress,
        describer: Callable[[], Describer],
        metrics: Metrics,
        tasks: TaskOwner,
        clock: Clock,
        sleep: Sleep,
        sharers: Callable[[], int],
    ) -> None:
        self._attempts = attempts
        self._clock = clock
        self._sleep = sleep
        self._metrics = metrics
        self._sharers = sharers
        self._config = config
        self.busy = _busy(config)
        attempts.sending = self._sending
        self._commands: Commands | None = None
        self.two: LevelTwo | None = None
        self.archive = None if config.archive.url is None else Archive(config.archive, clock, metrics)
        self._archived = None if self.archive is None else Archived(self.archive, self._exchange_us)
        self.candles = self._candles(config)
        if config.cache.enabled and config.cache.l2.enabled:
            self._open_level_two(config, tasks)
        self.lookup = Lookup(
            l1=_l1(config, None),
            candles=self.candles,
            two=self.two,
            archived=self._archived,
            rules=_lookup_rules(config),
            attempts=attempts,
            egress=egress,
            metrics=metrics,
            tasks=tasks,
            clock=clock,
        )
        self.inner = Inner(describer=describer, lookup=self.lookup, attempts=attempts, clock=clock)
        self.streams = self._opened_streams(config, egress)
        self.boundary = Boundary(
            _boundary_rules(config),
            lookup=self.lookup,
            inner=self.inner,
            busy=self._too_busy_for_courtesies,
            streamed=self._is_streamed,
            metrics=metrics,
            tasks=tasks,
            exchange_clock=self._exchange_us,
            sleep=sleep,
        )
        self.shadow = Shadow(
            config.candles.shadow,
            inner=self.inner,
            settle_us=lambda: self._config.cache.settle,
            busy=self._too_busy_for_courtesies,
            metrics=metrics,
            tasks=tasks,
            exchange_clock=self._exchange_us,
        )
        self.lookup.made.append(self.shadow.made)

    def start(self, loops: TaskOwner) -> None:
        """`loops` owns what runs for ever."""
        if self._commands is not None and self.two is not None:
            self._commands.start(loops)
            self.two.l2.start(loops)
            loops.spawn(self.two.write(), "segment-writer")
        if self.archive is not None:
            self.archive.start()
        if self.streams is not None:
            loops.spawn(self.streams.run(), "streams")
        loops.spawn(self.boundary.run(), "boundary")

    async def close(self) -> None:
        """When nothing is fetched any more."""
        if self._commands is not None:
            await self._commands.close()
        if self.archive is not None:
            await self.archive.stop()

    def adopt(self, config: Config) -> None:
        """After a reload. Connections to Redis, the archive and the streams stay as they are."""
        self._config = config
        lookup = self.lookup
        lookup.l1, lookup.rules = _l1(config, lookup.l1), _lookup_rules(config)
        if self.candles is None or not _keeps_candles(config):
            self.candles = self._candles(config)
        else:
            self.candles.adopt(_candle_rules(config))
        lookup.candles = self.candles
        if self.two is not None:
            self.two.candles, self.two.rules = self.candles, _shared_rules(config)
            lookup.two = self.two if config.cache.enabled else None
        self.boundary.rules, self.shadow.percent = _boundary_rules(config), config.candles.shadow
        self.busy = _busy(config)

    def status(self) -> dict[str, object]:
        """For the health page."""
        l1, candles = self.lookup.l1, self.candles
        return {
            "cache": None if l1 is None else {"entries": len(l1), "bytes": l1.size_bytes},
            "candles": None if candles is None else {"series": len(candles), "bytes": candles.size_bytes},
            "shared_cache": None if self.two is None else _shown(self.two.l2.status()),
            "archive": None if self.archive is None else self.archive.status(),
            "streams": None if self.streams is None else self.streams.status(),
        }

    def pulses(self) -> dict[str, list[Pulse]]:
        """Of what the caches depend on, as far as it is configured."""
        return {
            **({} if self._commands is None else {"redis_cache": [self._commands.pulse]}),
            **({} if self.archive is None else {"postgres": [self.archive.pulse]}),
            **({} if self.streams is None else {"stream": self.streams.pulses()}),
        }

    @property
    def calls_waiting(self) -> int:
        """Of the level in Redis: those that nobody has taken up yet."""
        return 0 if self._commands is None else self._commands.waiting

    def percent_used(self) -> int:
        """Of the budget of the address, about."""
        return self.busy.percent(self._clock(), self._sharers())

    def _too_busy_for_courtesies(self) -> int:
        """As percent_used(); all of it while clients are turned away."""
        return 100 if self._attempts.sheds(Priority.HISTORY) else self.percent_used()

    def _sending(self) -> None:
        self.busy.note(self._clock())

    def _candles(self, config: Config) -> Candles | None:
        if not _keeps_candles(config):
            return None
        return Candles(
            _candle_rules(config),
            clock=self._clock,
            exchange_clock=self._exchange_us,
            revised=self._revised,
            learned=self._learned,
            wanted=self._wanted,
        )

    def _open_level_two(self, config: Config, tasks: TaskOwner) -> None:
        l2 = config.cache.l2
        if l2.url is None and not config.store.shared:
            return
        own = {"url": l2.url, "password": None, "ca_file": None, "cert_file": None, "key_file": None}
        store = config.store.model_copy(update={**({} if l2.url is None else own), "timeout": l2.timeout})
        secret = None if l2.secret is None else l2.secret.get_secret_value()
        self._commands = Commands(
            connected(store),
            self._clock,
            timeout_us=l2.timeout,
            connect_s=connect_s(store),
            queries=Queries(self._metrics, "cache", l2.timeout // SLOW_PART),
            sleep=self._sleep,
        )
        self.two = LevelTwo(
            L2(
                self._commands,
                self._metrics,
                self._clock,
                mac_key=mac_key_of(secret, store.address.password),
                max_value_bytes=l2.max_value,
            ),
            Leases(self._commands, self._metrics, tasks, self._clock, sleep=self._sleep),
            self.candles,
            _shared_rules(config),
            busy=self.percent_used,
            clock=self._clock,
            exchange_clock=self._exchange_us,
            sleep=self._sleep,
        )

    def _opened_streams(self, config: Config, egress: Egress) -> Streams | None:
        if not (config.candles.stream and _keeps_candles(config)):
            return None
        return Streams(
            config.upstream.stream_url,
            config.upstream.ca_file,
            on_row=self._heard,
            on_gap=self._gap,
            metrics=self._metrics,
            clock=self._exchange_us,
            sleep=self._sleep,
            may_connect=lambda: not egress.banned,
        )

    def _exchange_us(self) -> int:
        return self._clock() + self._attempts.skew.offset_us

    def _revised(self, series: Series, rows: int) -> None:
        self._metrics.revised.labels(series.endpoint).inc(rows)
        if self.lookup.l1 is not None:
            self.lookup.l1.forget(f"{series.key()}:")

    def _learned(self, series: Series, learned: Learned) -> None:
        if self.two is not None:
            self.two.learned(series, learned.segments)
        if self._archived is not None:
            self._archived.learned(series, learned)

    def _wanted(self, series: Series) -> None:
        self.boundary.asked(series)
        if self.streams is not None:
            self.streams.want(series)

    def _is_streamed(self, series: Series) -> bool:
        if self.streams is None or self.candles is None:
            return False
        return self.streams.covers(series) and self.candles.is_fed(series)

    def _heard(self, series: Series, open_ms: int, row: bytes, confirmed: bool, heard_us: int) -> None:  # noqa: FBT001  # as it is called
        if self.candles is not None:
            good_us = self._config.candles.stream_max_age
            self.candles.heard(series, open_ms, row, heard_us, good_us, confirmed=confirmed)

    def _gap(self, series: Series) -> None:
        if self.candles is not None:
            self.candles.gap(series)


def _l1(config: Config, l1: L1 | None) -> L1 | None:
    cache = config.cache
    if not cache.enabled:
        return None
    if l1 is None:
        return L1(cache.l1.max_bytes, compresses=cache.compress)
    l1.resize(cache.l1.max_bytes)
    l1.compresses = cache.compress
    return l1


def _keeps_candles(config: Config) -> bool:
    return config.cache.enabled and config.candles.enabled


def _candle_rules(config: Config) -> CandleRules:
    return CandleRules(config.cache.lifetimes(), config.candles.max_bytes, config.cache.etag)


def _lookup_rules(config: Config) -> LookupRules:
    return LookupRules(config.cache.lifetimes(), config.cache.etag)


def _boundary_rules(config: Config) -> BoundaryRules:
    boundary = config.candles.boundary
    return BoundaryRules(boundary.enabled and _keeps_candles(config), boundary.spread, boundary.below)


def _shared_rules(config: Config) -> SharedRules:
    cache, url = config.cache, config.upstream.url
    place = "" if url == _MAINNET else "@" + url.partition("://")[2]
    return SharedRules(cache.lock, cache.lock_above, cache.open_ttl, cache.closed_ttl, cache.etag, place)


def _shown(status: L2Status) -> dict[str, object]:
    reach = status.reach
    return {
        **status._asdict(),
        "reach": {
            "answers": reach.answers,
            "reason": reach.reason or None,
            "since": shown(reach.since_us),
            "again": shown(reach.again_us or None),
        },
    }


def _busy(config: Config) -> Busy:
    """By the tightest rule that all requests upstream spend."""
    shared = [rule.compiled() for rule in config.limits]
    spaced = [quota for quota in shared if quota.spaces] or [quota for quota in shared if quota.of_address]
    if not spaced:
        return Busy(1 << 40, 1_000_000)
    tightest = min(spaced, key=lambda quota: quota.limit / quota.window_us)
    return Busy(tightest.limit, tightest.window_us)
