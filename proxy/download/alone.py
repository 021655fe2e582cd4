"""A gateway of our own, in this process and for this run: the budget holds as it does in one that runs for long."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from policies import bybit
from policies.routing import RouteTable
from proxy.app import App
from proxy.config import Config
from proxy.download.asking import RunEnded
from proxy.store import state_file

_LOOPBACK: Final = "127.0.0.1"


@asynccontextmanager
async def own_gateway(config: Config, routes: RouteTable) -> AsyncIterator[str]:
    """Its base URL. Raises RunEnded where another gateway here spends the same budget without sharing it."""
    setting = config.store.state_file
    if setting is not None and not config.store.shared:
        used = state_file.in_use(setting, (config.egress.id, config.upstream.url), os.environ)
        if used is not None:
            raise RunEnded(
                f"a gateway or another download with egress.id {config.egress.id} runs on this machine ({used} is in "
                "use), and with store.url: memory:// the two would not share the budget: go through it with --gateway "
                "URL, or wait for its end"
            )
    async with App(alone(config, routes), routes, state_file=setting) as app:
        sys.stderr.write("".join(f"WARNING: {warning}\n" for warning in app.store.warnings))
        yield f"http://{_LOOPBACK}:{app.port}"


def alone(config: Config, routes: RouteTable) -> Config:
    """The configuration of a gateway that only we use.

    Everything that the exchange counts stays as it is. Clients' own quotas are not for us, though their windows are
    kept for the next gateway. What is asked once is not worth keeping in memory, unless it is archived on the way.
    """
    paths = [route.path for route in routes.routes if route.candles] + [bybit.TIME_PATH]
    identity = config.identity.model_copy(update={"excluded_paths": (*config.identity.excluded_paths, *paths)})
    kept = config.cache.enabled and config.archive.url is not None
    boundary = config.candles.boundary.model_copy(update={"enabled": False})
    candles = {"enabled": kept and config.candles.enabled, "boundary": boundary, "stream": False}
    return config.model_copy(
        update={
            "listen": config.listen.model_copy(update={"host": _LOOPBACK, "port": 0, "trusted_proxies": ()}),
            "admin": config.admin.model_copy(update={"port": None}),
            "workers": 1,
            "identity": identity,
            "cache": config.cache.model_copy(update={"enabled": kept}),
            "candles": config.candles.model_copy(update=candles),
        }
    )
