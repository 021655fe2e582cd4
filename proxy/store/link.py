"""The way to the store: calls of scripts wait in one line, a few connections work it off, what waits together goes
together.

A caller that goes away does not take its call with it: the call runs to its end, and whoever must know what it did is
told (`orphaned`). When one call fails, all that wait fail with it, so that nobody waits for a second timeout.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.pulse import SLOW_PART, Pulse, Queries
from proxy.store.client import FAILURES, OF_ITS_OWN, Client, StoreLost, closed, renamed
from proxy.store.line import Line
from proxy.tasks import TaskOwner

_WORKERS: Final = 4
_FOLDER: Final = Path(__file__).parent / "scripts"


def _part(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


class Script:
    """A script made of files, the last of which names it; `digest` is how the store knows it."""

    def __init__(self, *parts: str, text: str | None = None) -> None:
        self.name = parts[-1]
        self.text = "".join(_part(part) for part in parts) if text is None else text
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_MARK: Final = Script("mark", text="return 'bybit-gateway'")
"""Servers forget scripts when they start, and do not hand them on: one that lacks this is not the one that we knew.

It never changes, so that a new version of the gateway does not take every server for a new one.
"""


class Call:
    """One call of a script. `fenced`: the second argument is the instant after which it must do nothing."""

    __slots__ = ("answer", "args", "fenced", "keys", "orphaned", "script")

    def __init__(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: list[Any],
        *,
        fenced: bool = False,
        orphaned: Callable[[Any], None] | None = None,
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.fenced = fenced
        self.orphaned = orphaned
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def words(self) -> tuple[Any, ...]:
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.args)


class Forget(NamedTuple):
    """What a strange server is told, on which key; `clock` is the first argument of all scripts."""

    script: Script
    key: bytes
    clock: Callable[[], int]


class Link:
    """`not_after` gives the instant, on the store's clock, after which a call that is sent now is of no use.

    `forget` is what a server is asked first that has turned out to be another one than before, or to have started anew.
    """

    def __init__(
        self,
        client: Client,
        metrics: Metrics,
        clock: Clock,
        *,
        timeout_s: float,
        connect_s: float,
        forget: Forget,
        not_after: Callable[[], int],
    ) -> None:
        self.client = client
        self.pulse = Pulse(clock)
        self._queries = Queries(metrics, "limits", round(timeout_s * 1e6) // SLOW_PART)
        self._forget = forget
        self._metrics = metrics
        self._clock = clock
        self._not_after = not_after
        self._waiting: deque[Call] = deque()
        self._losses = 0
        """When one line breaks, the others are not trusted either: they led to the same server."""
        self._wake = asyncio.Event()
        self._teaching = asyncio.Lock()
        self._timeout_s = timeout_s
        self._connect_s = connect_s

    @property
    def waiting(self) -> int:
        """Calls that nobody has taken up yet."""
        return len(self._waiting)

    def start(self, tasks: TaskOwner) -> None:
        for number in range(_WORKERS):
            tasks.spawn(self._work(), f"store-link-{number}")

    async def close(self) -> None:
        await closed(self.client)

    async def call(self, call: Call) -> Any:
        """The script's answer; raises StoreLost."""
        self._waiting.append(call)
        self._wake.set()
        answer = call.answer
        try:
            return await answer
        except asyncio.CancelledError:
            # The answer was here already when the caller was told to go.
            if call.orphaned is not None and answer.done() and not answer.cancelled():
                call.orphaned(None)
            raise

    async def _work(self) -> None:
        line = Line(self.client, self._timeout_s, self._connect_s)
        try:
            await self._serve(line)
        finally:
            await line.close()

    async def _serve(self, line: Line) -> None:
        me = asyncio.current_task()
        # The library can lose a cancellation that comes in the same instant as an answer; the task remembers it.
        while me is None or not me.cancelling():
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), line.together))]
            began_us = self._clock()
            try:
                answers = await self._sent(line, calls)
            except asyncio.CancelledError:
                self._fail(calls, StoreLost("closing"))
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is: those who wait must hear of it
                lost = error if isinstance(error, StoreLost) else renamed(error)
                self._losses += 1
                self._metrics.store_failures.labels(lost.reason).inc()
                self.pulse.failed(lost.reason)
                self._queries.failed(lost.reason, len(calls))
                self._fail([*calls, *self._waiting], lost)
                self._waiting.clear()
                continue
            took_us = self._clock() - began_us
            self._hear(answers, took_us)
            for call, answer in zip(calls, answers, strict=True):
                self._metrics.store_calls.observe((call.script.name,), took_us)
                self._answer(call, answer)

    def _hear(self, answers: list[Any], took_us: int) -> None:
        """A server that refuses what it is asked is no more use than one that is silent."""
        self._queries.answered(took_us, len(answers))
        error = next((answer for answer in answers if isinstance(answer, FAILURES)), None)
        if error is None or (reason := renamed(error).reason) == OF_ITS_OWN:
            self.pulse.answered(took_us)
        else:
            self.pulse.failed(reason)

    async def _sent(self, line: Line, calls: list[Call]) -> list[Any]:
        await line.open(self._losses)
        fence = self._not_after()
        for call in calls:
            if call.fenced:
                call.args[1] = fence
        answers = await line.exchange([call.words() for call in calls])
        for place, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                answers[place] = await self._taught(line, calls[place])
        return answers

    async def _taught(self, line: Line, call: Call) -> Any:
        """The server does not know the script: has it forgotten everything, or only never heard of this one?"""
        async with self._teaching:
            forget = self._forget
            if isinstance(await line.ask("EVALSHA", _MARK.digest, 1, forget.key), NoScriptError):
                _good(await line.ask("EVAL", forget.script.text, 1, forget.key, forget.clock()))
                _good(await line.ask("EVAL", _MARK.text, 1, forget.key))
            return await line.ask("EVAL", call.script.text, *call.words()[2:])

    def _answer(self, call: Call, answer: Any) -> None:
        if call.answer.cancelled():
            if call.orphaned is not None and not isinstance(answer, BaseException):
                call.orphaned(answer)
        elif isinstance(answer, FAILURES):
            lost = renamed(answer)
            lost.definite = True
            self._metrics.store_failures.labels(lost.reason).inc()
            call.answer.set_exception(lost)
        else:
            call.answer.set_result(answer)

    @staticmethod
    def _fail(calls: list[Call], lost: StoreLost) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(StoreLost(lost.reason))
            elif call.orphaned is not None:
                call.orphaned(None)


def _good(answer: Any) -> None:
    if isinstance(answer, BaseException):
        raise answer
