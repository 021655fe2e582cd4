"""The remote control: a second port, JSON in and out, never counted by the exchange's limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from tests.fake_bybit.faults import DELAYS, FaultError
from tests.fake_bybit.settings import SettingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fake_bybit.faults import Rule
    from tests.fake_bybit.server import Exchange

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control:
    """Reads and changes a running exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[_explain])
        app.add_routes(
            [
                web.get("/settings", self.get_settings),
                web.post("/settings", self.post_settings),
                web.get("/faults", self.get_faults),
                web.post("/faults", self.post_faults),
                web.delete("/faults", self.delete_faults),
                web.post("/ban", self.post_ban),
                web.post("/unban", self.post_unban),
                web.get("/stats", self.get_stats),
                web.get("/record", self.get_record),
                web.delete("/record", self.delete_record),
                web.get("/streams", self.get_streams),
                web.post("/streams", self.post_streams),
                web.get("/clock", self.get_clock),
                web.post("/clock", self.post_clock),
                web.post("/reset", self.post_reset),
            ]
        )
        return app

    async def get_settings(self, _request: web.Request) -> web.Response:
        """Every setting by name."""
        return _json(self._exchange.settings.as_dict())

    async def post_settings(self, request: web.Request) -> web.Response:
        """Change some; all or none."""
        self._exchange.settings.update(await _object(request))
        return _json(self._exchange.settings.as_dict())

    async def get_faults(self, _request: web.Request) -> web.Response:
        """The rules in force."""
        return _json([_rule(rule) for rule in self._exchange.faults.rules])

    async def post_faults(self, request: web.Request) -> web.Response:
        """Add one rule."""
        return _json(_rule(self._exchange.faults.add(await _object(request))))

    async def delete_faults(self, _request: web.Request) -> web.Response:
        """Remove all rules."""
        self._exchange.faults.clear()
        return _json([])

    async def post_ban(self, request: web.Request) -> web.Response:
        """Ban an address now: {"ip": ..., "ban_us": ...}."""
        asked = _fields(await _object(request), required={"ip": str}, optional={"ban_us": int})
        until_us = self._exchange.books.ip.ban(asked["ip"], self._exchange.now_us(), asked.get("ban_us"))
        return _json({"ip": asked["ip"], "banned_until_us": until_us})

    async def post_unban(self, request: web.Request) -> web.Response:
        """Lift a ban: {"ip": ...}."""
        asked = _fields(await _object(request), required={"ip": str}, optional={})
        self._exchange.books.ip.unban(asked["ip"])
        return _json({"ip": asked["ip"], "banned_until_us": 0})

    async def get_stats(self, _request: web.Request) -> web.Response:
        """What happened since the start or the last reset."""
        return _json(summary(self._exchange))

    async def get_record(self, request: web.Request) -> web.Response:
        """Arrivals after ?since=N."""
        text = request.query.get("since", "0")
        if not text.isdecimal():
            raise ValueError(f"since: expected a number, got {text!r}")
        record = self._exchange.record
        entries = [entry.as_dict() for entry in record.since(int(text))]
        return _json({"last_sequence": record.sequence, "entries": entries})

    async def delete_record(self, _request: web.Request) -> web.Response:
        """Forget the arrivals; their numbers go on."""
        self._exchange.record.clear()
        return _json({"last_sequence": self._exchange.record.sequence, "entries": []})

    async def get_streams(self, _request: web.Request) -> web.Response:
        """The WebSocket connections that stand, with their topics."""
        return _json([connection.as_dict() for connection in self._exchange.streams.connections])

    async def post_streams(self, request: web.Request) -> web.Response:
        """Trouble for those that stand: {"action": drop | close | say | replay, "category": ..., "text": ...}."""
        asked = _fields(await _object(request), required={"action": str}, optional={"category": str, "text": str})
        streams, category = self._exchange.streams, asked.get("category")
        match asked["action"]:
            case "drop":
                count = streams.drop(category)
            case "close":
                count = streams.drop(category, how="close")
            case "say":
                count = await streams.say(asked.get("text", ""), category)
            case "replay":
                count = await streams.replay(category)
            case other:
                raise ValueError(f"action: expected drop, close, say or replay, got {other!r}")
        return _json({"count": count})

    async def get_clock(self, _request: web.Request) -> web.Response:
        """The exchange's time and how far it is off."""
        offset_ms = self._exchange.settings.clock_offset_ms
        return _json({"time_ms": self._exchange.judge.now_us() // 1000, "offset_ms": offset_ms})

    async def post_clock(self, request: web.Request) -> web.Response:
        """Skew the exchange's clock: {"offset_ms": ...}."""
        asked = _fields(await _object(request), required={"offset_ms": int}, optional={})
        self._exchange.settings.clock_offset_ms = asked["offset_ms"]
        return await self.get_clock(request)

    async def post_reset(self, _request: web.Request) -> web.Response:
        """Forget books, bans, record, counts and faults; settings and orders stay."""
        self._exchange.reset()
        return _json({})


def summary(exchange: Exchange) -> dict[str, Any]:
    """The statistics as JSON values."""
    stats, books = exchange.stats, exchange.books
    return {
        "requests": stats.requests,
        "breaches": books.ip.breaches,
        "bans": books.ip.bans,
        "max_in_window": books.ip.max_in_window(),
        "ips": {
            ip: {
                "requests": known.requests,
                "max_in_window": known.seen.peak,
                "breaches": known.breaches,
                "bans": known.bans,
                "banned_hits": known.banned_hits,
                "banned_until_us": known.banned_until_us,
            }
            for ip, known in books.ip.ips.items()
        },
        "endpoints": dict(stats.endpoints),
        "statuses": {str(status or "none"): count for status, count in stats.statuses.items()},
        "ret_codes": {str(code): count for code, count in stats.ret_codes.items()},
        "stale_10002": stats.ret_codes[10002],
        "bad_sign_10004": stats.ret_codes[10004],
        "too_many_visits_10006": stats.ret_codes[10006],
        "duplicated_link_ids": stats.duplicated_link_ids(),
        "accounts": [
            {
                "uid": uid,
                "method": method,
                "path": path,
                "group": group,
                "max_asked_in_window": account.asked.peak,
                "max_admitted_in_window": account.admitted.peak,
                "refused": account.refused,
            }
            for (uid, method, path, group), account in books.account.buckets.items()
        ],
        "streams": exchange.streams.book.as_dict(),
        "public_endpoints": {key: window.peak for key, window in books.endpoint.windows.items()},
    }


def _rule(rule: Rule) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": rule.kind, "match": rule.match, "count": rule.count}
    shown |= {"probability": rule.probability, "fired": rule.fired}
    if rule.kind in DELAYS:
        shown |= {"leg": rule.leg, "delay_us": rule.delay_us}
    if rule.kind == "status":
        shown |= {"status": rule.status, "body": rule.body, "processed": rule.processed}
    if rule.kind == "ret_code":
        shown |= {"ret_code": rule.ret_code, "ret_msg": rule.ret_msg, "processed": rule.processed}
    return shown


def _fields(given: dict[str, Any], *, required: dict[str, type], optional: dict[str, type]) -> dict[str, Any]:
    known = required | optional
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(known)}")
        if type(value) is not known[name]:
            raise ValueError(f"{name}: expected {known[name].__name__}, got {value!r}")
    for name in required:
        if name not in given:
            raise ValueError(f"{name} is missing")
    return given


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        given = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"expected an object, got {given!r}")  # noqa: TRY004 answered as a 400 like the rest
    return given


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value) + b"\n", content_type="application/json")


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A mistake is answered in words."""
    try:
        return await handler(request)
    except (SettingError, FaultError, ValueError) as error:
        return _json({"error": str(error)}, status=400)
