"""Trouble on demand: rules that delay, break or replace answers, drawn from a seeded random generator.

Any number of delays may meet one request. Of the other kinds the first rule that matches and fires decides.
"""

from __future__ import annotations

import random
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tests.fake_bybit.typed import problem

Kind = Literal[
    "delay",  # hold for delay_us
    "jitter",  # hold for anything between 0 and delay_us
    "spike",  # a stall: everything that matches waits for the end of the same delay_us
    "status",  # answer with an HTTP status: 429 or any 5xx
    "ret_code",  # answer HTTP 200 with this retCode
    "reset_before",  # drop the connection before the request is processed
    "reset_after",  # process and book the request, then drop the connection without an answer
    "truncate",  # promise more bytes in Content-Length than are sent
    "edit",  # in the answer, write `replace` for the first `find`
    "hang",  # never answer
    "cloudfront_html",  # the CDN's 403 "Bad request." page
    "geo_block",  # the CDN's 403 page for blocked countries
    "ban",  # start an IP ban now
    "no_bapi_headers",  # leave the X-Bapi-* headers away
]
DELAYS = ("delay", "jitter", "spike")


class FaultError(ValueError):
    """A rule that cannot be understood. The message is meant for the person who wrote it."""


@dataclass(slots=True)
class Rule:
    """One fault. `count` is how often it still fires (null: for ever)."""

    kind: Kind
    match: dict[str, str] = field(default_factory=dict)  # path (a prefix), method
    count: int | None = None
    probability: float = 1.0
    leg: Literal["request", "response", "both"] = "request"
    delay_us: int = 0
    status: int = 503
    body: Literal["json", "html", "text", "empty"] = "text"
    processed: bool = False  # status, ret_code: process and book the request first, then lie about it
    ret_code: int = 10016
    ret_msg: str = "Server error."
    headers: list[list[str]] = field(default_factory=list)  # status, ret_code: added to the answer
    find: str = ""
    replace: str = ""
    fired: int = 0
    stalled_until_us: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Whether this rule is about such a request."""
        wanted = self.match.get("method")
        return (wanted is None or wanted == method) and path.startswith(self.match.get("path", ""))


@dataclass(slots=True)
class Plan:
    """What will happen to one request."""

    request_delay_us: int = 0
    response_delay_us: int = 0
    outcome: Rule | None = None
    bapi_headers: bool = True


NOTHING = Plan()


class Faults:
    """The rules in force, in the order they were added."""

    def __init__(self, seed: int) -> None:
        self.rules: list[Rule] = []
        self._random = random.Random(seed)

    def add(self, rule: Rule | dict[str, Any]) -> Rule:
        """Add a rule, given as JSON or ready made."""
        made = rule if isinstance(rule, Rule) else parse_rule(rule)
        self.rules.append(made)
        return made

    def clear(self) -> None:
        """Back to good weather."""
        self.rules.clear()

    def plan(self, method: str, path: str, now_us: int) -> Plan:
        """Decide everything about one request at once, so that the random draws keep their order."""
        if not self.rules:
            return NOTHING
        plan = Plan()
        for rule in self.rules:
            if not rule.matches(method, path) or (plan.outcome is not None and not _combines(rule)):
                continue
            if not self._fires(rule, now_us):
                continue
            if rule.kind in DELAYS:
                self._delay(plan, rule, now_us)
            elif rule.kind == "no_bapi_headers":
                plan.bapi_headers = False
            else:
                plan.outcome = rule
        return plan

    def _fires(self, rule: Rule, now_us: int) -> bool:
        if rule.kind == "spike" and now_us < rule.stalled_until_us:
            return True
        if rule.count is not None and rule.fired >= rule.count:
            return False
        if rule.probability < 1 and self._random.random() >= rule.probability:
            return False
        rule.fired += 1
        if rule.kind == "spike":
            rule.stalled_until_us = now_us + rule.delay_us
        return True

    def _delay(self, plan: Plan, rule: Rule, now_us: int) -> None:
        if rule.leg in ("request", "both"):
            plan.request_delay_us += self._draw(rule, now_us)
        if rule.leg in ("response", "both"):
            plan.response_delay_us += self._draw(rule, now_us)

    def _draw(self, rule: Rule, now_us: int) -> int:
        if rule.kind == "jitter":
            return self._random.randint(0, rule.delay_us)
        return rule.stalled_until_us - now_us if rule.kind == "spike" else rule.delay_us


def _combines(rule: Rule) -> bool:
    return rule.kind in DELAYS or rule.kind == "no_bapi_headers"


def parse_rule(given: dict[str, Any]) -> Rule:
    """Make a rule of a JSON object, or say what is wrong with it."""
    if not isinstance(given, dict):
        raise FaultError(f"expected an object, got {given!r}")
    wanted = typing.get_type_hints(Rule)
    taken = [each.name for each in fields(Rule) if each.name not in ("fired", "stalled_until_us")]
    for name, value in given.items():
        if name not in taken:
            raise FaultError(f"unknown field {name!r}; known: {', '.join(taken)}")
        if (found := problem(value, wanted[name])) is not None:
            raise FaultError(f"{name}: {found}")
    if "kind" not in given:
        raise FaultError("kind is missing")
    rule = Rule(**given)
    if (found := _sense(rule)) is not None:
        raise FaultError(found)
    return rule


def _sense(rule: Rule) -> str | None:
    if unknown := set(rule.match) - {"path", "method"}:
        return f"match: unknown field {min(unknown)!r}; known: path, method"
    if not 0 <= rule.probability <= 1:
        return f"probability: expected 0 to 1, got {rule.probability}"
    if rule.kind in DELAYS and rule.delay_us <= 0:
        return f"delay_us: {rule.kind} needs a number above 0"
    if rule.delay_us < 0 or (rule.count is not None and rule.count < 0):
        return "delay_us and count: expected a number that is not negative"
    if rule.kind == "status" and rule.status != 429 and not 500 <= rule.status <= 599:
        return f"status: expected 429 or 500 to 599, got {rule.status}"
    if rule.kind == "edit" and not rule.find:
        return "find: edit needs the text that is to be replaced"
    if any(len(pair) != 2 for pair in rule.headers):
        return "headers: expected pairs [name, value]"
    return None
