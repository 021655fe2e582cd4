"""The files of a download: whatever interrupts it, what is recorded is there, and the end is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from policies.collected import Collected
from policies.segments import open_of_slot
from proxy.download import journal, text
from proxy.download.journal import Conflict
from proxy.download.request import Form, Kind, Request
from proxy.download.target import Paths, Target

MINUTE = 60_000
BEGIN = 1_735_689_600_000
FORMS = list(Form)


def request(form: Form, *, to_ms: int | None = BEGIN + 40 * MINUTE, **changes: Any) -> Request:
    made = Request(
        kind=Kind.KLINE, category="linear", symbol="BTCUSDT", interval="1", from_ms=BEGIN, to_ms=to_ms, form=form
    )
    return made.model_copy(update=changes)


def lines(slots: range) -> tuple[bytes, list[int]]:
    opens = [BEGIN + slot * MINUTE for slot in slots]
    return b"".join(b"%d,%d.50,2,1,1.5,10,15.0\n" % (open_ms, open_ms % 1000) for open_ms in opens), opens


def fetch(target: Target, until: int, save: Callable[[int], bool] = lambda _: True) -> None:
    """Ten minutes at a time, from wherever it stands."""
    written = text.writer(target.request)
    while (slot := (target.covered_ms - BEGIN) // MINUTE) < until:
        end = min(slot // 10 * 10 + 10, until)
        put, opens = lines(range(slot, end))
        collected = target.collected.further("1", opens)
        target.add(written(put), open_of_slot("1", (BEGIN + end * MINUTE) // MINUTE), collected)
        if save(end):
            target.save()


def downloaded(paths: Paths, asked: Request, until: int = 40, **how: bool) -> Target:
    target = Target(paths, asked, "http://exchange")
    target.begin(**how)
    fetch(target, until)
    target.finish()
    return target


def names(paths: Paths) -> list[str]:
    return sorted(path.name for path in paths.out.parent.iterdir())


class Killed(BaseException):
    """SIGKILL: nobody tidies up after it."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The process ends before its step-th change of the disk, or in the middle of it when that is a write."""
    done: list[str] = []

    def counted(name: str, call: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            if len(done) >= step:
                if half is not None and len(done) == step:
                    half(*arguments)
                raise Killed
            return call(*arguments, **options)

        return instead

    def half_of_it(descriptor: int, data: Any, at: int) -> None:
        pwrite(descriptor, bytes(data)[: len(data) // 2], at)

    opened: set[int] = set()

    def opening(*arguments: Any) -> int:
        opened.add(descriptor := os_open(*arguments))
        return descriptor

    def closing(descriptor: int) -> None:
        opened.discard(descriptor)
        os_close(descriptor)

    pwrite, os_open, os_close = os.pwrite, os.open, os.close
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opening)
        patch.setattr(os, "close", closing)
        patch.setattr(os, "fsync", counted("fsync", os.fsync))
        patch.setattr(os, "pwrite", counted("write", pwrite, half_of_it))
        patch.setattr(os, "ftruncate", counted("truncate", os.ftruncate))
        patch.setattr(Path, "replace", counted("rename", Path.replace))
        patch.setattr(Path, "unlink", counted("unlink", Path.unlink))
        with suppress(Killed):
            yield done
    for descriptor in opened:  # the system closes what the process had open, and lets go of its locks
        os_close(descriptor)


def dies(target: Target) -> None:
    """As its process does: nobody tidies up."""
    assert target._part is not None
    os.close(target._part._descriptor)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("append", [False, True], ids=["from the beginning", "to a file that is there"])
def test_killed_at_any_instant_the_next_one_makes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, append: bool
) -> None:
    """Every change of the disk in turn is the last one; then it is killed once more while it recovers."""
    asked = request(form, to_ms=None)
    (tmp_path / "whole").mkdir()
    whole = Paths.of(tmp_path / "whole" / "out")
    if append:
        downloaded(whole, asked, 20)
    downloaded(whole, asked, 40)
    expected = whole.out.read_bytes()

    step, killed = 0, True
    while killed:
        step += 1
        place = tmp_path / f"{step}"
        place.mkdir()
        paths = Paths.of(place / "out")
        if append:
            downloaded(paths, asked, 20)
            before = paths.out.read_bytes()
        changes = []
        for at in (step, 3):
            with killed_at(at, monkeypatch) as done:
                target = Target(paths, asked, "http://exchange")
                target.begin()
                fetch(target, 40)
                target.finish()
            changes.append(done)
            if append:  # there is always a whole file
                assert paths.out.read_bytes() in {before, expected}
            elif paths.out.exists():
                assert paths.out.read_bytes() == expected
        killed = len(changes[0]) >= step

        target = downloaded(paths, asked, 40)
        assert paths.out.read_bytes() == expected
        assert target.collected == Collected(40, BEGIN, BEGIN + 39 * MINUTE)
        assert names(paths) == ["out", "out.progress"]
    assert step > 15


@pytest.mark.parametrize("form", FORMS)
def test_what_a_record_or_a_name_promises_is_on_the_disk_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    """A machine that loses its power keeps what was synced, and the rest in any order or not at all."""
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(form, to_ms=None), 20)
    with killed_at(1_000, monkeypatch) as done:
        downloaded(paths, request(form, to_ms=None), 40)

    assert done.count("write") == 2
    assert done.count("rename") == 2 + 1 + 1  # the record each time it was saved, and at the end; then the file
    for at, change in enumerate(done):
        if change == "write":
            assert done[at + 1 : at + 5] == ["fsync", "fsync", "rename", "fsync"]  # the part; the record, its name
        if change == "rename":
            assert (done[at - 1], done[at + 1]) == ("fsync", "fsync")


