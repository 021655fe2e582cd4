"""The part: a file that grows, locked by who writes it, of which a record says how much is true.

Also what is known of files by their checksums.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from pathlib import Path
from typing import Final

from proxy.download.journal import Conflict, Stretch, Whole

_PIECE: Final = 1 << 20


class Part:
    """Open and locked until close(). All methods may block; all raise OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.stretch = Stretch()
        """What is in it and on the disk."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Part:
        """Raises Conflict where another process writes it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(descriptor, path):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise Conflict(f"another download is writing {path}") from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was finished, and renamed, while we opened it

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def go_on_after(self, stretch: Stretch) -> bool:
        """Forget what was written later than that. False where it is not what the file begins with."""
        if self.size_bytes < stretch.size_bytes or checksum(self.path, stretch.size_bytes) != stretch.crc32:
            return False
        os.ftruncate(self._descriptor, stretch.size_bytes)
        self.stretch = stretch
        return True

    def append(self, data: bytes) -> Stretch:
        """Write it, and be sure of it. After an error the file ends anywhere, and only go_on_after() makes it good."""
        at, crc32 = self.stretch.size_bytes, zlib.crc32(data, self.stretch.crc32)
        size_bytes = at + len(data)
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        os.fsync(self._descriptor)
        self.stretch = Stretch(size_bytes=size_bytes, crc32=crc32)
        return self.stretch

    def remove(self) -> None:
        """Its name, unless that leads to another file by now."""
        if _is_still(self._descriptor, self.path):
            self.path.unlink()

    def close(self) -> None:
        os.close(self._descriptor)


def checksum(path: Path, size_bytes: int | None = None) -> int:
    """CRC-32 of a file, or of so many bytes at its beginning, in constant memory. Raises OSError."""
    crc32, left = 0, size_bytes
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE if left is None else min(_PIECE, left)):
            crc32 = zlib.crc32(piece, crc32)
            left = None if left is None else left - len(piece)
    return crc32


def joined(first: Path, second: Path, target: Path) -> None:
    """A new file of two, in constant memory. Raises OSError."""
    with target.open("wb", buffering=0) as into:
        for path in (first, second):
            with path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    into.write(piece)


def measured(path: Path) -> Whole:
    """A file as it is from now on: on the disk, and read from there. Raises OSError."""
    with path.open("rb+", buffering=0) as file:
        os.fsync(file.fileno())
        entry = os.fstat(file.fileno())
    return Whole(size_bytes=entry.st_size, crc32=checksum(path), mtime_ns=entry.st_mtime_ns)


def is_still(path: Path, whole: Whole) -> bool:
    """Whether a file is what was written. Raises OSError."""
    try:
        entry = path.stat()
    except FileNotFoundError:
        return False
    if entry.st_size != whole.size_bytes:
        return False
    return entry.st_mtime_ns == whole.mtime_ns or checksum(path) == whole.crc32


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the name still leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
