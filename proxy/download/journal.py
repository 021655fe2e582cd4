"""The record beside a file: what was asked for, how far it has got, and which bytes of it are true.

It is replaced as a whole, and only after the bytes that it speaks of are safe on the disk: whatever interrupts a
download, the record never promises more than there is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from policies.collected import Collected
from proxy.download.request import Request

_MOST_BYTES: Final = 1 << 20


class Conflict(Exception):
    """What lies on the disk is not what this download may go on with. The message says what, and what to do."""


class Stretch(BaseModel):
    """The first bytes of a file, known by their checksum."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    size_bytes: NonNegativeInt = 0
    crc32: NonNegativeInt = 0


class Whole(Stretch):
    """A whole file. One that has its length and its time is believed without being read."""

    mtime_ns: int


class Journal(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    bybit_gateway_download: Literal[1] = 1
    request: Request
    upstream: str | None = None
    """The exchange that was asked, where that is known."""
    covered_ms: int
    """Everything that opens earlier is recorded, in the file or in the part."""
    collected: Collected = Collected()
    part: Stretch | None = None
    """What has been fetched and is not in the file yet; None when the file holds all."""
    file: Whole | None = None
    """The file, as it was or is to be written; None as long as there was none."""


def read(path: Path) -> Journal | None:
    """None where there is none. Raises Conflict, OSError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        return Journal.model_validate_json(text)
    except ValidationError:
        raise Conflict(f"{path} is not the record of a download: move it away, or begin anew with --force") from None


def write(path: Path, journal: Journal) -> None:
    """Replace it, and be sure of it. Raises OSError."""
    beside = path.with_name(f"{path.name}.tmp")
    with beside.open("wb") as file:
        file.write(journal.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Make the names in its directory as safe as the bytes. Raises OSError."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
