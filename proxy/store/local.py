"""What one gateway of several spends by its own book: everything it sends is written here at all times, so that it has
its own history when the common store is lost (policies/sharing.py tells how much it may then send).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from policies.admission import WHOLE, Admission, Admitted, Charge, Counts, Deferred, Filled, Quota, WindowKind, admit
from policies.bucket import TokenBucket
from policies.pacing import LearnedWindow, Lesson
from policies.sharing import divided, exact, handed_back, spare
from policies.window import CompletionLog, Window
from proxy.clock import Clock
from proxy.store import Reservation
from proxy.store.memory import MemoryStore

OnFailure = Literal["divided", "closed", "open"]
Divides = Callable[[int], bool]
"""Of the length of a window: whether our own share of it may be used, and not only what was set aside."""


_NOT_SOON_US: Final = 10_000_000
"""Longer than anybody waits: the request is refused at once."""


class _Spare(NamedTuple):
    """What was set aside of a quota, and how far apart it is spent, so that it lasts for the window."""

    quota: Quota
    pace: Quota | None


class LocalShare:
    """Clients' own quotas are kept in full: nobody is banned for them. What is sent upstream is divided."""

    def __init__(self, clock: Clock, on_failure: OnFailure) -> None:
        self._clock = clock
        self._on_failure = on_failure
        self._clients = MemoryStore(clock)
        self._sent = MemoryStore(clock)
        self._spare = MemoryStore(clock)
        self._quotas: dict[str, Quota] = {}
        self._spares: dict[str, _Spare] = {}
        self._share = WHOLE
        self._alone = False
        self._returning = False
        self._part: Callable[[], int] = lambda: WHOLE

    def narrow(self, part: Callable[[], int]) -> None:
        self._part = part

    def windows(self) -> int:
        """How many there are."""
        return sum(store.windows() for store in (self._clients, self._sent, self._spare))

    @property
    def on_failure(self) -> OnFailure:
        return self._on_failure

    def adopt(self, quotas: Iterable[Quota]) -> None:
        """These are the rules from now on."""
        rules = list(quotas)
        self._quotas = {quota.name: quota for quota in rules if quota.counts is Counts.UPSTREAM}
        self._clients.adopt(quota for quota in rules if quota.counts is Counts.REQUESTS)
        self._fit()

    def fit(self, share: int, *, alone: bool, returning: bool) -> None:
        """Our share from now on, and whether we go by it, or by the common store of which this is a copy.

        `returning`: we go by it, and hand it back.
        """
        if (share, alone, returning) != (self._share, self._alone, self._returning):
            self._share, self._alone, self._returning = share, alone, returning
            self._fit()

    def note(self, reservation: Reservation, admitted: Admitted, *, ended_by_reply: bool) -> None:
        """The store has granted this."""
        now_us = self._clock()
        self._tidy()
        states = [state for state in self._states(reservation.charges) if state[0] not in admitted.over]
        for charge, window in states:
            window.take(charge.cost, now_us)
        if ended_by_reply:
            self._sent.enter(reservation.id, states)

    def reserve(self, reservation: Reservation, divides: Divides, *, ended_by_reply: bool) -> Admission:
        """As a store would, with what is ours alone."""
        self._tidy()
        states: list[tuple[Charge, Window]] = []
        originals: list[Charge] = []
        extra: list[tuple[Charge, Window]] = []
        """Windows of our own share that fill up as well while only what was set aside is spent."""
        for charge, window in self._states(reservation.charges):
            if not exact(charge.quota) or self._spends_share(charge.quota, divides):
                states.append((_payable(charge, window), window))
                originals.append(charge)
                continue
            asked = self._of_spare(charge)
            states += asked
            originals += [charge] * len(asked)
            extra.append((charge, window))
        now_us = self._clock()
        admission = admit(states, now_us, self._part())
        if not isinstance(admission, Admitted):
            at = next(place for place, (asked, _) in enumerate(states) if asked is admission.binding)
            return self._blamed(admission, originals[at])
        taken = [state for state in states if state[0] not in admission.over]
        for charge, window in extra:
            window.take(charge.cost, now_us)
        if ended_by_reply:
            self._sent.enter(reservation.id, [*taken, *extra])
        named = {id(asked): original for (asked, _), original in zip(states, originals, strict=True)}
        return Admitted(
            tuple(named[id(charge)] for charge in admission.over),
            tuple(dict.fromkeys(named[id(charge)] for charge in admission.near)),
            self._filled(reservation.charges, states, originals, now_us),
        )

    def _blamed(self, deferred: Deferred, charge: Charge) -> Deferred:
        """What costs more than our share can ever hold is not kept waiting for it."""
        too_dear = exact(charge.quota) and charge.cost > divided(charge.quota, self._share)
        if too_dear and self._alone and self._on_failure == "divided":
            return Deferred(_NOT_SOON_US, charge)
        return deferred._replace(binding=charge)

    def _spends_share(self, quota: Quota, divides: Divides) -> bool:
        """Else only what was set aside: the store is there, or the others cannot know yet that we are alone."""
        return self._alone and (self._on_failure != "divided" or divides(quota.window_us))

    async def complete(self, reservation: Reservation, lesson: Lesson | None = None) -> None:
        await self._sent.complete(reservation, lesson)

    async def refund(self, reservation: Reservation) -> None:
        await self._sent.refund(reservation)

    def allows(self, charge: Charge) -> int:
        return self._sent.allows(charge)

    def own(self, charge: Charge, sent_us: int) -> int:
        """What of ours can have been in the exchange's window of a request that was sent then."""
        _, window = self._sent.look([charge])[0]
        return window.own(sent_us) if isinstance(window, LearnedWindow) else 0

    def _filled(
        self, charges: Iterable[Charge], states: list[tuple[Charge, Window]], originals: list[Charge], now_us: int
    ) -> tuple[Filled, ...]:
        """Of what was set aside nothing is spaced out: it has a pace of its own."""
        part = self._part()
        filled = []
        for charge in charges:
            if charge.quota.spaces:
                asked, window = states[originals.index(charge)]
                own = asked.quota is charge.quota
                limit = max(1, window.limit * part // WHOLE)
                filled.append(Filled(limit, window.used(now_us)) if own else Filled(charge.quota.limit, 0))
        return tuple(filled)

    def _states(self, charges: tuple[Charge, ...]) -> list[tuple[Charge, Window]]:
        return [
            state
            for charge in charges
            for state in (self._sent if charge.quota.counts is Counts.UPSTREAM else self._clients).look([charge])
        ]

    def _of_spare(self, charge: Charge) -> list[tuple[Charge, Window]]:
        kept = self._spares.get(charge.quota.name)
        if kept is None or kept.quota.window_us != charge.quota.window_us:
            kept = _Spare(replace(charge.quota, limit=0, spaces=False), None)  # a rule that has gone has nothing aside
        asked = [Charge(kept.quota, charge.key, charge.cost)]
        if kept.pace is not None:
            asked.append(Charge(kept.pace, (kept.pace.name, *charge.key), 1))
        return self._spare.look(asked)

    def _tidy(self) -> None:
        """Between two reservations only: within one, a window that is not yet taken from looks idle too."""
        for book in (self._clients, self._sent, self._spare):
            book.tidy()

    def _fit(self) -> None:
        share = self._share
        self._spares = {name: _spare(quota, share) for name, quota in self._quotas.items() if exact(quota)}
        self._sent.adopt([self._ours(quota, share) for quota in self._quotas.values()])

    def _ours(self, quota: Quota, share: int) -> Quota:
        if self._on_failure == "open" or not self._alone:
            return quota
        if self._on_failure == "closed":
            return replace(quota, limit=0) if exact(quota) else quota
        limit = handed_back(quota, share) if self._returning else divided(quota, share)
        return replace(quota, limit=limit, burst=max(1, quota.burst * share // WHOLE) if quota.burst else 0)


def _spare(quota: Quota, share: int) -> _Spare:
    limit = spare(quota, share)
    kept = replace(quota, limit=limit, spaces=False)
    if limit < 2:
        return _Spare(kept, None)
    pace = replace(
        quota,
        name=f"{quota.name} pace",
        limit=1,
        window_us=quota.window_us // limit,
        window=WindowKind.SENT,
        spaces=False,
    )
    return _Spare(kept, pace)


def _payable(charge: Charge, window: Window) -> Charge:
    """A share may be smaller than what a request costs. Where nobody is banned for it, all there is will do."""
    if isinstance(window, CompletionLog):
        return charge
    most = window.burst if isinstance(window, TokenBucket) else window.limit
    return charge if charge.cost <= most else charge._replace(cost=most)
