"""What pages name in passing is there: pages of the gateway, commands, fields, metrics, names, files, links."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import promql_parser
import pytest
from markdown_it.token import Token
from opentelemetry.sdk import environment_variables as otel
from pydantic import BaseModel

from proxy.__main__ import _parser
from proxy.config import Config
from proxy.metrics.page import as_markdown
from tests.docs.blocks import ROOT, blocks_of, pages, stray_directives, tokens
from tests.docs.events import events
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url

PAGES: Final = pages()
NAMES: Final = [str(page.relative_to(ROOT)) for page in PAGES]
MADE: Final = frozenset({"docs/metrics.md", "docs/dashboards.md"})
"""Pages that are made from the code, and compared with it by tests of their own."""
OF_OTHERS: Final = {
    "search_path": "PostgreSQL",
    "ccxt_config": "freqtrade",
    "base_url_ws": "nautilus_trader",
    "new_with_config": "bybit-rs",
    **dict.fromkeys(["WSS_PUBLIC_URL", "WSS_V5_PUBLIC_URL", "WSS_PRIVATE_URL"], "hummingbot"),
}
"""Names that pages speak of and our code does not."""

_PAGE_OF_OURS: Final = re.compile(r"(?:(?:GET|HEAD|POST) )?(?P<path>/(?:gateway|health|api/v1|metrics)\b[^\s`]*)")
_SUBCOMMAND: Final = re.compile(r"(?:-m proxy|bybit-gateway) (?P<name>[a-z]+)\b")
_TARGET: Final = re.compile(r"\bmake (?P<name>[a-z-]+)\b")
_FIELD: Final = re.compile(r"(?P<path>[a-z][a-z0-9_]*(?:\.[a-z0-9_*]+)+)")
_FILE: Final = re.compile(r"\.(?:ya?ml|json|toml|md|py|conf|csv|parquet|pem)$")
_VARIABLE: Final = re.compile(r"GATEWAY__(?P<path>[A-Z0-9_]+)")
_METRIC: Final = re.compile(r"(?P<name>[a-z][a-z0-9_]+)\{[^{}]*\}|(?P<known>(?:gateway|bybit)_[a-z0-9_]+)")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+")
_HEADER: Final = re.compile(r"X-Gateway(?:-[A-Za-z]+)*")
_PATH: Final = re.compile(r"(?:\.ci|bench|deploy|docs|policies|proxy|tests|tools)/[\w./*-]*[\w*/]")
_COMMAND: Final = re.compile(r"(?:\.venv/bin/\S+|curl|sed|pip|npm|promtool|amtool|openssl) (?!--?\w[\w-]*$)\S.*")
_QUERY: Final = re.compile(r"[a-z_]+\(.*\)")


class Said(NamedTuple):
    """Code in a line of text."""

    line: int
    text: str


def said(page: Path) -> Iterator[Said]:
    for token in tokens(page):
        if token.type != "inline" or token.map is None:
            continue
        for child in token.children or []:
            if child.type == "code_inline":
                yield Said(token.map[0] + 1, child.content)


def links(page: Path) -> Iterator[Said]:
    for token in tokens(page):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str) and token.map is not None:
                yield Said(token.map[0] + 1, target)


every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@every_page
def test_a_comment_for_the_tests_stands_above_a_block(page: Path) -> None:
    """Anywhere else it says nothing to anybody."""
    assert stray_directives(page) == []
    assert blocks_of(page) is not None


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings; other hosts are not asked."""
    lost = []
    for line, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            lost.append(f"{line}: {target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            lost.append(f"{line}: {target}: no such heading")
    assert not lost, "\n".join(lost)


async def test_pages_of_the_gateway_are_there() -> None:
    """Every path of ours that is named answers something else than 404, with whatever is left open filled in."""
    asked = {}
    for page, name in zip(PAGES, NAMES, strict=True):
        for line, text in said(page):
            match = _PAGE_OF_OURS.fullmatch(text)
            if match is not None and "…" not in text and "..." not in text:
                asked.setdefault(_filled(match["path"]), f"{name}:{line}")
    lost = []
    pages_of_ours = {
        path: where for path, where in asked.items() if not any(each.startswith(f"{path}/") for each in asked)
    }
    async with FakeBybit() as exchange, gateway(exchange.url) as app, aiohttp.ClientSession() as session:
        for path, where in pages_of_ours.items():
            try:
                async with asyncio.timeout(20), session.get(url(app, path)) as answer:
                    # An endless page is there when it begins; of the exchange's own 404 there is none on these paths.
                    if answer.status == 404:
                        lost.append(f"{where}: {path}")
            except TimeoutError:
                lost.append(f"{where}: {path}: no answer")
    assert not lost, "\n".join(lost)
    assert len(pages_of_ours) > 10


@every_page
def test_commands_are_known(page: Path) -> None:
    """Subcommands of the gateway and targets of make; whole commands stand in blocks, where they are executed."""
    subcommands, wrong = _subcommands(), []
    for line, text in said(page):
        wrong += [f"{line}: {text}" for each in _SUBCOMMAND.findall(text) if each not in subcommands]
        wrong += [f"{line}: {text}" for each in _TARGET.findall(text) if each not in _targets()]
        if is_command(text):
            wrong.append(f"{line}: put this into a block, where a test executes it: {text}")
    assert not wrong, "\n".join(wrong)


@every_page
async def test_fields_are_known(page: Path, health: dict[str, Any]) -> None:
    """`queue.max_wait` is a field of the configuration, or of /health; GATEWAY__QUEUE__MAX_WAIT too."""
    wrong = []
    for line, text in said(page):
        whole = text.partition(":")[0] if ": " in text else text
        match = _FIELD.fullmatch(whole)
        if (
            match is not None
            and _FILE.search(whole) is None
            and (head := match["path"].split(".")[0]) in {*Config.model_fields, *health}
        ):
            path = match["path"].split(".")
            known = head in Config.model_fields and is_field(Config, path)
            if not known and not _in_answer(health, path):
                wrong.append(f"{line}: {text}")
        wrong += [f"{line}: {text}" for name in _VARIABLE.findall(text) if not is_variable(name)]
    assert not wrong, "\n".join(wrong)


@every_page
def test_metrics_are_known(page: Path) -> None:
    """Whatever is written with labels, or begins as ours do."""
    known, wrong = _metrics(), []
    for line, text in said(page):
        match = _METRIC.fullmatch(text)
        if match is not None:
            name = match["name"] or match["known"]
            plain = re.sub(r"_(?:bucket|sum|count)$", "", name)
            if plain not in known and name not in known and not occurs(name):
                wrong.append(f"{line}: {text}")
        elif _QUERY.fullmatch(text) and re.search(r"\[\d+[smhd]\]", text):
            promql_parser.parse(text)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "page", [ROOT / name for name in NAMES if name not in MADE], ids=[name for name in NAMES if name not in MADE]
)
def test_names_occur_in_the_code(page: Path) -> None:
    """Names with an underscore, our headers: whatever was renamed is renamed here. Words of others are in OF_OTHERS."""
    wrong = []
    for line, text in said(page):
        ours = _NAME.fullmatch(text) is not None and text not in OF_OTHERS and not hasattr(otel, text)
        if (ours or _HEADER.fullmatch(text)) and not occurs(text) and text not in events():
            wrong.append(f"{line}: {text}")
    assert not wrong, "\n".join(wrong)


