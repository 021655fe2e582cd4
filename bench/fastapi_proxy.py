"""The usual reverse proxy in Python, for comparison: FastAPI in front, one httpx.AsyncClient with a pool behind.

It forwards and does nothing else: no limits, no cache, no metrics, no log. Run by `python -m bench` under uvicorn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final

import httpx
from fastapi import FastAPI, Request, Response

_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_NOT_PASSED: Final = frozenset({"host", "connection", "keep-alive", "transfer-encoding", "content-length"})
_NOT_RETURNED: Final = _NOT_PASSED | {"content-encoding"}  # httpx has undone the coding

if find_spec("sniffio") is None:
    # httpcore asks for it several times per request; where it is missing, each time the whole path is searched, which
    # took a third of this proxy's time. None ends the search at once: the comparison is with httpx at its best.
    sys.modules["sniffio"] = None  # type: ignore[assignment]


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    base_url = os.environ["BENCH_UPSTREAM"]
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=30) as client:
        application.state.client = client
        yield


app = FastAPI(lifespan=_lifespan, openapi_url=None)


@app.api_route("/{path:path}", methods=_METHODS)
async def forward(request: Request) -> Response:
    client: httpx.AsyncClient = request.app.state.client
    reply = await client.request(
        request.method,
        httpx.URL(path=request.url.path, query=request.url.query.encode()),
        headers=[(name, value) for name, value in request.headers.items() if name not in _NOT_PASSED],
        content=await request.body(),
    )
    headers = {name: value for name, value in reply.headers.items() if name not in _NOT_RETURNED}
    return Response(reply.content, reply.status_code, headers)
