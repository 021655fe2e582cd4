"""Single commands to a Redis that one can do without: a few connections, a bound on everything, and peace after a loss.

When the server is lost, all that wait fail at once, and whoever comes later fails without waiting: nobody asks until a
question in the background has been answered again. So a lost Redis costs one timeout, and then nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import structlog

from policies.respite import Respite
from proxy.awake import Within
from proxy.clock import Clock, Sleep
from proxy.pulse import HEARD_SELDOM, Pulse, Queries
from proxy.store.client import FAILURES, OF_ITS_OWN, Client, StoreLost, closed, renamed
from proxy.store.line import Line
from proxy.tasks import TaskOwner

_WORKERS: Final = 4
_TOGETHER: Final = 4
"""Values may be long: what goes together waits together."""
_OF_THE_CALL: Final = frozenset({OF_ITS_OWN, "permission", "out-of-memory"})
"""Errors of a server that serves others as before."""
_FIRST_KEY: Final = "bybit:reach"

RESTING: Final = "resting"
"""The reason of a StoreLost that has cost nothing."""


class Reach(NamedTuple):
    """For people: whether the server answers, and if not, why not, since when, and when it is asked again."""

    answers: bool
    reason: str
    since_us: int
    again_us: int


class _Call:
    __slots__ = ("answer", "key", "orphaned", "words")

    def __init__(self, key: str, words: tuple[Any, ...], orphaned: Callable[[], object] | None) -> None:
        self.key = key
        self.words = words
        self.orphaned = orphaned
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Commands:
    """`timeout_us` bounds every call as its caller sees it, waiting and connecting included. `connect_s` is what a
    connection may take beyond that, in the background.

    The client is its own, with its own connections: values are long, and nobody else shall wait behind them. `name` is
    for the log: cache_store_lost, cache_store_back.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        timeout_us: int,
        connect_s: float,
        queries: Queries | None = None,
        respite: Respite | None = None,
        sleep: Sleep = asyncio.sleep,
        name: str = "cache-store",
        connections: int = _WORKERS,
    ) -> None:
        self._name, self._event = name, name.replace("-", "_")
        self._connections = connections
        self.pulse = Pulse(clock, HEARD_SELDOM)
        self._queries = queries
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._timeout_s = timeout_us / 1e6
        self._connect_s = connect_s
        self._respite = respite or Respite()
        self._waiting: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        self._losses = 0
        """When one connection breaks, the others are not trusted either: they led to the same server."""
        self._suspect = _FIRST_KEY
        """The key that the server failed on. In a cluster it leads to the node to ask."""
        self._reason = ""
        self._since_us = clock()
        self._log: Any = structlog.get_logger()

    @property
    def resting(self) -> bool:
        return bool(self._reason)

    @property
    def waiting(self) -> int:
        """Calls that nobody has taken up yet."""
        return len(self._waiting)

    def reach(self) -> Reach:
        now_us = self._clock()
        again_us = now_us + self._respite.left_us(now_us) if self.resting else 0
        return Reach(not self.resting, self._reason, self._since_us, again_us)

    def start(self, tasks: TaskOwner) -> None:
        for number in range(self._connections):
            tasks.spawn(self._work(), f"{self._name}-{number}")
        tasks.spawn(self._recover(), f"{self._name}-recovery")

    async def close(self) -> None:
        """After the tasks have ended."""
        await closed(self._client)

    async def ask(self, command: str, key: str, *args: Any, orphaned: Callable[[], object] | None = None) -> Any:
        """The answer to a command on one key; raises StoreLost.

        `orphaned` is called when the command has been carried out and its caller has gone meanwhile.
        """
        return await self._answered(_Call(key, (command, key, *args), orphaned))

    async def script(self, text: str, key: str, *args: Any, also: Sequence[str] = ()) -> Any:
        """As ask(), for a short script on one key, and on others with the same hash tag."""
        return await self._answered(_Call(key, ("EVAL", text, 1 + len(also), key, *also, *args), None))

    async def _answered(self, call: _Call) -> Any:
        if self.resting:
            raise StoreLost(RESTING)
        self._waiting.append(call)
        self._wake.set()
        answer, began_us = call.answer, self._clock()
        try:
            async with Within(self._timeout_s):
                got = await answer
        except TimeoutError:
            self._gone(call)
            self._count_failed("timeout")
            raise StoreLost("timeout") from None
        except StoreLost as lost:
            self._count_failed(lost.reason)
            raise
        except asyncio.CancelledError:
            self._gone(call)
            raise
        if self._queries is not None:
            self._queries.answered(self._clock() - began_us)
        return got

    def _count_failed(self, reason: str) -> None:
        if self._queries is not None:
            self._queries.failed(reason)

    @staticmethod
    def _gone(call: _Call) -> None:
        """Its caller goes; it may be in the same instant in which the answer has come."""
        answer = call.answer
        if not answer.cancel() and not answer.cancelled() and answer.exception() is None and call.orphaned is not None:
            call.orphaned()

    async def _work(self) -> None:
        line = Line(self._client, self._timeout_s, self._connect_s)
        try:
            await self._serve(line)
        finally:
            await line.close()

    async def _serve(self, line: Line) -> None:
        me = asyncio.current_task()
        together = min(line.together, _TOGETHER)
        # The library can lose a cancellation that comes in the same instant as an answer; the task remembers it.
        while me is None or not me.cancelling():
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            calls: list[_Call] = []
            while self._waiting and len(calls) < together:
                call = self._waiting.popleft()
                if not call.answer.done():
                    calls.append(call)
            if calls:
                await self._carry(line, calls)

    async def _carry(self, line: Line, calls: list[_Call]) -> None:
        try:
            await line.drop_if_closed()
            await line.open(self._losses)
            calls = [call for call in calls if not call.answer.done()]
            if not calls:
                return
            began_us = self._clock()
            answers = await line.exchange([call.words for call in calls])
        except asyncio.CancelledError:
            self._fail(calls, StoreLost("closing"))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is: those who wait must hear of it
            self._fail(calls, self._failed(renamed(error), calls[0].key))
            return
        self.pulse.answered(self._clock() - began_us)
        for call, answer in zip(calls, answers, strict=True):
            self._answer(call, answer)

    def _answer(self, call: _Call, answer: Any) -> None:
        lost = None
        if isinstance(answer, FAILURES):
            lost = renamed(answer)
            lost.definite = True
            if lost.reason not in _OF_THE_CALL:
                self._failed(lost, call.key)
        if call.answer.done():
            if lost is None and call.orphaned is not None:
                call.orphaned()
        elif lost is not None:
            call.answer.set_exception(lost)
        else:
            call.answer.set_result(answer)

    def _failed(self, lost: StoreLost, key: str) -> StoreLost:
        """The server is lost to all."""
        self._losses += 1
        self.pulse.failed(lost.reason)
        if not self.resting:
            self._reason, self._suspect, self._since_us = lost.reason, key, self._clock()
            self._respite.failed(self._since_us)
            self._lost.set()
            self._log.warning(f"{self._event}_lost", reason=lost.reason)
        self._fail(list(self._waiting), lost)
        self._waiting.clear()
        return lost

    @staticmethod
    def _fail(calls: list[_Call], lost: StoreLost) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(StoreLost(lost.reason))

    async def _recover(self) -> None:
        line = Line(self._client, self._timeout_s, self._connect_s)
        me = asyncio.current_task()
        try:
            while me is None or not me.cancelling():  # as above
                await self._lost.wait()
                self._lost.clear()
                while self.resting and (me is None or not me.cancelling()):
                    await self._sleep(self._respite.left_us(self._clock()) / 1e6)
                    await self._try(line)
        finally:
            await line.close()

    async def _try(self, line: Line) -> None:
        """One small question about the key that it failed on."""
        began_us = self._clock()
        try:
            await line.open(self._losses)
            answer = await line.ask("GETRANGE", self._suspect, 0, 0)
            lost = renamed(answer) if isinstance(answer, FAILURES) else None
        except Exception as error:  # noqa: BLE001  # nobody else would ask again
            lost = renamed(error)
        if lost is not None and lost.reason not in _OF_THE_CALL:
            self._reason = lost.reason
            self._losses += 1
            self.pulse.failed(lost.reason)
            self._respite.failed(self._clock())
            return
        self._reason, self._since_us = "", self._clock()
        self.pulse.answered(self._since_us - began_us)
        self._respite.answered()
        self._log.info(f"{self._event}_back")
