"""Answers that a page shows, beside the real ones: status, headers, fields, types and words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.docs import shown
from tests.docs.blocks import Block
from tests.docs.situations import KLINES, SITUATIONS, Situation
from tests.docs.surroundings import TOKEN, Surroundings

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|…|[^".…]+|.', re.DOTALL)
_TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_UNTIL_REFUSED: Final = 2_000
REFUSING: Final = {"GATEWAY__IDENTITY__DEFAULT_TIER": "FREE"}
"""Ten requests at once, five a second."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: str


def situation(block: Block) -> Situation:
    when = block.directive.when
    assert when is None or when in SITUATIONS, f"no situation is called {when!r}: {', '.join(SITUATIONS)}"
    return Situation() if when is None else SITUATIONS[when]


async def ask(block: Block, at: Surroundings) -> Answer:
    """What the block's comment asks for."""
    assert block.directive.asks is not None, "say above the block what it answers: `<!-- test: GET /health -->`"
    stands = situation(block)
    await stands.brought_about(at)
    method, target = block.directive.asks
    headers = {**stands.headers, **{name: value.replace("$TOKEN", TOKEN) for name, value in block.directive.headers}}
    async with (
        aiohttp.ClientSession(at.gateway_url) as session,
        session.request(method, target, headers=headers) as answer,
    ):
        told = tuple(answer.headers.items())
        return Answer(answer.status, answer.reason or "", told, at.there(await answer.text()))


def judge_json(block: Block, answer: Answer) -> None:
    """Every field that is shown is there, of that type; its words are those that are shown, its figures need not be."""
    found = shown.differs(read(block.text), json.loads(answer.body))
    assert found is None, f"{found}\n{answer.body}"


def judge_lines(block: Block, answer: Answer) -> None:
    """CSV and NDJSON: the first line, and how many columns the second has."""
    wanted, real = block.text.splitlines(), answer.body.splitlines()
    assert shown.missing(wanted[:1], real[0]) is None, f"it begins with {real[0]}"
    if len(wanted) > 1 and wanted[1].strip() not in {"...", "…"}:
        assert len(wanted[1].split(",")) == len(real[1].split(",")), f"its second line is {real[1]}"


def judge_http(block: Block, answer: Answer) -> None:
    """Status line, the headers that are shown, and the body, line by line."""
    head, _, body = block.text.partition("\n\n")
    first, *lines = head.splitlines()
    assert first.strip() == f"HTTP/1.1 {answer.status} {answer.reason}"
    for line in lines:
        name = line.partition(":")[0].strip().lower()
        real = [f"{each}: {value}" for each, value in answer.headers if each.lower() == name]
        assert any(shown.missing([line], each) is None for each in real), f"{line!r} is not in the answer: {real}"
    lacking = shown.missing([line for line in body.splitlines() if line.strip()], answer.body)
    assert lacking is None, f"not in the body: {lacking}\n{answer.body}"


async def make_lines(at: Surroundings) -> None:
    """Events of requests: one that was sent, a hit, one refused by a tier's quota, one of an account."""
    async with aiohttp.ClientSession(at.gateway_url) as session:
        seen: set[int] = set()
        for _ in range(_UNTIL_REFUSED):
            async with session.get(KLINES, headers={"traceparent": _TRACE}) as answer:
                seen.add(answer.status)
            if 429 in seen:
                break
        assert seen == {200, 429}
        async with session.get("/v5/account/info", headers={"X-BAPI-API-KEY": "test-key"}) as answer:
            await answer.read()


def judge_log(block: Block, lines: list[dict[str, Any]], fields: dict[str, set[str]]) -> None:
    """Each line is an event that there is, and has no field that it never has. `fields`: of events, by the code."""
    for line in map(read, block.text.splitlines()):
        name = line["event"]
        real = [each for each in lines if each["event"] == name]
        known = fields.get(name, set()) | {field for each in real for field in each} | {"event", "level", "time"}
        assert real or name in fields, f"there is no event {name}"
        unknown = set(line) - known - {"...", "worker"}
        assert not unknown, f"{name} never has {', '.join(sorted(unknown))}"


def read(text: str) -> Any:
    """JSON with ellipses, for what is left out, or a part of an object such as `"store": {...}`."""
    plain = _without_ellipses(text)
    if plain.lstrip().startswith('"'):
        plain = f"{{{plain}}}"
    try:
        return json.loads(plain)
    except ValueError as error:
        raise AssertionError(f"not JSON: {error}\n{plain}") from None


def _without_ellipses(text: str) -> str:
    """After a colon one stands for a value, else for more elements or fields."""
    pieces: list[str] = []
    for piece in _TOKENS.findall(text):
        if piece not in {"...", "…"}:
            pieces.append(piece)
            continue
        before = "".join(pieces).rstrip()
        if before.endswith(":"):
            pieces.append("null")
        elif before.endswith(","):
            pieces[:] = [before[:-1]]
    joined = "".join(pieces)
    return re.sub(r"([\[{])\s*,", r"\1", joined)