@pytest.mark.parametrize("form", FORMS)
def test_what_a_kill_left_behind_the_record_is_cut_off(tmp_path: Path, form: Form) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(form), None)
    target.begin()
    fetch(target, 20)
    dies(target)
    with paths.part.open("ab") as part:
        part.write(b"1735690800000,1.5,2,1" * 1_000)

    resumed = Target(paths, request(form), None)
    resumed.begin()
    assert resumed.covered_ms == BEGIN + 20 * MINUTE
    fetch(resumed, 40)
    resumed.finish()

    other = Paths.of(tmp_path / "other")
    downloaded(other, request(form))
    assert paths.out.read_bytes() == other.out.read_bytes()


def test_what_was_not_saved_is_fetched_again_and_nothing_more(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(Form.CSV), None)
    target.begin()
    fetch(target, 30, save=lambda end: end == 10)
    assert target.held_bytes > 0
    dies(target)

    resumed = Target(paths, request(Form.CSV), None)
    resumed.begin()
    assert resumed.covered_ms == BEGIN + 10 * MINUTE
    assert resumed.collected.rows == 10
    resumed.close()


def test_a_finished_file_stands_and_is_known_by_its_content_when_its_time_has_changed(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(Form.CSV))
    assert Target(paths, request(Form.CSV), "http://exchange").stands()

    os.utime(paths.out, (1, 1))
    assert Target(paths, request(Form.CSV), "http://exchange").stands()

    changed = paths.out.read_bytes().replace(b"1.5", b"1.6", 1)
    paths.out.write_bytes(changed)
    assert not Target(paths, request(Form.CSV), None).stands()
    with pytest.raises(Conflict, match="is not as its download has left it: --force"):
        Target(paths, request(Form.CSV), None).begin()
    assert paths.out.read_bytes() == changed


@pytest.mark.parametrize("form", FORMS)
def test_a_file_without_candles_is_a_file_too(tmp_path: Path, form: Form) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(form), None)
    target.begin()
    target.add(b"", BEGIN + 40 * MINUTE, Collected())
    target.finish()

    match form:
        case Form.CSV:
            assert paths.out.read_bytes() == b"start,open,high,low,close,volume,turnover\n"
        case Form.NDJSON:
            assert paths.out.read_bytes() == b""
        case Form.PARQUET:
            assert parquet.read_table(paths.out).num_rows == 0
    assert Target(paths, request(form), None).stands()


def test_an_open_end_that_brings_nothing_new_leaves_the_file_alone(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(Form.CSV, to_ms=None), 20)
    before = paths.out.stat()
    target = Target(paths, request(Form.CSV, to_ms=None), None)
    assert not target.stands()  # who wants all until now has to ask what now is
    target.begin()
    target.add(b"", BEGIN + 30 * MINUTE, target.collected)
    target.finish()

    assert paths.out.stat() == before
    again = Target(paths, request(Form.CSV, to_ms=None), None)
    again.begin()
    assert again.covered_ms == BEGIN + 30 * MINUTE
    again.close()
    assert names(paths) == ["out", "out.progress"]


def test_a_place_where_nothing_was_put_is_left_as_it_was_found(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(Form.CSV), None)
    target.begin()
    target.close()
    assert names(paths) == []

    downloaded(paths, request(Form.CSV, to_ms=None), 20)
    target = Target(paths, request(Form.CSV, to_ms=None), None)
    target.begin()
    target.close()
    assert names(paths) == ["out", "out.progress"]


