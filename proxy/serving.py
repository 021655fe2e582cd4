"""Runs a gateway as a process: signals, greeting, the end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from functools import partial

import structlog

from policies.routing import RouteTable
from proxy.app import App
from proxy.banner import greet
from proxy.config import Config
from proxy.log import Sink
from proxy.reload import Source
from proxy.siblings import Lifeline, Worker


async def serve(config: Config, routes: RouteTable, sink: Sink, source: Source, worker: Worker | None = None) -> None:
    """Run until SIGTERM or SIGINT; load the configuration again on SIGHUP, and when its file has changed.

    SIGTERM comes from what starts another in our place: nobody shall lose a request. SIGINT comes from a person, who
    waits: connections on which nothing is under way are closed at once. SIGINT while it drains ends what is under way.
    A worker leaves it to its parent to greet and to hurry, and ends with it.
    """
    stop: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.put_nowait, number)
    lifeline = None if worker is None else Lifeline(worker, partial(stop.put_nowait, signal.SIGTERM))
    logger = structlog.get_logger()
    # A port of the system's choice is for trials: they leave nothing behind, and begin with nothing.
    state_file = config.store.state_file if config.listen.port else None
    gateway = App(config, routes, sink=sink, source=source, worker=worker, state_file=state_file)
    if gateway.reloader is not None:
        loop.add_signal_handler(signal.SIGHUP, gateway.reloader.ask)  # who starts, too, would die of it
    async with gateway as app:
        logger.info("started", port=app.port, upstream=config.upstream.url, rules=[rule.name for rule in config.limits])
        if lifeline is None:
            greet(config, app.port)
            sys.stderr.write("".join(f"WARNING: {warning}\n" for warning in app.store.warnings))
        else:
            lifeline.serving()
        _calm_collector()
        why = await stop.get()
        logger.info("draining", waiting=app.limiter.waiting)
        if worker is None:
            loop.add_signal_handler(signal.SIGINT, app.hurry)
        if why == signal.SIGTERM:
            await app.retire()
    if lifeline is not None:
        lifeline.close()
    logger.info("stopped")


def _calm_collector() -> None:
    """What start-up made lives for ever and is never looked through again; what requests make, seldom.

    Requests free nearly all they make without the collector, and a full look through the caches would hold up an order.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
