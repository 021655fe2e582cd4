"""The status page: its files as they are, its state as JSON, and its stream; and what has to run for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson
from aiohttp import web

from policies.admission import Charge, Counts
from proxy import errors
from proxy.admin import Admin, Handler
from proxy.breaker import Breaker
from proxy.caches import Caches
from proxy.callers import Callers
from proxy.clock import Clock, Sleep
from proxy.config import Config
from proxy.egress import Egress
from proxy.lately import STEP_S as NOTE_S
from proxy.lately import Lately
from proxy.limiter import Limiter
from proxy.live import Live
from proxy.log import redact_text
from proxy.snapshot import Snapshots
from proxy.store import Store
from proxy.tasks import TaskOwner
from proxy.telemetry import Telemetry
from proxy.trail import STEP_S, Trail
from proxy.wire import Whole, head

_FILES: Final = Path(__file__).parent / "status"
_TYPES: Final = {".html": b"text/html", ".css": b"text/css", ".js": b"text/javascript"}
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE: Final = (
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
_PAGE: Final = "/gateway/"


class StatusPage:
    """`response` is noted by its owner."""

    def __init__(
        self,
        config: Config,
        *,
        admin: Admin,
        telemetry: Telemetry,
        store: Store,
        limiter: Limiter,
        door: Limiter,
        caches: Caches,
        egress: Egress,
        breaker: Breaker,
        unready: Callable[[], Sequence[str]],
        lost: Callable[[], Sequence[str]],
        response: Lately,
        version: str,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        metrics = telemetry.metrics
        self._sleep = sleep
        self._callers = Callers(clock)
        telemetry.listeners.append(self._callers.tell)
        self._trail = Trail(
            charges=charges_of_the_address(config),
            store=store,
            egress=egress,
            limiters=(limiter, door),
            callers=self._callers,
            metrics=metrics,
            clock=clock,
        )
        self._noted = {
            "added": Lately(metrics.added, clock),
            "exchange": Lately(metrics.duration, clock),
            "queue": Lately(metrics.queue_wait, clock),
        }
        self._snapshots = Snapshots(
            admin=admin,
            metrics=metrics,
            store=store,
            limiter=limiter,
            door=door,
            caches=caches,
            egress=egress,
            breaker=breaker,
            callers=self._callers,
            trail=self._trail,
            unready=unready,
            lost=lost,
            times={**self._noted, "response": response},
            version=version,
            clock=clock,
        )
        self._snapshots.config_hash = config_hash(config)
        self.live = Live(self._snapshots.take, sleep)
        self._loops: TaskOwner | None = None
        for path, handler in handlers(_FILES).items():
            admin.serve(path, handler)
            admin.free(path)  # a browser cannot send a token for a page; what it tells is what anybody may download
        admin.show("/gateway/status", self._status)
        admin.serve("/gateway/events", self.live.events)
        admin.draining.append(self._end)

    def start(self, loops: TaskOwner) -> None:
        """Once there is an event loop."""
        loops.spawn(self._note(), "status-trail")
        loops.spawn(self.live.run(), "status-live")
        self._loops = loops

    def adopt(self, config: Config) -> None:
        """After a reload."""
        self._trail.charges = charges_of_the_address(config)
        self._snapshots.config_hash = config_hash(config)

    def _end(self) -> None:
        if self._loops is not None:
            self._loops.spawn(self.live.end(), "status-end")

    async def _status(self) -> tuple[int, bytes, bytes]:
        body = orjson.dumps(await self._snapshots.take(), option=orjson.OPT_APPEND_NEWLINE)
        return 200, b"application/json; charset=utf-8", body

    async def _note(self) -> None:
        turns = 0
        while True:
            if turns % int(NOTE_S / STEP_S) == 0:
                for times in self._noted.values():
                    times.note()
            self._callers.turn()
            await self._trail.note()
            turns += 1
            await self._sleep(STEP_S)


def charges_of_the_address(config: Config) -> tuple[Charge, ...]:
    """One of each enforced rule that counts all that is sent from the address."""
    return tuple(
        Charge(quota, (quota.name, *(config.egress.id for _ in quota.partition)), 1)
        for quota in config.quotas(Counts.UPSTREAM)
        if quota.of_address and not quota.shadow
    )


def config_hash(config: Config) -> str:
    """Twelve digits by which two gateways can be compared: the same where they go by the same settings. Secrets are
    not in it: who knows the rest could otherwise try them out."""
    return sha256(redact_text(config.model_dump_json()).encode()).hexdigest()[:12]


def handlers(directory: Path) -> dict[str, Handler]:
    """Of every file of the page, by path; read once."""
    found: dict[str, Handler] = {}
    for path in sorted(directory.iterdir()):
        kind = _TYPES.get(path.suffix)
        if kind is not None:
            body = path.read_bytes()
            tag = f'"{sha256(body).hexdigest()[:16]}"'.encode()
            found[_PAGE + path.name] = partial(_file, body, kind + b"; charset=utf-8", tag)
    found[_PAGE] = found.pop(f"{_PAGE}index.html")
    found[_PAGE.rstrip("/")] = _moved
    return found


async def _file(body: bytes, kind: bytes, tag: bytes, request: web.BaseRequest, request_id: bytes) -> Whole:
    if request.method not in {"GET", "HEAD"}:
        return errors.plain(405, "method-not-allowed", "This page can only be read.", request_id)
    lines = [
        (b"Content-Type", kind),
        (b"Cache-Control", b"no-cache"),  # kept, and asked about each time: a new version is seen at once
        (b"ETag", tag),
        *_SAFE,
        (b"X-Gateway", b"own-page"),
        (b"X-Request-Id", request_id),
    ]
    known = {given.strip().removeprefix("W/") for given in request.headers.get("If-None-Match", "").split(",")}
    if known & {tag.decode(), "*"}:
        return Whole(head(304, lines), b"")
    return Whole(head(200, [*lines, (b"Content-Length", b"%d" % len(body))]), body)


async def _moved(request: web.BaseRequest, request_id: bytes) -> Whole:  # noqa: ARG001  # whatever the method
    """Relative, so that it is right behind a proxy that adds a prefix."""
    lines = [
        (b"Location", b"gateway/"),
        (b"Cache-Control", b"no-cache"),
        (b"X-Gateway", b"own-page"),
        (b"X-Request-Id", request_id),
        (b"Content-Length", b"0"),
    ]
    return Whole(head(308, lines), b"")
