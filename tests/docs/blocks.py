"""Every block of every page that a user reads, with the words that say how it is executed.

The language says most of it (KINDS in tests/docs/test_blocks.py). What it cannot say stands in a comment directly
above the block, `<!-- test: follows; fails -->`, parts separated by semicolons:

    follows                 goes on where the block of this kind above stopped: its commands are run first, and in the
                            same directory; its YAML is merged under this one
    runs on                 the first command does not end by itself, and what it says is shown, or it is a gateway: the
                            others are run while it runs
    fails                   the last command ends with an error; of YAML: the gateway refuses it
    GET /health             what json, http and csv show is an answer to this; with `header NAME: VALUE`, and with
                            `when NAME`, a situation of tests/docs/situations.py
    log                     json: lines of the gateway's log
    helm                    yaml: values of the chart
    by FILE, NAME           a test in FILE executes it, and takes it from the page by this name: see named()
    not run: REASON         it cannot be executed here; the rest of the comment is the reason
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[2]
INDENTED: Final = "an indented block"
SHELLS: Final = frozenset({"console", "sh", "bash"})

_COMMENT: Final = re.compile(r"<!--\s*test:\s*(?P<words>.*?)\s*-->\s*", re.DOTALL)
_ASKED: Final = re.compile(r"(?:GET|HEAD|POST) /\S*")
_HEREDOC: Final = re.compile(r"<<-?\s*(['\"]?)(?P<end>\w+)\1")


class DirectiveError(Exception):
    """A comment above a block says something that means nothing."""


@dataclass(frozen=True, slots=True)
class Directive:
    follows: bool = False
    runs_on: bool = False
    fails: bool = False
    asks: tuple[str, str] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    when: str | None = None
    log: bool = False
    helm: bool = False
    by: tuple[str, str] | None = None
    not_run: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it is typed, and the lines that are shown below it."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    directive: Directive
    above: Block | None = None
    """The one that this one follows."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> tuple[Command, ...]:
        return tuple(_commands(self)) if self.language == "console" else (Command(self.text),)

    @property
    def chain(self) -> tuple[Block, ...]:
        """All that this one follows, the first one first, and this one."""
        return (*(self.above.chain if self.above is not None else ()), self)


def pages() -> list[Path]:
    """What is written for users, operators and contributors."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md"]
    return [*found, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(block for page in pages() for block in blocks_of(page))


def blocks_of(page: Path) -> tuple[Block, ...]:
    return tuple(_blocks(str(page.relative_to(ROOT)), tokens(page)))


def blocks_in(text: str, name: str = "a page") -> tuple[Block, ...]:
    return tuple(_blocks(name, MarkdownIt("commonmark").enable("table").parse(text)))


def named(page: str, name: str) -> Block:
    """The block that says `by FILE, NAME`: for the test that executes it."""
    found = [each for each in blocks_of(ROOT / page) if each.directive.by is not None and each.directive.by[1] == name]
    assert len(found) == 1, f"{page}: {len(found)} blocks are named {name!r}"
    return found[0]


def directive(words: str) -> Directive:
    """Raises DirectiveError."""
    if words.startswith("not run:"):
        reason = " ".join(words.removeprefix("not run:").split())
        if not reason:
            raise DirectiveError("`not run:` needs a reason")
        return Directive(not_run=reason)
    said: dict[str, object] = {}
    headers: list[tuple[str, str]] = []
    for part in (" ".join(each.split()) for each in words.split(";")):
        word, _, rest = part.partition(" ")
        if part in {"follows", "runs on", "fails", "log", "helm"}:
            said[part.replace(" ", "_")] = True
        elif _ASKED.fullmatch(part):
            said["asks"] = (word, rest)
        elif word == "header" and ":" in rest:
            name, _, value = rest.partition(":")
            headers.append((name.strip(), value.strip()))
        elif word == "when" and rest:
            said["when"] = rest
        elif word == "by" and rest.count(",") == 1:
            file, _, name = rest.partition(",")
            said["by"] = (file.strip(), name.strip())
        else:
            raise DirectiveError(f"`{part}` means nothing; tests/docs/blocks.py has the words")
    return Directive(**said, headers=tuple(headers))  # type: ignore[arg-type]  # the names above are its fields


def _blocks(page: str, found: list[Token]) -> Iterator[Block]:
    last: dict[str, Block] = {}
    before: Token | None = None
    for token in found:
        if token.type in {"fence", "code_block"}:
            assert token.map is not None
            info = token.info.split()
            language = INDENTED if token.type == "code_block" else (info[0] if info else "")
            kind = "shell" if language in SHELLS else language
            told = _above(page, before, token)
            if told.follows and kind not in last:
                raise DirectiveError(f"{page}:{token.map[0] + 1}: there is nothing above that it could follow")
            above = last[kind] if told.follows else None
            block = Block(page, token.map[0] + 1, language, token.content, told, above)
            last[kind] = block
            yield block
        before = token


def _above(page: str, before: Token | None, token: Token) -> Directive:
    if before is None or before.type != "html_block" or before.map is None or token.map is None:
        return Directive()
    match = _COMMENT.fullmatch(before.content)
    if match is None:
        return Directive()
    where = f"{page}:{before.map[0] + 1}"
    if before.map[1] != token.map[0]:
        raise DirectiveError(f"{where}: the comment must stand directly above the block")
    try:
        return directive(match["words"])
    except DirectiveError as error:
        raise DirectiveError(f"{where}: {error}") from None


def stray_directives(page: Path) -> list[int]:
    """Lines of comments for a test that stand above nothing."""
    found = tokens(page)
    return [
        token.map[0] + 1
        for token, after in zip(found, [*found[1:], None], strict=True)
        if token.type == "html_block" and token.map is not None and "test:" in token.content
        if after is None or after.type not in {"fence", "code_block"}
    ]


def _commands(block: Block) -> Iterator[Command]:
    typed: list[str] = []
    shown: list[str] = []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if typed and not shown and _goes_on("\n".join(typed)):
            typed.append(line.removeprefix("> "))
        elif line.startswith("$ "):
            if typed:
                yield Command("\n".join(typed), tuple(shown))
            typed, shown = [line.removeprefix("$ ")], []
        else:
            assert typed, f"{block.page}:{number}: a console block begins with a command: `$ ...`"
            if line.strip():
                shown.append(line)
    assert typed, f"{block}: no command in it"
    yield Command("\n".join(typed), tuple(shown))


def _goes_on(text: str) -> bool:
    """A command that is not whole: a backslash at its end, an open quote, a document that has not ended."""
    if text.endswith("\\"):
        return True
    here = _HEREDOC.search(text)
    if here is not None:
        return here["end"] not in text.splitlines()[1:]
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False
