"""A gateway in this process, in front of whatever a test names, on a free port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from proxy.app import App
from proxy.clock import Clock, Sleep
from proxy.config import load, load_routes

ROUTES = load_routes()


@asynccontextmanager
async def gateway(
    upstream_url: str, *, clock: Clock | None = None, sleep: Sleep = asyncio.sleep, **overrides: Any
) -> AsyncIterator[App]:
    """`overrides` are fields by their path, as in the environment: listen__max_body="1KiB", limits=[...]."""
    environment = {
        "GATEWAY__UPSTREAM__URL": upstream_url,
        "GATEWAY__LISTEN__HOST": "127.0.0.1",
        "GATEWAY__LISTEN__PORT": "0",
    }
    for name, value in overrides.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        environment[f"GATEWAY__{name.upper()}"] = text
    config = load(None, environment, ROUTES)
    async with App(config, ROUTES, clock=clock, sleep=sleep) as app:
        yield app


def url(app: App, target: str = "") -> str:
    return f"http://127.0.0.1:{app.port}{target}"


DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