def test_nothing_of_somebody_else_is_overwritten_unless_forced(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    paths.out.write_bytes(b"precious")
    with pytest.raises(Conflict, match="no record of a download beside it: --force replaces it"):
        Target(paths, request(Form.CSV), None).begin()
    with pytest.raises(Conflict):
        Target(paths, request(Form.CSV), None).stands()
    assert names(paths) == ["out"]

    target = Target(paths, request(Form.CSV), None)
    target.begin(force=True)
    fetch(target, 30)
    dies(target)
    assert paths.out.read_bytes() == b"precious"  # until there is something better
    downloaded(paths, request(Form.CSV))  # the force was for the whole of it
    assert paths.out.read_bytes().startswith(b"start,open")

    paths.part.write_bytes(b"precious")
    paths.progress.unlink()
    paths.out.unlink()
    with pytest.raises(Conflict, match=r"out\.part is there, and no record"):
        Target(paths, request(Form.CSV), None).begin()
    assert paths.part.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"symbol": "ETHUSDT"}, "symbol BTCUSDT, not ETHUSDT"),
        ({"interval": "5"}, "interval 1, not 5"),
        ({"category": "spot"}, "category linear, not spot"),
        ({"kind": Kind.MARK}, "kind kline, not mark-price-kline"),
        ({"form": Form.NDJSON}, "form csv, not ndjson"),
        ({"from_ms": BEGIN + MINUTE}, "from 2025-01-01, not 2025-01-01 00:01"),
        ({"to_ms": BEGIN + 20 * MINUTE}, "to 2025-01-01 00:40, not 2025-01-01 00:20"),
    ],
)
def test_another_request_for_the_same_file_is_told_what_differs(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(Form.CSV))
    before = paths.out.read_bytes()
    other = request(Form.CSV).model_copy(update=changes)
    for _ in range(2):
        with pytest.raises(Conflict) as error:
            Target(paths, other, None).begin()
        assert words in str(error.value)
        assert "--force" in str(error.value)
        assert "--extend" not in str(error.value)
    assert paths.out.read_bytes() == before

    downloaded(paths, other, force=True)
    assert Target(paths, other, None).stands()


def test_a_later_end_is_an_extension_when_that_is_said(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(Form.CSV, to_ms=BEGIN + 20 * MINUTE), 20)
    with pytest.raises(Conflict, match="--extend goes on from there"):
        Target(paths, request(Form.CSV), None).begin()
    downloaded(paths, request(Form.CSV), extend=True)

    other = Paths.of(tmp_path / "other")
    downloaded(other, request(Form.CSV))
    assert paths.out.read_bytes() == other.out.read_bytes()
    assert Target(paths, request(Form.CSV), None).stands()


def test_two_exchanges_are_never_mixed_in_one_file(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    downloaded(paths, request(Form.CSV, to_ms=None), 20)
    with pytest.raises(Conflict, match="comes from http://exchange, not from http://testnet"):
        Target(paths, request(Form.CSV, to_ms=None), "http://testnet").begin()
    unknown = Target(paths, request(Form.CSV, to_ms=None), None)  # through a gateway, whose exchange is not known
    unknown.begin()
    unknown.close()


def test_two_downloads_never_write_one_file(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    first = Target(paths, request(Form.CSV), None)
    first.begin()
    with pytest.raises(Conflict, match="another download is writing"):
        Target(paths, request(Form.CSV), None).begin()
    with pytest.raises(Conflict, match="another download is writing"):
        Target(paths, request(Form.CSV), None).begin(force=True)
    fetch(first, 40)
    first.finish()
    assert Target(paths, request(Form.CSV), None).stands()


def test_a_disk_that_is_full_spoils_nothing_that_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(Form.CSV), None)
    target.begin()
    fetch(target, 10)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(target, 20)
    with pytest.raises(OSError, match="No space left"):  # what it held is lost: nothing may be put behind that
        fetch(target, 30)
    with pytest.raises(OSError, match="No space left"):
        target.finish()
    target.close()

    downloaded(paths, request(Form.CSV))
    other = Paths.of(tmp_path / "other")
    downloaded(other, request(Form.CSV))
    assert paths.out.read_bytes() == other.out.read_bytes()


def test_a_part_that_was_damaged_is_not_gone_on_with(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path / "out")
    target = Target(paths, request(Form.CSV), None)
    target.begin()
    fetch(target, 20)
    dies(target)
    damaged = bytearray(paths.part.read_bytes())
    damaged[100] ^= 1
    paths.part.write_bytes(damaged)

    with pytest.raises(Conflict, match=r"out\.part is not as its download has left it"):
        Target(paths, request(Form.CSV), None).begin()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"bybit_gateway_download":2}', b"\xff"])
def test_a_record_that_cannot_be_read_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    paths = Paths.of(tmp_path / "out")
    paths.progress.write_bytes(content)
    with pytest.raises(Conflict, match="is not the record of a download"):
        Target(paths, request(Form.CSV), None).begin()
    assert journal.Journal.model_fields.keys() >= {"request", "covered_ms", "part", "file"}
