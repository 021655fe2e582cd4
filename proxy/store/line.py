"""One connection to the store, used by one worker: so many commands out, so many answers in, within a time.

The library's own execute_command() looks after pools, retries and statistics that are not wanted here, and takes a
third of a request's time for it. A cluster needs it: the command must find its node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from proxy.awake import Within
from proxy.store.client import Client

_TOGETHER: Final = 64


class Line:
    def __init__(self, client: Client, timeout_s: float, connect_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._connect_s = connect_s
        self._connection: AbstractConnection | None = None
        self._age = 0
        self.together = 1 if isinstance(client, RedisCluster) else _TOGETHER

    async def open(self, age: int) -> None:
        """Connect, if need be, or if it was made at another age. The library limits the socket's part of it only, not
        what is said over it."""
        if isinstance(self._client, RedisCluster):
            return
        if self._connection is not None and self._connection.is_connected:
            if age == self._age:
                return
            await self._connection.disconnect(nowait=True)
        self._age = age
        async with Within(self._connect_s):
            if self._connection is None:
                self._connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                return
            try:
                await self._connection.connect()  # type: ignore[no-untyped-call]
            except BaseException:
                await self._connection.disconnect(nowait=True)
                raise

    async def drop_if_closed(self) -> None:
        """What the server has closed meanwhile is closed here too; open() then makes another, and no call fails by it.

        The library does not look before it sends.
        """
        connection = self._connection
        if connection is not None and connection.is_connected and await connection.can_read():
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """The pool has its connection back."""
        connection, self._connection = self._connection, None
        if connection is not None and not isinstance(self._client, RedisCluster):
            await self._client.connection_pool.release(connection)

    async def ask(self, *words: Any) -> Any:
        (answer,) = await self.exchange([words])
        return answer

    async def exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers in their order, errors of the server among them. Whatever else goes wrong is raised."""
        async with Within(self._timeout_s):
            if self._connection is None:
                return [await self._through_cluster(words) for words in commands]
            connection = self._connection
            packed = connection.pack_commands(commands) if len(commands) > 1 else connection.pack_command(*commands[0])
            await connection.send_packed_command(packed, check_health=False)
            return [await self._read(connection) for _ in commands]

    async def _through_cluster(self, words: Sequence[Any]) -> Any:
        try:
            return await self._client.execute_command(*words)
        except ResponseError as error:
            return error

    @staticmethod
    async def _read(connection: AbstractConnection) -> Any:
        try:
            return await connection.read_response()
        except ReadOnlyError as error:
            # No primary any more: whoever connects again is led to the one that is.
            await connection.disconnect(nowait=True)
            raise RedisConnectionError("read-only") from error
        except ResponseError as error:
            return error
