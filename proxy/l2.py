"""The second level of the cache: a Redis that all gateways share, and without which each goes on as before.

Nothing here is an error to the caller: whatever is missing, unreadable, too late or lost is a miss, counted by its
reason. Values are written in the background, in turn, so that no reply waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

import structlog
import zstandard

from policies.frame import AROUND_BYTES, Frame, Kind, Unreadable, pack, unpack
from policies.respite import Respite
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.store.client import StoreLost
from proxy.store.commands import RESTING, Commands, Reach
from proxy.tasks import TaskOwner

T = TypeVar("T")

_LEVEL: Final = 3
_WORTH_PACKING_BYTES: Final = 512
_LONG_BYTES: Final = 256 << 10
"""What takes a millisecond to pack or unpack is done in a thread."""
_MOST_QUEUED: Final = 1_000
_MOST_QUEUED_BYTES: Final = 32 << 20


class L2Status(NamedTuple):
    """For the health page."""

    reach: Reach
    queued: int
    queued_bytes: int
    dropped: int
    """Values that were not written because too many waited."""


class _Value(NamedTuple):
    frame: Frame
    grace_us: int


class _Prepared(NamedTuple):
    raw: bytes
    life_ms: int


class L2:
    """`mac_key`: the same in all gateways that share the Redis, see mac_key_of(). `max_value_bytes`: a body, unpacked,
    that is longer is neither written nor believed.

    start() and close() of `commands` are its owner's.
    """

    def __init__(
        self,
        commands: Commands,
        metrics: Metrics,
        clock: Clock,
        *,
        mac_key: bytes,
        max_value_bytes: int,
        most_queued: int = _MOST_QUEUED,
        most_queued_bytes: int = _MOST_QUEUED_BYTES,
    ) -> None:
        if not mac_key:
            raise ValueError("a MAC without a key is one that anybody can make")
        self._commands = commands
        self._metrics = metrics
        self._clock = clock
        self._mac_key = mac_key
        self._max_value_bytes = max_value_bytes
        self._last_byte = max_value_bytes + AROUND_BYTES
        self._most_queued_bytes = most_queued_bytes
        self._queue: asyncio.Queue[_Value] = asyncio.Queue(most_queued)
        self._queued_bytes = 0
        self._dropped = 0
        self._refused = Respite()
        """A server that refuses to write may read as before."""
        self._log: Any = structlog.get_logger()

    def start(self, tasks: TaskOwner) -> None:
        tasks.spawn(self._write(), "cache-store-writer")

    def status(self) -> L2Status:
        return L2Status(self._commands.reach(), self._queue.qsize(), self._queued_bytes, self._dropped)

    async def get(self, key: str, kind: Kind) -> Frame | None:
        """What was put under this key, its body unpacked. It may have expired: whoever put it allowed for a grace, and
        who reads judges by `expires_us`."""
        began_us = self._clock()
        try:
            # Not GET: who plants a value of a gigabyte shall not make us read it.
            raw = await self._commands.ask("GETRANGE", key, 0, self._last_byte)
        except StoreLost as lost:
            self._count("get", lost.reason)
            return None
        found = await self._read(raw, key, kind)
        self._metrics.l2_seconds.observe(("get",), self._clock() - began_us)
        if isinstance(found, str):
            self._count("get", found)
            return None
        self._count("get", "hit")
        self._metrics.l2_bytes.inc(("read",), len(raw))
        return found

    def put(
        self,
        key: str,
        kind: Kind,
        status: int,
        head: bytes,
        encoding: str,
        body: bytes,
        stored_us: int,
        expires_us: int,
        grace_us: int = 0,
    ) -> None:
        """Write it some time soon, or not at all. Redis keeps it until `grace_us` after it has expired.

        `encoding`: the content coding of the body; one without is packed here.
        """
        value = _Value(Frame(kind, status, stored_us, expires_us, key, head, encoding, body, len(body)), grace_us)
        if self._commands.resting:
            self._count("put", RESTING)
        elif self._queue.full() or self._queued_bytes + len(body) > self._most_queued_bytes:
            self._dropped += 1
            self._count("put", "dropped")
        else:
            self._queued_bytes += len(body)
            self._queue.put_nowait(value)

    async def put_through(
        self,
        key: str,
        kind: Kind,
        status: int,
        head: bytes,
        encoding: str,
        body: bytes,
        stored_us: int,
        expires_us: int,
        grace_us: int = 0,
    ) -> bool:
        """Write it now, past all that waits. For whoever holds a lease: once it is released, the others look here."""
        frame = Frame(kind, status, stored_us, expires_us, key, head, encoding, body, len(body))
        return await self._written(_Value(frame, grace_us))

    async def _read(self, raw: Any, key: str, kind: Kind) -> Frame | str:
        if not isinstance(raw, bytes) or not raw:
            return "miss"  # an empty text is none to Redis as well
        frame = unpack(raw, key, self._mac_key)
        if isinstance(frame, Unreadable):
            return f"unreadable-{frame}"
        if frame.kind is not kind:
            return f"unreadable-{Unreadable.KIND}"
        if frame.plain_bytes > self._max_value_bytes:
            return "too-long"
        if not frame.packed:
            return frame
        try:
            plain = await _aside(frame.plain_bytes, _unpacked, frame)
        except zstandard.ZstdError:
            return "unreadable-body"
        return frame._replace(body=plain)

    async def _write(self) -> None:
        while True:
            value = await self._queue.get()
            try:
                await self._written(value)
            except Exception as error:  # noqa: BLE001  # one value that cannot be written must not be the last
                self._count("put", "failed")
                self._log.error("cache_store_put_failed", error=type(error).__name__)
            finally:
                self._queued_bytes -= len(value.frame.body)

    async def _written(self, value: _Value) -> bool:
        began_us = self._clock()
        prepared = await self._prepared(value)
        if isinstance(prepared, str):
            self._count("put", prepared)
            return False
        try:
            await self._commands.ask("SET", value.frame.key, prepared.raw, "PX", prepared.life_ms)
        except StoreLost as lost:
            if lost.definite:
                self._refused.failed(self._clock())
            self._count("put", lost.reason)
            return False
        self._refused.answered()
        self._metrics.l2_seconds.observe(("put",), self._clock() - began_us)
        self._metrics.l2_bytes.inc(("written",), len(prepared.raw))
        self._count("put", "stored")
        return True

    async def _prepared(self, value: _Value) -> _Prepared | str:
        """As it is written, or in one word why it is not."""
        frame, now_us = value.frame, self._clock()
        life_ms = (frame.expires_us + value.grace_us - now_us) // 1000
        if self._commands.resting:
            return RESTING
        if self._refused.left_us(now_us):
            return "refused"
        if life_ms <= 0:
            return "expired"
        if len(frame.body) > self._max_value_bytes:
            return "too-long"
        if not frame.encoding and len(frame.body) >= _WORTH_PACKING_BYTES:
            smaller = await _aside(len(frame.body), _packed_body, frame.body)
            if len(smaller) < len(frame.body):
                frame = frame._replace(body=smaller)
        try:
            return _Prepared(pack(frame, self._mac_key), life_ms)
        except ValueError:
            return "unfit"

    def _count(self, operation: str, result: str) -> None:
        self._metrics.l2_operations.inc((operation, result))


def mac_key_of(secret: str | None, password: str | None) -> bytes:
    """What seals the values where `secret` is configured, or else the password of the Redis.

    Without either, the seal holds against accidents only: who can write to that Redis can also make it.
    """
    text = f"secret|{secret}" if secret is not None else f"password|{password or ''}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, person=b"bybit-gw l2 key").digest()


def _packed_body(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(body)


def _unpacked(frame: Frame) -> bytes:
    """Raises ZstdError. Never more than the frame says: the library would allocate whatever the body itself claims."""
    if zstandard.frame_content_size(frame.body) != frame.plain_bytes:
        raise zstandard.ZstdError("other length")
    return zstandard.ZstdDecompressor().decompress(frame.body, allow_extra_data=False)


async def _aside(size_bytes: int, work: Callable[[Any], T], given: Any) -> T:
    """In a thread where it takes long."""
    return work(given) if size_bytes < _LONG_BYTES else await asyncio.to_thread(work, given)
