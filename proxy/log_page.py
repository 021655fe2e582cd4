"""/gateway/log: how much is logged, and another level for a while, without a restart or another configuration."""

from __future__ import annotations

from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from proxy import log
from proxy.admin import Admin, is_now
from proxy.log import Sink
from proxy.request_event import RequestLog
from proxy.wire import Whole

PATH: Final = "/gateway/log"


class LogPage:
    """Read with GET; `POST {"level": "debug"}` holds until the next reload or restart, in the process that answers."""

    def __init__(self, admin: Admin, requests: RequestLog, sink: Sink | None) -> None:
        self._admin = admin
        self._requests = requests
        self._sink = sink
        admin.show(PATH, self._page)
        admin.serve(PATH, self._switch)

    async def _page(self) -> tuple[int, bytes, bytes]:
        body = orjson.dumps(self._state(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return 200, b"application/json; charset=utf-8", body

    async def _switch(self, request: web.BaseRequest, request_id: bytes) -> Whole:
        word = await self._admin.wanted(request, request_id, "The level of the log", "level", log.LEVELS)
        if isinstance(word, Whole):
            return word
        logger: Any = structlog.get_logger()
        before = log.level()
        if log.LEVELS.index(word) < log.LEVELS.index(before):
            log.set_level(word)  # first, so that it is told of
        logger.warning("log_level_set", wanted=word, before=before)
        log.set_level(word)
        return is_now(self._state(), request_id)

    def _state(self) -> dict[str, Any]:
        requests = self._requests
        state: dict[str, Any] = {
            "level": log.level(),
            "format": log.form(),
            "sample_hits": requests.sample_hits,
            "slow_ms": None if requests.slow_us is None else requests.slow_us // 1000,
            "dropped": None if self._sink is None else self._sink.dropped,
        }
        if self._admin.siblings is not None:
            state["worker"], state["workers"] = self._admin.siblings.place
        return state
