"""The file that tells the next gateway what this one did: found, locked, read, written.

One gateway holds it at a time. It is written in place, under the lock: a rename would leave the lock on a file that
nobody finds any more. Whoever is interrupted in the middle leaves something that cannot be read, which the next one
takes for what it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

AUTO: Final = "auto"
MAGIC: Final = b'{"bybit_gateway_state":'
"""What every state file begins with. A file that begins otherwise is somebody's, and left alone."""

_DIRECTORY: Final = "bybit-gateway"
_MOST_BYTES: Final = 64 << 20


class InUseError(Exception):
    """Another gateway holds the file; says which."""


class NotOursError(Exception):
    """There is a file, and no gateway has written it; says which."""


class StateFile:
    """Open and locked until finish()."""

    def __init__(self, path: Path, descriptor: int, text: bytes | None) -> None:
        self.path = path
        self.text = text
        """What was in it; None where there was no file."""
        self._descriptor = descriptor
        self._mutex = threading.Lock()
        self._finished = False

    @classmethod
    def open(cls, path: Path) -> StateFile:
        """Raises OSError, InUseError, NotOursError."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor, new = os.open(path, flags), False
        except FileNotFoundError:
            descriptor, new = os.open(path, flags | os.O_CREAT, 0o600), True
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotOursError(path)
            _lock(descriptor, path)
            text = None if new else _read(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, text)

    def write(self, text: bytes, *, sync: bool = False) -> None:
        """Replace what is in it, whichever thread asks; nothing after finish()."""
        with self._mutex:
            if not self._finished:
                self._write(text, sync=sync)

    def finish(self, text: bytes) -> None:
        """The last words, and let go."""
        with self._mutex:
            if self._finished:
                return
            self._finished = True
            try:
                self._write(text, sync=True)
            finally:
                os.close(self._descriptor)

    def _write(self, text: bytes, *, sync: bool) -> None:
        done = 0
        while done < len(text):
            done += os.pwrite(self._descriptor, text[done:], done)
        os.ftruncate(self._descriptor, len(text))
        if sync:
            os.fsync(self._descriptor)


def first_usable(setting: str, budget: tuple[str, str], environment: Mapping[str, str]) -> StateFile | list[str]:
    """The file at the first place where one can be had, or why at none. Raises InUseError, NotOursError."""
    reasons = []
    for path in places(setting, budget, environment):
        try:
            if setting == AUTO:
                make_private(path.parent)
            return StateFile.open(path)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
    return reasons


def in_use(setting: str, budget: tuple[str, str], environment: Mapping[str, str]) -> Path | None:
    """The file that another gateway with this budget holds; None where none does. Changes nothing."""
    for path in places(setting, budget, environment):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return path
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return None


def places(setting: str, budget: tuple[str, str], environment: Mapping[str, str]) -> Iterator[Path]:
    """`budget` names what is shared at the exchange: the address that it sees, and which exchange."""
    if setting != AUTO:
        yield Path(setting)
        return
    name = sha256("\n".join(budget).encode()).hexdigest()[:16] + ".json"
    home = Path(environment.get("XDG_STATE_HOME", ""))
    if home.is_absolute():
        yield home / _DIRECTORY / name
    elif (user := Path(os.path.expanduser("~"))).is_absolute() and user.is_dir():  # noqa: PTH111  # never raises
        yield user / ".local" / "state" / _DIRECTORY / name
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # a container may have no place that can be written to
        return
    yield Path(temporary, f"{_DIRECTORY}-{os.geteuid()}", name)


def make_private(directory: Path) -> None:
    """Ours alone: in a place where everybody may write, another user could have prepared it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry = directory.lstat()
    ours = stat.S_ISDIR(entry.st_mode) and entry.st_uid == os.geteuid() and not entry.st_mode & 0o022
    if not ours:
        raise PermissionError(errno.EPERM, "not a directory of this user alone")


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(path) from None


def _read(descriptor: int, path: Path) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        text = file.read(_MOST_BYTES + 1)
    # A machine that lost its power leaves files without length or full of zeros: those were ours.
    if text.strip(b"\0") and not text.startswith(MAGIC):
        raise NotOursError(path)
    return text if len(text) <= _MOST_BYTES else b""
