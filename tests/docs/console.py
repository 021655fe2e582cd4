"""Types the commands of a block into one shell, as a reader would, and looks at what they say."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Sequence
from typing import Final

import pytest

from tests.docs import shown, stand_ins
from tests.docs.blocks import ROOT, Block, Command
from tests.docs.surroundings import GATEWAY, Surroundings, until_it_answers

_END: Final = "\x1e"
_FAILURE: Final = re.compile(r"(?:HTTP/\S+ )?[45]\d\d\b")
_BLOCK_S: Final = 90.0
_FIRST_WORDS_S: Final = 30.0
_LISTENS: Final = re.compile(r"\bmake (?:run|demo)\b|-m proxy(?: run|$)|bybit-gateway run")


async def execute(block: Block, at: Surroundings) -> None:
    """All that this block follows, and then the block itself."""
    typed = [command for each in block.chain for command in each.commands]
    for command in typed:
        _skip_without_its_programs(command.text, at)
    first = next((each for each in block.chain if each.directive.runs_on), None)
    if first is None:
        await _in_one_shell(typed, at, fails=block.directive.fails)
        return
    assert first is block.chain[0], f"{first}: what runs on must come first of all"
    listens = _LISTENS.search(typed[0].text) is not None
    assert listens or typed[0].shown, f"$ {typed[0].text}\nruns on: show what it says, so that it is known to do so"
    async with asyncio.timeout(_BLOCK_S):
        process = await _shell(f"set -o pipefail\n{_prepared(typed[0], at)}\n", at)
        try:
            if listens:
                await until_it_answers(f"http://127.0.0.1:{at.ports[GATEWAY]}/health/ready", process)
            if typed[0].shown:
                await _until_shown(process, typed[0], at)
            if typed[1:]:
                await _in_one_shell(typed[1:], at, fails=block.directive.fails)
        finally:
            await _end(process)


async def _in_one_shell(typed: Sequence[Command], at: Surroundings, *, fails: bool) -> None:
    """Each command's words and exit code are told apart by a line that no command says."""
    lines = [f"{_prepared(command, at)}\nprintf '\\n{_END}%d\\n' $?" for command in typed]
    process = await _shell("set -o pipefail\n" + "\n".join(lines) + "\n", at)
    try:
        async with asyncio.timeout(_BLOCK_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise AssertionError(f"not within {_BLOCK_S:g} s (does it run on?): {typed[-1].text}") from None
    finally:
        await _end(process)
    parts = re.split(rf"\n{_END}(\d+)\n", said.decode(errors="replace"))
    assert len(parts) == 2 * len(typed) + 1, f"the shell ended early:\n{parts[-1]}"
    for number, command in enumerate(typed):
        words, code = at.there(parts[2 * number]), int(parts[2 * number + 1])
        wanted_to_fail = fails and number == len(typed) - 1
        told = any(_FAILURE.match(line) for line in command.shown)  # that it is one is what is shown
        assert told or (code != 0) is wanted_to_fail, f"$ {command.text}\nended with {code} and said:\n{words}"
        lacking = shown.missing(command.shown, words)
        assert lacking is None, f"$ {command.text}\nis shown to say:\n{lacking}\nand said:\n{words}"


async def _until_shown(process: asyncio.subprocess.Process, command: Command, at: Surroundings) -> None:
    """Until it has said all that is shown."""
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(_FIRST_WORDS_S):
            while shown.missing(command.shown, said) is not None:
                line = await process.stdout.readline()
                assert line, f"$ {command.text}\nended and said:\n{said}"
                said += at.there(line.decode(errors="replace"))
    except TimeoutError:
        raise AssertionError(f"$ {command.text}\nis shown to say:\n{command.shown}\nand said:\n{said}") from None


async def _shell(script: str, at: Surroundings) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        cwd=at.directory,
        env=dict(at.environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # so that all that it has started ends with it
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            async with asyncio.timeout(10):
                while process.stdout is not None and await process.stdout.read(1 << 16):
                    pass  # a full pipe would hold up its end
                await process.wait()
        except TimeoutError:
            continue
    await process.wait()


def _prepared(command: Command, at: Surroundings) -> str:
    return at.here(stand_ins.replaced(command.text))


def _skip_without_its_programs(text: str, at: Surroundings) -> None:
    for name in stand_ins.programs(text):
        if shutil.which(name, path=at.environment["PATH"]) is None:
            pytest.skip(f"{name} is not installed here")
    reason = stand_ins.beyond_reach(text)
    if reason is not None:
        assert not (lost := lost_files(text)), f"no such file: {lost}"
        pytest.skip(reason)


def lost_files(text: str) -> list[str]:
    """Files of the checkout that a command names and that are not there: found even where it cannot be run."""
    named = re.findall(r"(?<![\w./-])(?:deploy|docs|tests|bench)/[\w./-]*\w", text)
    return [name for name in named if not (ROOT / name).exists()]
