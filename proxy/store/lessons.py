"""Which answers the store is told of: those from which it learns something. Most only say what is known already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies.admission import Charge, WindowKind
from policies.pacing import Lesson
from proxy.clock import Clock
from proxy.store import Reservation
from proxy.store.client import StoreLost
from proxy.store.local import LocalShare
from proxy.store.remote import RemoteWindows
from proxy.tasks import TaskOwner

_AGAIN_US: Final = 1_000_000
"""So often it hears of an account that nothing has changed."""
_MOST: Final = 20_000


class Lessons:
    """Told beside the answers, not before them. `raised`: a limit turned out higher; `failed`: as of any call."""

    def __init__(
        self,
        remote: RemoteWindows,
        local: LocalShare,
        tasks: TaskOwner,
        clock: Clock,
        *,
        failed: Callable[[StoreLost], None],
        raised: Callable[[], None],
    ) -> None:
        self._remote = remote
        self._local = local
        self._tasks = tasks
        self._clock = clock
        self._failed = failed
        self._raised = raised
        self._told: dict[tuple[str, ...], tuple[int | None, int, int]] = {}
        """By window: the limit last told, when, and how many answers have said nothing new since."""

    def pass_on(self, reservation: Reservation, lesson: Lesson) -> None:
        """`reservation` by the id that the store knows, its charges all that the answer speaks of."""
        for charge in reservation.charges:
            if charge.quota.window is WindowKind.LEARNED:
                accepted = self._worth(charge.key, lesson, self._local.own(charge, lesson.sent_us))
                if accepted:
                    self._tasks.spawn(self._tell(reservation.id, charge, lesson, accepted), "store-lesson")

    def _worth(self, key: tuple[str, ...], lesson: Lesson, own: int) -> int:
        """For how many answers this one speaks when it is told; 0: not worth telling. `own`: what this gateway alone
        can have used of what the exchange has counted."""
        now_us = self._clock()
        if len(self._told) >= _MOST:
            self._told.clear()
        if key not in self._told and lesson.limit is None and not lesson.refused:
            return 0
        limit, told_us, quiet = self._told.get(key, (None, 0, 0))
        used = 0 if lesson.limit is None or lesson.remaining is None else lesson.limit - lesson.remaining
        news = lesson.refused or lesson.limit != limit or lesson.reset_us is not None or used > own
        if not news and now_us - told_us < _AGAIN_US:
            self._told[key] = (limit, told_us, quiet + 1)
            return 0
        self._told[key] = (lesson.limit, now_us, 0)
        return quiet + 1

    async def _tell(self, number: str, charge: Charge, lesson: Lesson, accepted: int) -> None:
        try:
            before, after = await self._remote.learn(number, charge, lesson, accepted)
        except StoreLost as lost:
            self._failed(lost)
            return
        if after > before:
            self._raised()
