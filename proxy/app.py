"""Builds every object once, hands each its collaborators, listens, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog
from aiohttp import web
from aiohttp.hdrs import UPGRADE
from multidict import CIMultiDict

from policies import bybit
from policies.admission import Charge, Counts, Quota, Rulebook
from policies.circuit import CircuitRules
from policies.routing import RouteTable
from proxy import log
from proxy.accounts import Accounts
from proxy.admin import Admin
from proxy.attempts import AFTER_THE_CLIENT, Attempts
from proxy.body import BodyLimits
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.clock import Clock, Sleep, system_clock
from proxy.config import Config
from proxy.describe import Describer
from proxy.drift import Drift
from proxy.egress import Egress, EgressRules
from proxy.gateway import Gateway
from proxy.identity import Identifier, hashed_as, pepper_of, user_hasher
from proxy.limiter import Limiter, QueueBounds
from proxy.listener import LINGER_S, Listener
from proxy.log import Sink
from proxy.marketdata.marketdata import Marketdata, owns
from proxy.metrics import Metrics
from proxy.observer import Observer
from proxy.probation import Probation
from proxy.readings import Readings
from proxy.reload import POLL_S, Reloader, Source, adopted
from proxy.server import traffic_server
from proxy.siblings import Siblings, Worker
from proxy.store.keeper import Keeper
from proxy.store.memory import MemoryStore
from proxy.store.opened import opened
from proxy.tasks import TaskOwner, within
from proxy.telemetry import Telemetry
from proxy.upstream import Upstream
from proxy.watch import Rooms, Watch
from proxy.websocket import Websockets

_DRAIN_MARGIN_S: Final = 2.0


class App:
    """A running gateway: `async with App(config, routes) as app`. `app.port` is the port that was bound."""

    def __init__(
        self,
        config: Config,
        routes: RouteTable,
        *,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
        sink: Sink | None = None,
        source: Source | None = None,
        poll_s: float = POLL_S,
        worker: Worker | None = None,
        state_file: str | None = None,
    ) -> None:
        self._config = config
        self._worker = worker
        self._routes = routes
        self._exit = AsyncExitStack()
        self.clock = clock or system_clock()
        self.tasks = TaskOwner()
        self.loops = TaskOwner()
        self._hurry = asyncio.Event()
        self.metrics = Metrics()
        self.store = opened(config, self.clock, self.metrics, self._hashes())
        self.store.adopt(self._all_quotas())
        self.limiter = Limiter(self.store, self.clock, self.tasks, _bounds(config))
        # A queue of its own: who waits for the exchange must not hold up those whom the cache can answer.
        self.door = Limiter(self.store, self.clock, self.tasks, _bounds(config))
        self.upstream = Upstream(config.upstream)
        self.egress = Egress(_egress_rules(config), self.clock)
        self.egress.stopped.append(self.limiter.bar)
        self.egress.stopped.append(self.metrics.bans.inc)
        self.egress.resumed.append(self.limiter.unbar)
        accounts = Accounts(user_hasher(config.identity, pepper_of(config.store, config.egress.id)))
        self.store.news.follow(self.egress, accounts)
        self.store.narrow(self.egress.part)
        self.keeper: Keeper | None = None
        if state_file is not None and isinstance(self.store, MemoryStore):
            budget = (config.egress.id, config.upstream.url)
            self.keeper = Keeper(state_file, budget, self.store, self.clock, self.egress)
            self.egress.struck.append(self.keeper.note)
        self.breaker = Breaker(_circuit_rules(config), config.breaker.exempted(), self.clock)
        telemetry = Telemetry(self.metrics, self.clock)
        self.observer = Observer(
            egress=self.egress,
            breaker=self.breaker,
            accounts=accounts,
            learned_whose=self._tell_accounts,
            telemetry=telemetry,
            clock=self.clock,
            paced=config.pacing.enabled,
        )
        self.probation = Probation(
            egress=self.egress,
            store=self.store,
            upstream=self.upstream,
            charges=self._charges_of_the_address,
            tasks=self.tasks,
            clock=self.clock,
            sleep=sleep,
        )
        self.attempts = Attempts(
            rules=self._upstream_rules(),
            retries=config.retry.compiled(),
            limiter=self.limiter,
            upstream=self.upstream,
            egress=self.egress,
            breaker=self.breaker,
            observer=self.observer,
            telemetry=telemetry,
            tasks=self.tasks,
            clock=self.clock,
            max_wait_us=config.queue.max_wait,
        )
        self.caches = Caches(
            config,
            attempts=self.attempts,
            egress=self.egress,
            describer=lambda: self.gateway.describer,
            metrics=self.metrics,
            tasks=self.tasks,
            clock=self.clock,
            sleep=sleep,
            sharers=self._sharers,
        )
        self.gateway = Gateway(
            describer=describer_of(config, self._routes, self.clock),
            door=self.door,
            lookup=self.caches.lookup,
            attempts=self.attempts,
            egress=self.egress,
            telemetry=telemetry,
            clock=self.clock,
            body_limits=BodyLimits(config.listen.max_body, config.listen.body_timeout, config.listen.max_bodies),
        )
        self.marketdata = Marketdata.over(
            self.caches, self.metrics, self.tasks, self.clock, sleep, parallel=config.candles.parallel
        )
        self.websockets = Websockets(
            config,
            limiter=self.limiter,
            egress=self.egress,
            metrics=self.metrics,
            clock=self.clock,
            sharers=self._sharers,
        )
        drift = Drift(self._routes, lambda: self._config.quotas(Counts.UPSTREAM))
        self.readings = Readings(
            metrics=self.metrics,
            store=self.store,
            limiter=self.limiter,
            caches=self.caches,
            egress=self.egress,
            breaker=self.breaker,
            drift=drift,
            rules=lambda: self._config.quotas(Counts.UPSTREAM),
            sink=sink,
        )
        self.admin = Admin(
            readings=self.readings,
            metrics=self.metrics,
            store=self.store,
            limiter=self.limiter,
            egress=self.egress,
            drift=drift,
            clock=self.clock,
            token=config.admin.token,
        )
        self.watch = Watch(
            config,
            Rooms(
                metrics=self.metrics,
                telemetry=telemetry,
                readings=self.readings,
                admin=self.admin,
                store=self.store,
                limiter=self.limiter,
                door=self.door,
                attempts=self.attempts,
                caches=self.caches,
                egress=self.egress,
                breaker=self.breaker,
                drift=drift,
                tasks=self.tasks,
                loops=self.loops,
                clock=self.clock,
                sleep=asyncio.sleep,  # it watches this process, whose time is real
                sink=sink,
            ),
        )
        self.reloader: Reloader | None = None
        if source is not None:
            self.reloader = Reloader(
                source=source,
                config=config,
                apply=self.apply,
                metrics=self.metrics,
                clock=self.clock,
                poll_s=poll_s,
            )
            self.admin.config_state = self.reloader.state
        if worker is not None:
            self.admin.siblings = Siblings(worker, self.admin.reading)
        self.port = 0
        self.admin_port: int | None = None

    def apply(self, config: Config) -> tuple[str, ...]:
        """Put a configuration into force, between two requests. The answer names the fields that need a restart.

        Everything is built before anything is changed, and nothing suspends in between. Windows go on under the
        rules of their names, and requests that are under way go on by the rules that they have met.
        """
        config, left = adopted(self._config, config)
        describer = describer_of(config, self._routes, self.clock)
        breaks, exempt, retries = _circuit_rules(config), config.breaker.exempted(), config.retry.compiled()
        self._config = config
        self.attempts.rules, self.attempts.max_wait_us = self._upstream_rules(), config.queue.max_wait
        self.attempts.retries, self.observer.paced = retries, config.pacing.enabled
        self.egress.rules = _egress_rules(config)
        self.breaker.adopt(breaks, exempt)
        for limiter in (self.limiter, self.door):
            limiter.adopt(_bounds(config), self._all_quotas())
        self.caches.adopt(config)
        self.watch.adopt(config)
        self.websockets.adopt(config)
        self.marketdata.desk.parallel = config.candles.parallel
        self.admin.adopt(config.admin.token)
        self.gateway.adopt(describer)
        log.adopt(config.log.level, config.log.format)
        return left

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self.keeper is not None:
                stack.callback(self._end_keeping, self.keeper)
                self.keeper.begin(self._all_quotas(), self._hashes())
            await self.store.start()
            stack.push_async_callback(self.store.stop)
            await stack.enter_async_context(self.upstream)
            stack.push_async_callback(self.caches.close)
            stack.push_async_callback(self.watch.close)
            stack.push_async_callback(self.loops.close)
            stack.push_async_callback(self.tasks.close)
            stack.push_async_callback(self._finish_sent)
            stack.push_async_callback(self.websockets.close)
            self.loops.spawn(self.limiter.run(), "dispatcher")
            self.loops.spawn(self.door.run(), "door-dispatcher")
            self.loops.spawn(self.probation.run(), "probation")
            self.caches.start(self.loops)
            self.watch.start()
            if self.reloader is not None:
                self.loops.spawn(self.reloader.run(), "config-watcher")
            if self.keeper is not None:
                self.loops.spawn(self.keeper.run(), "state-keeper")
            if self._config.upstream.prewarm:
                await self.upstream.prewarm(self._config.upstream.prewarm)
            if self.admin.siblings is not None:
                await stack.enter_async_context(self.admin.siblings)
            await self._listen(stack)
            stack.callback(self.websockets.drain)
            self._exit = stack.pop_all()
        self.admin.ready = True
        return self

    async def retire(self) -> None:
        """Before the end, where others can take over: not ready, and nobody loses a request (proxy/listener.py)."""
        self.admin.ready = False
        await self._traffic_port.retire(self._config.listen.drain_delay / 1e6)
        self.websockets.drain()
        await self._traffic_port.close(LINGER_S)

    def hurry(self) -> None:
        """Wait no longer for what is under way."""
        self._hurry.set()

    async def __aexit__(self, *_: object) -> None:
        """Drain: not ready, no new connections, requests in flight run to their end, bounded by the upstream's time."""
        self.admin.ready = False
        await self._exit.aclose()

    def _tell_accounts(self) -> None:
        self.tasks.spawn(self.store.news.tell_accounts(), "tell-accounts")

    def _sharers(self) -> int:
        return int(self.store.status().get("replicas", 1))

    def _end_keeping(self, keeper: Keeper) -> None:
        keeper.end(self._all_quotas(), self._hashes())

    def _hashes(self) -> str:
        return hashed_as(self._config.identity, pepper_of(self._config.store, self._config.egress.id))

    def _all_quotas(self) -> list[Quota]:
        stated = [quota for counts in Counts for quota in self._config.quotas(counts)]
        return [*stated, self._config.streams.quota(), *self._config.learned(self._routes).values()]

    def _upstream_rules(self) -> Rulebook:
        return Rulebook(self._config.quotas(Counts.UPSTREAM), self._config.learned(self._routes))

    def _charges_of_the_address(self) -> tuple[Charge, ...]:
        """What any request of our own spends."""
        descriptor = self.gateway.describer.describe("GET", bybit.TIME_PATH, None, CIMultiDict()).descriptor
        return self.attempts.rules.charges(descriptor)

    async def _finish_sent(self) -> None:
        """Requests whose clients have gone are answered all the same; the fate of a write must reach the log."""
        seconds, sent = self._config.upstream.timeouts.total / 1e6, ("send ", AFTER_THE_CLIENT)
        await within(seconds, self._hurry, self.tasks.drain(seconds, *sent))
        if cut_off := sum(name.startswith("send ") for name in self.tasks.names()):
            structlog.get_logger().warning("requests_cut_off", count=cut_off)

    async def _listen(self, stack: AsyncExitStack) -> None:
        listen, admin = self._config.listen, self._config.admin
        shared = self._worker is not None
        if admin.port is not None:
            # First, so that it closes last: who watches the drain must be able to ask.
            pages = traffic_server(self.admin.handle, listen, self.clock, self.metrics)
            own = Listener(pages, admin.host, admin.port, drain_s=1.0, hurry=self._hurry, shared=shared)
            stack.push_async_callback(own.close)
            self.admin_port = await own.open()
        handler = self._traffic_and_pages if admin.port is None else self._traffic_alone
        server = traffic_server(handler, listen, self.clock, self.metrics, self.gateway.at_once)
        drain_s = self._drain_seconds()
        self._traffic_port = Listener(
            server, listen.host, listen.port, drain_s=drain_s, hurry=self._hurry, shared=shared
        )
        stack.push_async_callback(self._traffic_port.close)
        self.port = await self._traffic_port.open()

    def _traffic_and_pages(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        own = self.admin.owns(request.raw_path)
        return self.admin.handle(request) if own else self._traffic(request)

    def _traffic_alone(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        """What asks for a page of ours here is not the exchange's business: it may hold the admin token."""
        own = self.admin.owns(request.raw_path)
        return self.admin.elsewhere() if own else self._traffic(request)

    def _traffic(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if UPGRADE in request.headers and request.headers[UPGRADE].lower() == "websocket":
            return self.gateway.handle(request, self.websockets)
        return self.gateway.handle(request, self.marketdata if owns(request.raw_path) else None)

    def _drain_seconds(self) -> float:
        return (self._config.upstream.timeouts.total + self._config.queue.max_wait) / 1e6 + _DRAIN_MARGIN_S


def _egress_rules(config: Config) -> EgressRules:
    return EgressRules(config.pacing.ban, config.pacing.ramp)


def _circuit_rules(config: Config) -> CircuitRules | None:
    return config.breaker.compiled() if config.breaker.enabled else None


def _bounds(config: Config) -> QueueBounds:
    return QueueBounds(config.queue.max_waiting, config.queue.max_waiting_per_client, config.queue.max_wait)


def describer_of(config: Config, routes: RouteTable, clock: Clock) -> Describer:
    """What understands requests as this configuration says."""
    return Describer(
        routes,
        Identifier(config.listen, config.identity, clock, pepper_of(config.store, config.egress.id)),
        Rulebook(config.quotas(Counts.REQUESTS)),
        config.egress.id,
        config.identity.excluded_paths,
        config.cache.answer_rules() if config.cache.enabled else {},
    )
