"""Several gateways, a store that fails in every way, and an exchange that counts: nothing they do together is a breach.

The store is a model of what the scripts do, on the same rules; the gateways are as greedy as the policies let them be.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from policies.admission import Quota, WindowKind
from policies.sharing import WHOLE, Standing, divided, handed_back, set_aside, spare

LIMIT, WINDOW_US = 100, 2_000_000
QUOTA = Quota("bybit-ip", LIMIT, WINDOW_US, ("egress",), window=WindowKind.HELD)
LOST_AFTER_US = 1_500_000
TICK_US = 100_000
BEAT_EVERY = 3
START = 10**12


@dataclass
class Store:
    """What the scripts keep."""

    boot: int = START - 10 * WINDOW_US
    table: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    log: list[int] = field(default_factory=list)
    lost: int = 0

    def beat(self, who: int, now: int, *, shared: bool, have: int, least: int, known: dict[int, int]) -> int:
        for other, share in known.items():
            if other != who:
                self.table.setdefault(other, (now - LOST_AFTER_US - 1, share, False))
        others = {other: row for other, row in self.table.items() if other != who}
        room = WHOLE - sum(share for _, share, _ in others.values())
        share = max(0, min(WHOLE // max(len(others) + 1, least), room))
        entered = max(share, min(have, room))
        self.table[who] = (now, entered, shared)
        lost = [share for at, share, way in others.values() if now - at > LOST_AFTER_US or not way]
        self.lost = min(WHOLE, sum(lost) + (0 if shared else entered))
        return share

    def reserve(self, now: int) -> str:
        if self.boot + WINDOW_US > now:
            return "holding"
        limit = LIMIT - set_aside(QUOTA)
        limit -= -(-limit * self.lost // WHOLE)
        self.log = [at for at in self.log if at > now - WINDOW_US]
        if len(self.log) >= limit:
            return "full"
        self.log.append(now)
        return "granted"

    def wipe(self, now: int) -> None:
        self.table, self.log, self.lost, self.boot = {}, [], 0, now


class Gateway:
    def __init__(self, name: int, replicas: int) -> None:
        self.name = name
        self.standing = Standing(replicas, LOST_AFTER_US, START)
        self.replicas = replicas
        self.sent: list[int] = []
        self.spare: list[int] = []
        self.known: dict[int, int] = {}
        self.boot = 0

    def beat(self, store: Store | None, now: int) -> None:
        if store is None:
            self.standing.lost(now)
            return
        was_up = self.standing.up
        known = self.known if store.boot != self.boot else {}
        share = store.beat(
            self.name,
            now,
            shared=self.standing.says(now),
            have=self.standing.share,
            least=self.replicas,
            known=known,
        )
        self.boot = store.boot
        self.known = {name: row[1] for name, row in store.table.items()}
        self.standing.heard(share, now)
        if not was_up:
            self.standing.found([WINDOW_US], now)
            self.beat(store, now)

    def send(self, store: Store | None, now: int, wanted: int) -> int:
        """As many as it may, up to so many."""
        count = 0
        while count < wanted and self._send_one(store, now):
            count += 1
        return count

    def _send_one(self, store: Store | None, now: int) -> bool:
        standing = self.standing
        if standing.shared(now):
            if store is None:
                standing.lost(now)
            else:
                answer = store.reserve(now)
                if answer != "holding":
                    return answer == "granted" and self._went(now)
        if standing.divides(WINDOW_US, now):
            most = handed_back if standing.returning(now) else divided
            if self._within(self.sent, now) >= most(QUOTA, standing.share):
                return False
            if standing.returning(now) and store is not None:
                store.log.append(now)
            return self._went(now)
        if self._within(self.spare, now) >= spare(QUOTA, standing.share):
            return False
        self.spare.append(now)
        return self._went(now)

    def _went(self, now: int) -> bool:
        self.sent.append(now)
        return True

    @staticmethod
    def _within(stamps: list[int], now: int) -> int:
        stamps[:] = [at for at in stamps if at > now - WINDOW_US]
        return len(stamps)


Event = st.sampled_from(["cut", "heal", "all down", "all up", "wiped", "nothing", "nothing", "shift"])


@given(
    replicas=st.integers(1, 4), events=st.lists(st.tuples(Event, st.integers(0, 3), st.integers(1, 60)), max_size=10)
)
def test_whatever_happens_to_the_store_the_exchange_sees_no_breach(
    replicas: int, events: list[tuple[str, int, int]]
) -> None:
    store, now, tick = Store(), START, 0
    gateways = [Gateway(name, replicas) for name in range(replicas)]
    cut: set[int] = set()
    down = False
    greedy = 0
    exchange: list[int] = []
    for event, who, ticks in [("nothing", 0, 50), *events, ("all up", 0, 50)]:
        if event == "cut":
            cut.add(who % replicas)
        elif event == "heal":
            cut.discard(who % replicas)
        elif event == "all down":
            down = True
        elif event == "all up":
            down, cut = False, set()
        elif event == "wiped":
            store.wipe(now)
        elif event == "shift":
            greedy = who % replicas
        for _ in range(ticks):
            now, tick = now + TICK_US, tick + 1
            for gateway in gateways:
                way = None if down or gateway.name in cut else store
                if (tick + gateway.name) % BEAT_EVERY == 0:
                    gateway.beat(way, now)
            for gateway in sorted(gateways, key=lambda one: one.name != greedy):
                way = None if down or gateway.name in cut else store
                exchange += [now] * gateway.send(way, now, LIMIT if gateway.name == greedy else 3)
            exchange = [at for at in exchange if at > now - WINDOW_US]
            assert len(exchange) <= LIMIT, (event, now - START)
