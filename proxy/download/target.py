"""The files of one request, and what becomes of them whatever interrupts a download.

    OUT            the finished file: appears, and is replaced, as a whole
    OUT.part       what has been fetched and is not in it yet; its record tells how much of this is true
    OUT.new        the next OUT, where that is not simply the part
    OUT.progress   the record (journal.py)

In this order: bytes to the part, the part to the disk, then the record; and at the end the new file to the disk, the
record that says it is finished, then its name.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from policies.collected import Collected
from proxy.download import journal, parquet, text
from proxy.download.journal import Conflict, Journal, Stretch, Whole
from proxy.download.part import Part, is_still, joined, measured
from proxy.download.request import Form, Request


class Paths(NamedTuple):
    out: Path
    part: Path
    new: Path
    progress: Path

    @classmethod
    def of(cls, out: Path) -> Paths:
        return cls(out, *(out.with_name(f"{out.name}.{end}") for end in ("part", "new", "progress")))


class Target:
    """`upstream`: the exchange that is asked, None where that is not known. Every method may block and raises OSError;
    those that look at the disk raise Conflict."""

    def __init__(self, paths: Paths, request: Request, upstream: str | None) -> None:
        self.paths = paths
        self.request = request
        self._upstream = upstream
        self._part: Part | None = None
        self._record: Journal | None = None
        self._mutex = threading.Lock()
        self._saving = threading.Lock()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._covered_ms = request.from_ms
        self._collected = Collected()
        self._failure: OSError | None = None

    @property
    def covered_ms(self) -> int:
        """Everything that opens earlier is here."""
        return self._covered_ms

    @property
    def collected(self) -> Collected:
        return self._collected

    @property
    def held_bytes(self) -> int:
        """In memory, to be saved."""
        return self._held_bytes

    @property
    def finished(self) -> bool:
        """The file holds all that was fetched."""
        return self._record is not None and self._record.part is None

    @property
    def size_bytes(self) -> int:
        """Of the finished file."""
        return self._record.file.size_bytes if self._record is not None and self._record.file is not None else 0

    def stands(self, *, extend: bool = False) -> bool:
        """Whether the file is there, finished, and holds the whole range. Changes nothing."""
        found = self._found(extend=extend)
        if found is None or found.part is not None or found.file is None or self.paths.part.exists():
            return False
        if found.request.to_ms is None or found.covered_ms < found.request.to_ms or found.request != self.request:
            return False
        if not is_still(self.paths.out, found.file):
            return False
        self._adopt(found)
        return True

    def begin(self, *, force: bool = False, extend: bool = False) -> None:
        """Make sure of the place, and find out where to go on."""
        if not force:
            self._found(extend=extend)  # before anything is made
        self._part = Part.open(self.paths.part)
        try:
            found = None if force else self._found(extend=extend)
            if found is None:
                self._begin_anew(self._part, force=force)
            elif found.part is None:
                self._be_sure(found)
                self._adopt(found.model_copy(update={"request": self.request}))
                self._part.go_on_after(Stretch())
            else:
                self._go_on(self._part, found, found.part)
        except BaseException:
            self.close()
            raise

    def add(self, lines: bytes, covered_ms: int, collected: Collected) -> None:
        """Lines of the part that follow: everything up to that instant. Held in memory until save()."""
        with self._mutex:
            self._held.append(lines)
            self._held_bytes += len(lines)
            self._covered_ms, self._collected = covered_ms, collected

    def save(self) -> None:
        """Everything that was added, to the disk. From any thread."""
        with self._saving:
            if self._failure is not None:
                raise self._failure  # what was taken from memory then is lost: nothing may follow
            with self._mutex:
                held, self._held, self._held_bytes = self._held, [], 0
                covered_ms, collected = self._covered_ms, self._collected
            if self._part is None or not held:
                return
            if not self._part.stretch.size_bytes and self._record is not None and self._record.file is None:
                held.insert(0, text.header(self.request))
            try:
                stretch = self._part.append(b"".join(held))
                self._put(part=stretch, covered_ms=covered_ms, collected=collected)
            except OSError as error:
                error.filename = error.filename or self.paths.part
                self._failure = error
                raise

    def finish(self) -> None:
        """Make the file of what there is, and let go."""
        if self._record is not None and self._record.file is None:
            self.add(b"", self._covered_ms, self._collected)  # a file without candles is a file too
        self.save()
        with self._saving:
            record = self._record
            assert record is not None  # noqa: S101
            if record.part is not None:
                if record.part.size_bytes or record.file is None:
                    self._replace(record, record.part)
                else:  # nothing new was there
                    self._put(part=None)
        self.close()

    def close(self) -> None:
        """Let go. A place where nothing was put is left as it was found."""
        with self._saving:
            part, self._part = self._part, None
        if part is None:
            return
        record = self._record
        if record is None or record.part is None or (record.file is None and not record.part.size_bytes):
            with suppress(OSError):
                if record is not None and record.part is not None:
                    self.paths.progress.unlink(missing_ok=True)
                part.remove()
        part.close()

    def _found(self, *, extend: bool) -> Journal | None:
        """The record of this request, or None where none is and nothing would be overwritten."""
        out, progress = self.paths.out, self.paths.progress
        found = journal.read(progress)
        if found is None:
            if out.exists():
                raise Conflict(f"{out} is there, and no record of a download beside it: --force replaces it")
            if self.paths.part.exists() and self.paths.part.stat().st_size:
                raise Conflict(f"{self.paths.part} is there, and no record of a download: --force replaces it")
            return None
        words = found.request.differences(self.request)
        if words and not (extend and self._extends(found)):
            hint = "; --extend goes on from there" if self._extends(found) else ""
            raise Conflict(
                f"{out} belongs to another download ({', '.join(words)}): take the same arguments, another --out, or "
                f"--force to begin anew{hint}"
            )
        if self._upstream is not None and found.upstream is not None and self._upstream != found.upstream:
            raise Conflict(
                f"{out} comes from {found.upstream}, not from {self._upstream}: take another --out, or --force to "
                "begin anew"
            )
        return found

    def _extends(self, found: Journal) -> bool:
        """It differs by nothing but its end, and that is no earlier than what is there."""
        same = found.request.model_copy(update={"to_ms": self.request.to_ms}) == self.request
        return same and (self.request.to_ms is None or self.request.to_ms >= found.covered_ms)

    def _begin_anew(self, part: Part, *, force: bool) -> None:
        if force:
            self.paths.progress.unlink(missing_ok=True)
        part.go_on_after(Stretch())
        self._adopt(
            Journal(request=self.request, upstream=self._upstream, covered_ms=self.request.from_ms, part=Stretch())
        )
        self._put()

    def _go_on(self, part: Part, found: Journal, stretch: Stretch) -> None:
        if found.file is not None and not is_still(self.paths.out, found.file):
            raise self._changed(self.paths.out)
        if not part.go_on_after(stretch):
            raise self._changed(self.paths.part)
        self._adopt(found.model_copy(update={"request": self.request}))

    def _be_sure(self, found: Journal) -> None:
        """A file that is finished by its record has its name, or gets it now."""
        assert found.file is not None  # noqa: S101
        if is_still(self.paths.out, found.file):
            return
        for candidate in (self.paths.new, self.paths.part):
            if is_still(candidate, found.file):
                self._name(candidate)
                if candidate == self.paths.part:  # it is the file now: what follows goes into another
                    self._reopen()
                return
        raise self._changed(self.paths.out)

    def _reopen(self) -> None:
        if self._part is not None:
            self._part.close()
        self._part = Part.open(self.paths.part)

    def _changed(self, path: Path) -> Conflict:
        return Conflict(f"{path} is not as its download has left it: --force begins anew")

    def _adopt(self, found: Journal) -> None:
        self._record = found
        self._covered_ms, self._collected = found.covered_ms, found.collected

    def _put(self, **changes: object) -> None:
        assert self._record is not None  # noqa: S101
        record = self._record.model_copy(update=changes)
        journal.write(self.paths.progress, record)
        self._record = record

    def _replace(self, record: Journal, stretch: Stretch) -> None:
        whole = self._made(record, stretch)
        candidate = self.paths.part if self._is_the_part(record) else self.paths.new
        self._put(part=None, file=whole)
        self._name(candidate)

    def _made(self, record: Journal, stretch: Stretch) -> Whole:
        """The next file, on the disk, read back from there, and the same as what was checked block by block."""
        out, part, new, _ = self.paths
        fetched = measured(part)
        if (fetched.size_bytes, fetched.crc32) != (stretch.size_bytes, stretch.crc32):
            raise self._changed(part)
        if self._is_the_part(record):
            return fetched
        base = None
        if record.file is not None:
            base = out
            if not is_still(out, record.file):
                raise self._changed(out)
        try:
            if self.request.form is Form.PARQUET:
                parquet.write(self.request, base, part, new)
            else:
                joined(out, part, new)
            return measured(new)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _is_the_part(self, record: Journal) -> bool:
        return record.file is None and self.request.form is not Form.PARQUET

    def _name(self, candidate: Path) -> None:
        candidate.replace(self.paths.out)
        journal.sync_directory(self.paths.out)
