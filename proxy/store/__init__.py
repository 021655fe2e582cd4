"""Where the windows are kept. One contract, whatever stands behind it.

reserve() takes all charges of a request in one step or none of them, is idempotent by the reservation's id and answers
a denial with the exact wait. complete() and refund() end a reservation, once; later calls change nothing. The store
owns the clock that its windows run on.

    opened       which store a configuration asks for
    memory       the windows of a gateway that stands alone    (keeper, state_file: over a restart)
    shared       the store that several gateways share, and how one goes on when it is lost
      local        what this one spends by its own book
      members      signs of life, shares of the budget         (neighbours: the other gateways; peers: their doors)
      news         bans and the trade switch, told to each other
      lessons      which answers the store is told of
      endings      what has ended here and must end there
      remote       what the scripts are asked, and what their answers mean   (wording: how charges are told to them)
        link         calls in one line, worked off together
          line         one connection;  client: redis-py as we need it
      windows_in_use, server_check    for people
    scripts/     what Redis does: logs, others (windows), reserve, end, usage, beat, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from policies.admission import Admission, Charge, Quota
from policies.pacing import Learned, Lesson
from proxy.accounts import Accounts
from proxy.egress import Egress, Trading
from proxy.pulse import Pulse


class Reservation(NamedTuple):
    """One attempt to spend charges. The id is unique for the life of the store."""

    id: str
    charges: tuple[Charge, ...]
    despite_ban: bool = False
    """It is the question by which one finds out whether a ban is over."""


class Usage(NamedTuple):
    """How full one window is."""

    charge_key: tuple[str, ...]
    quota: Quota
    used: int
    capacity: int
    """What fits in it at once for whoever shares it: the limit, less what is set aside or left to others."""
    room_in_us: int
    """How long until one more fits; 0 when it does now, negative when only a reply can tell."""
    learned: Learned | None = None
    """Of a window whose limit is learned."""


class News(Protocol):
    """What the gateways of one address tell each other beside the windows."""

    async def strike(self, ban_us: int) -> None:
        """The exchange has banned the address, for so long or longer: tell everybody who shares it."""
        ...

    async def may_probe(self) -> bool:
        """The ban should be over: whether it is for us to find out. Of those who ask one is chosen."""
        ...

    async def lift(self) -> None:
        """The ban is over: tell everybody."""
        ...

    async def switch(self, trading: Trading) -> None:
        """The trade switch has been set: tell everybody."""
        ...

    async def tell_accounts(self) -> None:
        """It has been learned whose an API key is: tell everybody."""
        ...

    def follow(self, egress: Egress, accounts: Accounts) -> None:
        """What is heard of bans, of the trade switch and of accounts goes there."""
        ...


class Way(Protocol):
    """The way to a store that is not in this process."""

    @property
    def pulse(self) -> Pulse: ...

    @property
    def waiting(self) -> int:
        """Calls that nobody has taken up yet."""
        ...


class Store(Protocol):
    @property
    def way(self) -> Way | None: ...

    @property
    def news(self) -> News: ...

    @property
    def warnings(self) -> Sequence[str]:
        """What the operator should know, after start()."""
        ...

    @property
    def poll_us(self) -> int | None:
        """Where a reply may make room that came to somebody else: how soon to ask again. None: only ours do."""
        ...

    async def start(self) -> None:
        """Before the first request. A store that cannot be reached does not hold up the start."""
        ...

    async def stop(self) -> None:
        """After the last one."""
        ...

    def narrow(self, part: Callable[[], int]) -> None:
        """`part` tells how much of the address's windows may be used at present, in millionths."""
        ...

    def allows(self, charge: Charge) -> int:
        """What the window of a learned quota holds in all, as far as is known here."""
        ...

    def listen(self, changed: Callable[[], None]) -> None:
        """`changed` is called when waits that were foretold hold no more."""
        ...

    def status(self) -> dict[str, Any]:
        """For the health page."""
        ...

    def windows(self) -> int:
        """How many there are in this process."""
        ...

    async def reserve(self, reservation: Reservation) -> Admission:
        """Take all charges or none."""
        ...

    async def spend(self, charges: tuple[Charge, ...]) -> Admission:
        """Take all charges or none, of windows that no completion ends: nothing is remembered of it."""
        ...

    def spend_now(self, charges: tuple[Charge, ...]) -> Admission | None:
        """spend() where that takes no suspension; None where somebody has to be asked."""
        ...

    async def complete(self, reservation: Reservation, lesson: Lesson | None = None) -> None:
        """The reply is here: held windows run on from now. Learned ones learn, charged or not."""
        ...

    async def refund(self, reservation: Reservation) -> None:
        """The request is known not to have been sent."""
        ...

    def adopt(self, quotas: Iterable[Quota]) -> None:
        """These are the rules from now on. A window goes on under the quota of its name, whoever charges it."""
        ...

    async def usage(self, charges: Sequence[Charge] | None = None) -> list[Usage]:
        """Every window in use, for people and metrics; or the windows of these charges, which costs little. Nothing
        while nobody can tell."""
        ...
