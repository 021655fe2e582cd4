"""What is out of the ordinary, in plain words: for people who look at a page and want to know whether they must act.

Each notice has an id that stays while it lasts, so that a reader can tell what is new from what only counts down.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from policies.admission import WHOLE
from policies.circuit import State
from policies.sharing import Mode


class Level(StrEnum):
    BAD = "bad"  # requests fail
    CARE = "care"  # it works, with less
    NOTE = "note"  # somebody wants it so


class Notice(NamedTuple):
    id: str
    level: Level
    text: str


class Facts(NamedTuple):
    serving: bool = True
    draining: bool = False
    banned: bool = False
    ban_left_us: int = 0
    part: int = WHOLE
    """Of the address's budget that may be used, in millionths."""
    breaker: State = State.CLOSED
    breaker_left_us: int = 0
    store: Mode = Mode.SHARED
    share: float = 1.0
    cold: bool = False
    """Windows are held for what may have been sent before the start."""
    halted: bool = False
    pressure: int = 0
    blocked: int = 0
    """Windows of accounts in which the exchange lets nothing pass for a while."""
    config_errors: int = 0
    restart_wanted: bool = False
    workers_missing: int = 0
    lost: tuple[str, ...] = ()
    """What else is configured and does not answer."""


def notices(facts: Facts) -> list[Notice]:
    """The worst first."""
    found = [*_life(facts), *_exchange(facts), *_store(facts), *_own(facts)]
    return sorted(found, key=lambda notice: list(Level).index(notice.level))


def _life(facts: Facts) -> list[Notice]:
    if facts.draining:
        return [
            Notice(
                "draining", Level.BAD, "The gateway is ending: requests under way are finished, no new ones are taken."
            )
        ]
    if not facts.serving:
        return [Notice("starting", Level.CARE, "The gateway is starting.")]
    return []


def _exchange(facts: Facts) -> list[Notice]:
    found = []
    if facts.banned:
        left = (
            f"Nothing is sent for at least {in_words(facts.ban_left_us)}"
            if facts.ban_left_us > 0
            else "It should be over: one question is being asked to find out"
        )
        text = f"The exchange has banned this address. {left}; what is in the cache is still given."
        found.append(Notice("ban", Level.BAD, text))
    elif facts.part < WHOLE:
        percent = 100 * facts.part // WHOLE
        text = (
            f"Only {percent} % of the budget is used at present: "
            "after a ban, or when the exchange protects itself, it grows back by itself."
        )
        found.append(Notice("part", Level.CARE, text))
    if facts.breaker is State.OPEN:
        text = f"The exchange fails: nothing is sent, and it is tried again in {in_words(facts.breaker_left_us)}."
        found.append(Notice("breaker", Level.BAD, text))
    elif facts.breaker is State.HALF_OPEN:
        found.append(
            Notice(
                "breaker-trying", Level.CARE, "The exchange has failed; a few requests find out whether it works again."
            )
        )
    if facts.blocked:
        text = (
            f"The exchange has blocked {_many(facts.blocked, 'limit')} of accounts for a while; what needs them waits."
        )
        found.append(Notice("blocked", Level.CARE, text))
    return found


def _store(facts: Facts) -> list[Notice]:
    share = f"{100 * facts.share:.3g} %"
    texts = {
        Mode.HOLDING: (Level.CARE, "The common store has lost its memory: little is sent until one window has passed."),
        Mode.EMERGENCY: (
            Level.CARE,
            "The common store has just been lost: for some seconds only what was set aside is sent.",
        ),
        Mode.DIVIDED: (
            Level.CARE,
            f"The common store is lost: this gateway goes by its own share, {share} of the budget.",
        ),
        Mode.RETURNING: (Level.CARE, "The common store is back: the own share is being handed over to it."),
        Mode.CLOSED: (Level.BAD, "The common store is lost, and nothing is sent: store.on_failure says closed."),
        Mode.OPEN: (
            Level.BAD,
            "The common store is lost, and each gateway sends up to the whole limit: a ban is possible.",
        ),
    }
    found = []
    if facts.store in texts:
        found.append(Notice(f"store-{facts.store.value}", *texts[facts.store]))
    if facts.cold:
        text = "Just started: room is left for what may have been sent before."
        found.append(Notice("cold", Level.NOTE, text))
    found += [
        Notice(f"lost-{what}", Level.CARE, f"{what} does not answer; requests go on without it.") for what in facts.lost
    ]
    return found


def _own(facts: Facts) -> list[Notice]:
    found = []
    if facts.pressure >= 2:
        found.append(
            Notice(
                "critical",
                Level.BAD,
                "Far too much to do: requests for history and live data are turned away; orders and accounts go on.",
            )
        )
    elif facts.pressure == 1:
        found.append(
            Notice("pressure", Level.CARE, "Much to do: requests for history are turned away; all others go on.")
        )
    if facts.halted:
        found.append(
            Notice("halted", Level.NOTE, "Trading is halted by the switch: new orders are refused, cancels pass.")
        )
    if facts.config_errors:
        text = f"The configuration file has {_many(facts.config_errors, 'mistake')}: the one loaded before stays."
        found.append(Notice("config", Level.CARE, text))
    elif facts.restart_wanted:
        found.append(Notice("restart", Level.NOTE, "The configuration has changed in a field that needs a restart."))
    if facts.workers_missing:
        text = (
            f"{_many(facts.workers_missing, 'worker process', 'worker processes')} of this gateway cannot be reached."
        )
        found.append(Notice("workers", Level.CARE, text))
    return found


def in_words(span_us: int) -> str:
    """To the second, rounded up: 9 min 41 s."""
    seconds = max(0, -(-span_us // 1_000_000))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if count]
    return " ".join(parts[:2]) or "0 s"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
