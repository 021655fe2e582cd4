"""Every block of every page is executed, and does what the page says."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import promql_parser
import pytest
import yaml

from proxy.archive.migrate import migrate, migrations
from tests.docs import answers, console, nginx, yaml_kinds
from tests.docs.blocks import INDENTED, ROOT, SHELLS, Block, blocks
from tests.docs.events import events
from tests.docs.surroundings import Surroundings, said_by, said_by_node, surroundings
from tests.postgres_server import PostgresServer

BLOCKS: Final = blocks()


@pytest.fixture
def place(tmp_path: Path, checkout: Path) -> Place:
    return Place(tmp_path, checkout)


class Place:
    """Where a block is executed."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        self.directory = directory
        self._checkout = checkout

    @asynccontextmanager
    async def around(self, text: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Surroundings]:
        async with surroundings(self._checkout, self.directory, text, environment) as at:
            yield at


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language != "sql"], ids=str)
async def test_a_block_does_what_the_page_says(block: Block, place: Place) -> None:
    """By its language; what cannot run here is skipped, and says why."""
    assert block.language != INDENTED, "fence it, with a language: nothing executes what is merely indented"
    assert block.language in KINDS, f"no test executes a block of language {block.language!r}; `text` is no code"
    if block.directive.by is not None:
        _is_executed_by_another(block)
    elif block.directive.not_run is not None:
        await _can_be_read(block)
        pytest.skip(block.directive.not_run)
    else:
        await KINDS[block.language](block, place)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "sql"], ids=str)
async def test_sql_runs_on_the_tables_of_the_archive(block: Block, database: str, postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url(database))
    try:
        await migrate(connection, migrations())
        await connection.execute(block.text)
    finally:
        await connection.close()


async def _shell(block: Block, place: Place) -> None:
    text = "\n".join(each.text for each in block.chain)
    async with place.around(text) as at:
        await console.execute(block, at)


async def _yaml(block: Block, place: Place) -> None:
    await yaml_kinds.judge(block, place.directory)


async def _environment(block: Block, place: Place) -> None:
    yaml_kinds.judge_environment(block, place.directory)


async def _json(block: Block, place: Place) -> None:
    if block.directive.log:
        await _log(block, place)
        return
    async with place.around(block.text, answers.situation(block).environment) as at:
        answers.judge_json(block, await answers.ask(block, at))


async def _log(block: Block, place: Place) -> None:
    """Beside lines of a gateway that has answered from the exchange, from its cache, and refused, or that of `when`."""
    stands = answers.situation(block)
    async with place.around(block.text, stands.environment or answers.REFUSING) as at:
        await stands.brought_about(at)
        if block.directive.when is None:
            await answers.make_lines(at)
    lines = [json.loads(line) for line in at.log.read_text().splitlines()]
    answers.judge_log(block, lines, {name: set(event.fields) for name, event in events().items()})


async def _lines(block: Block, place: Place) -> None:
    async with place.around(block.text, answers.situation(block).environment) as at:
        answers.judge_lines(block, await answers.ask(block, at))


async def _http(block: Block, place: Place) -> None:
    async with place.around(block.text, answers.situation(block).environment) as at:
        answers.judge_http(block, await answers.ask(block, at))


async def _python(block: Block, place: Place) -> None:
    async with place.around(block.text) as at:
        program = at.directory / "block.py"
        program.write_text(at.here(block.text))
        code, said = await said_by(at, sys.executable, "-m", "tests.docs.toplevel", str(program))
    assert (code != 0) is block.directive.fails, said


async def _javascript(block: Block, place: Place) -> None:
    async with place.around(block.text) as at:
        code, said = await said_by_node(at, block.text)
    assert (code != 0) is block.directive.fails, said


async def _promql(block: Block, _: Place) -> None:
    """One expression, or one on each line where they do not make one together."""
    lines = [line for line in block.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        promql_parser.parse("\n".join(lines))
    except ValueError:
        for line in lines:
            promql_parser.parse(line)


async def _nginx(block: Block, place: Place) -> None:
    await nginx.judge(block.text, place.directory)


async def _toml(block: Block, _: Place) -> None:
    tomllib.loads(block.text)


async def _dockerfile(block: Block, place: Place) -> None:
    await yaml_kinds.by_program(["hadolint", "FILE"], block.text, place.directory)


async def _text(block: Block, _: Place) -> None:
    """No code, so no command may hide in it."""
    typed = [line for line in block.text.splitlines() if line.startswith("$ ")]
    assert not typed, "commands belong into a `console` block"


KINDS: Final[Mapping[str, Callable[[Block, Place], Awaitable[None]]]] = {
    **dict.fromkeys(SHELLS, _shell),
    "yaml": _yaml,
    "env": _environment,
    "json": _json,
    **dict.fromkeys(["csv", "ndjson"], _lines),
    "http": _http,
    "python": _python,
    **dict.fromkeys(["js", "javascript", "mjs"], _javascript),
    "promql": _promql,
    "nginx": _nginx,
    "toml": _toml,
    "dockerfile": _dockerfile,
    "text": _text,
    "sql": _text,  # those that another test executes, or none can
}


def _is_executed_by_another(block: Block) -> None:
    assert block.directive.by is not None
    file, name = block.directive.by
    text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else ""
    assert "named(" in text, f"{file} takes no block from a page: tests.docs.blocks.named()"
    assert f'"{name}"' in text, f"{file} does not ask for the block {name!r}"
    assert Path(block.page).name in text, f"{file} does not ask for {block.page}"


async def _can_be_read(block: Block) -> None:
    """What is not executed is at least what its language says."""
    assert not (lost := console.lost_files(block.text)), f"no such file: {lost}"
    if block.language in SHELLS:
        script = "\n".join(each.text for each in block.commands)
        process = await asyncio.create_subprocess_exec("bash", "-n", "-c", script, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language == "json":
        answers.read(block.text)
    elif block.language == "python":
        compile(block.text, str(block), "exec", dont_inherit=True, flags=0)
