"""A gateway in this process, in front of whatever a test names, on a free port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from proxy.app import App
from proxy.clock import Clock, Sleep
from proxy.config import load, load_routes
from proxy.reload import Source

ROUTES = load_routes()


@asynccontextmanager
async def gateway(
    upstream_url: str,
    *,
    clock: Clock | None = None,
    sleep: Sleep = asyncio.sleep,
    file: Path | None = None,
    **overrides: Any,
) -> AsyncIterator[App]:
    """`overrides` are fields by their path, as in the environment: listen__max_body="1KiB", limits=[...].

    `file`: a configuration that can be reloaded; what is overridden stays so.
    """
    environment = {
        "GATEWAY__UPSTREAM__URL": upstream_url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": "0",
        # Here one event loop serves the gateway, the exchange, all clients and the test's own sums: that it is late
        # says nothing of the gateway. tests/proxy/test_shedding.py is about it.
        "GATEWAY__BACKPRESSURE__ENABLED": "false",
    }
    for name, value in overrides.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        environment[f"GATEWAY__{name.upper()}"] = text
    config = load(file, environment, ROUTES)
    source = None if file is None else Source(file, environment, ROUTES)
    async with App(config, ROUTES, clock=clock, sleep=sleep, source=source) as app:
        yield app


def url(app: App, target: str = "") -> str:
    return f"http://127.0.0.1:{app.port}{target}"


DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
