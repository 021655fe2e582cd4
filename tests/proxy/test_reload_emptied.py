"""A file that has lost what it said, or that can be read only once: what is in force goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from proxy.config_problems import ConfigError
from proxy.reload import Result, Source
from tests.proxy.test_reload import ROUTES, File, file, mine, page, reload, running, statuses
from tests.recorder import recorder

__all__ = ["file"]


@pytest.mark.parametrize("left", ["", "\n", "# moved elsewhere\n", "---\n", "null\n", "~"])
async def test_a_file_that_says_nothing_any_more_opens_nothing(file: File, left: str) -> None:
    """An editor, or a full disk, that empties it must not let everybody in by the rules of nobody."""
    tokens = [{"name": "bot", "token": "abcdefgh123"}]
    file.write(mine("2/60s"), identity={"required": True, "tokens": tokens})
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        file.text(left)
        assert await reload(app) is Result.REFUSED
        assert (await page(app, "/health"))["config"]["status"] == "refused"
        assert await statuses(app, 1) == [401]

        file.text("{}")
        assert await reload(app) is Result.APPLIED
        assert await statuses(app, 1) == [200]
        file.text(left)
        assert await reload(app) is Result.REFUSED


async def test_a_file_that_was_empty_from_the_start_may_stay_so(file: File) -> None:
    file.text("")
    async with recorder() as upstream, running(upstream.url, file.path) as app:
        assert await reload(app) is Result.UNCHANGED
        file.write(mine("2/60s"))
        assert await reload(app) is Result.APPLIED


async def test_what_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    """A pipe would be empty the second time, or be waited for until somebody writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = Source(pipe, {}, ROUTES)
    _, config = await asyncio.gather(
        asyncio.to_thread(pipe.write_text, "listen: {port: 8099}\n"), asyncio.to_thread(source.load)
    )
    assert config.listen.port == 8099
    with pytest.raises(ConfigError, match="a pipe"):
        source.load()
