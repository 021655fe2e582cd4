"""/gateway/memory: what this process holds, and, for as long as somebody wants to know, where it was allocated."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from typing import Any, Final

import orjson
from aiohttp import web

from proxy import heap
from proxy.admin import Admin, is_now
from proxy.clock import Clock
from proxy.memory import Memory
from proxy.wire import Whole

PATH: Final = "/gateway/memory"
_AGAIN_US: Final = 10_000_000
"""To look through all objects holds up requests: whoever asks sooner is given the last answer."""


class MemoryPage:
    """Read with GET; `POST {"trace": true}` begins to trace allocations, `false` ends it. Both of the process that
    answers."""

    def __init__(self, admin: Admin, memory: Memory, clock: Clock) -> None:
        self._admin = admin
        self._memory = memory
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked: tuple[int, dict[str, Any]] | None = None
        admin.show(PATH, self._page)
        admin.serve(PATH, self._switch)

    async def _page(self) -> tuple[int, bytes, bytes]:
        async with self._looking:  # one look at a time, however many ask
            now_us = self._clock()
            if self._looked is None or now_us - self._looked[0] >= _AGAIN_US:
                self._looked = (now_us, await self._look())
        body: dict[str, Any] = {"pid": os.getpid()}
        if self._admin.siblings is not None:
            body["worker"], body["workers"] = self._admin.siblings.place
        body |= self._memory.state() | self._looked[1] | {"trace": self._memory.tracing() | self._looked[1]["trace"]}
        text = orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return 200, b"application/json; charset=utf-8", text

    async def _look(self) -> dict[str, Any]:
        lines = await asyncio.to_thread(heap.lines) if tracemalloc.is_tracing() else []
        return {"objects": await heap.types(), "trace": {"lines": lines}}

    async def _switch(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        wanted = await self._admin.wanted(request, request_id, "Tracing of the memory", "trace", (True, False))
        if isinstance(wanted, Whole):
            return wanted
        self._memory.trace(on=wanted)
        self._looked = None
        return is_now({"trace": self._memory.tracing()}, request_id)
