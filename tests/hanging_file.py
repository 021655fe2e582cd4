"""A file on a disk that hangs: whoever reads it waits until the test lets him go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hand_clock import until


class HangingFile:
    """Really a pipe that nobody writes to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._end: int | None = None

    async def reading(self) -> None:
        """Somebody reads it, and waits."""
        await until(self._is_read)

    def let_go(self, text: bytes = b"") -> None:
        """Who reads it has read that."""
        if self._end is not None:
            os.write(self._end, text)
            os.close(self._end)
        self._end = None

    def _is_read(self) -> bool:
        try:
            self._end = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # there is no reader
            return False
        return True


@contextmanager
def hanging_file(path: Path) -> Iterator[HangingFile]:
    """Nobody hangs any more at the end, however the test has ended."""
    file = HangingFile(path)
    try:
        yield file
    finally:
        file.let_go()
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