@every_page
def test_files_exist(page: Path) -> None:
    wrong = [
        f"{line}: {text}"
        for line, text in said(page)
        if _PATH.fullmatch(text) and not list(ROOT.glob(text.rstrip("/"))) and not (ROOT / f"{text}.example").exists()
    ]
    assert not wrong, "\n".join(wrong)


def is_command(text: str) -> bool:
    """With arguments: the name of a program alone runs nothing."""
    return _COMMAND.fullmatch(text) is not None


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: dict[str, int] = {}
    names: set[str] = set()
    for token, inline in pairwise(tokens(page)):
        if token.type != "heading_open":
            continue
        words = "".join(_plain(child) for child in inline.children or []).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def _plain(token: Token) -> str:
    return token.content if token.type in {"text", "code_inline"} else ""


def is_variable(name: str) -> bool:
    """Behind GATEWAY__. `_FILE` may end the name of the field, or say that a file holds the value."""
    path = name.lower()
    return any(is_field(Config, each.split("__")) for each in (path, path.removesuffix("_file")))


def is_field(model: Any, path: list[str]) -> bool:
    """`listen.*` is all fields of a section, `listen.max_*` some."""
    if not path:
        return True
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = [field for name, field in model.model_fields.items() if fnmatch(name, path[0])]
        return any(is_field(each, path[1:]) for field in fields for each in _types(field.annotation))
    # A map's keys are the operator's own: `identity.tiers.FREE`.
    return getattr(model, "__origin__", None) is dict


def _types(annotation: Any) -> list[Any]:
    inner = [each for arg in getattr(annotation, "__args__", ()) for each in _types(arg)]
    return [annotation, *inner]


def _in_answer(answer: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(answer, dict) or name not in answer:
            return False
        answer = answer[name]
    return True


@pytest.fixture(scope="module")
def health() -> dict[str, Any]:
    """Fields of /health, with everything configured that has some."""
    return asyncio.run(_health())


async def _health() -> dict[str, Any]:
    async with (
        FakeBybit() as exchange,
        gateway(
            exchange.url,
            store__url="redis://127.0.0.1:9/0",
            archive__url="postgresql://nobody@127.0.0.1:9/none",
            candles__stream="true",
        ) as app,
        aiohttp.ClientSession() as session,
        session.get(url(app, "/health")) as answer,
    ):
        found: dict[str, Any] = await answer.json()
    return found


@cache
def _subcommands() -> frozenset[str]:
    actions = [action for action in _parser()._actions if action.dest == "command"]
    return frozenset(name for action in actions for name in action.choices or ())


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _metrics() -> frozenset[str]:
    return frozenset(re.findall(r"^\| `(\w+)`", as_markdown(), re.MULTILINE)) | {"gateway_workers"}


@cache
def _files() -> tuple[Path, ...]:
    """All that is, or will be, part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return tuple(path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file())
    skipped = {".git", ".venv", ".make", "node_modules", "__pycache__"}
    return tuple(path for path in ROOT.rglob("*") if path.is_file() and not skipped.intersection(path.parts))


@cache
def _words() -> frozenset[str]:
    """Of everything but pages, and these tests."""
    code = [path for path in _files() if path.suffix not in {".md", ".png", ".gz"} and "tests/docs/" not in str(path)]
    words: set[str] = set()
    for path in code:
        words.update(re.findall(r"[A-Za-z_][\w-]*", path.read_text(encoding="utf-8", errors="ignore")))
        words.update(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="ignore")))
    return frozenset(words | {word.lower() for word in words})


def occurs(name: str) -> bool:
    """Headers are written in small letters in the code."""
    return name in _words() or name.lower() in _words() or name.lower().replace("-", "_") in _words()


def _filled(path: str) -> str:
    symbols = {"{symbol}": "BTCUSDT", "{base}": "BTC", "{quote}": "USDT"}
    for name, value in symbols.items():
        path = path.replace(name, value)
    return path
