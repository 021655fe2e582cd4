"""Which file is read: the one that --config names, else GATEWAY_CONFIG, else config.yaml here, else none."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.__main__ import main

NAMED = "limits: [{name: named, partition: [egress], quota: 5/1s, counts: upstream}]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose config.yaml has a rule of its own, and a file elsewhere that has another."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.yaml").write_text(NAMED.replace("named", "of-this-directory"))
    (tmp_path / "c.yaml").write_text(NAMED)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    return tmp_path


def test_the_environment_names_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", str(place / "c.yaml"))

    assert main(["check"]) == 0
    assert "limit named: 5 in 1s" in capsys.readouterr().out


def test_the_command_line_wins_over_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", "/nowhere/c.yaml")

    assert main(["check", "--config", str(place / "c.yaml")]) == 0
    assert "limit named: 5 in 1s" in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_file_of_the_working_directory_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("GATEWAY_CONFIG", value)

    assert main(["check"]) == 0
    assert "limit of-this-directory: 5 in 1s" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_told_with_the_variable_that_names_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """config.yaml of the working directory does not step in for it."""
    monkeypatch.setenv("GATEWAY_CONFIG", "/nowhere/c.yaml")

    assert main(["run"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "/nowhere/c.yaml: cannot be read: No such file or directory",
        "1 problem; nothing was started.",
        "GATEWAY_CONFIG names the file /nowhere/c.yaml.",
    ]
