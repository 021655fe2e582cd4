"""An upstream that says whatever it is told to say next, and a gateway before it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from proxy.app import App
from proxy.config import load, load_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Seen(NamedTuple):
    """A request as the upstream saw it."""

    method: str
    target: str
    body: bytes
    headers: list[tuple[str, str]]


class Upstream:
    """Answers every request with `body`, but for targets that have an answer of their own."""

    def __init__(self) -> None:
        self.body = b""
        self.bodies: dict[str, bytes] = {}
        self.headers: list[tuple[str, str]] = []
        self.chunked = False
        self.seen: list[Seen] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        headers = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        self.seen.append(Seen(request.method, request.raw_path, body, headers))
        said = self.bodies.get(request.raw_path, self.body)
        response = web.StreamResponse(headers=self.headers)
        if self.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(said)
        await response.prepare(request)
        for start in range(0, len(said), 1000):
            await response.write(said[start : start + 1000])
        await response.write_eof()
        return response


@dataclass(frozen=True)
class Setting:
    """The upstream and the base URLs by which it is reached."""

    upstream: Upstream
    direct_url: str
    gateway_url: str


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    upstream = Upstream()
    runner = web.ServerRunner(web.Server(upstream.handle, auto_decompress=False, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        direct_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        environment = {
            "GATEWAY__UPSTREAM__URL": direct_url,
            "GATEWAY__LISTEN__HOST": "127.0.0.1",
            "GATEWAY__LISTEN__PORT": "0",
            "GATEWAY__LIMITS": "[]",
            "GATEWAY__CACHE__RULES": "[]",
            "GATEWAY__CANDLES__ENABLED": "false",
        }
        routes = load_routes()
        async with App(load(None, environment, routes), routes) as app:
            yield Setting(upstream, direct_url, f"http://127.0.0.1:{app.port}")
    finally:
        await runner.cleanup()
