"""The house stands as it was drawn: borders, rooms, words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "policies").rglob("*.py"), *(ROOT / "proxy").rglob("*.py")])
POLICIES = sorted((ROOT / "policies").rglob("*.py"))
CALLS_THAT_ACT = {"open", "input", "print", "exec", "eval"}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", POLICIES, ids=names(POLICIES))
def test_policies_never_await_and_never_act(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS_THAT_ACT, f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_every_room_has_a_sign_at_its_door(path: Path) -> None:
    """A module says in its first lines what it is for."""
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_no_room_holds_two_ideas(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_exchanges_numbers_have_one_room() -> None:
    """Codes and header names of the exchange are spelled out in policies/bybit.py and nowhere else."""
    spelled = re.compile(r"\b(10006|10016|10001|10002|10004)\b|X-BAPI-|X-Bapi-", re.IGNORECASE)
    allowed = {"policies/bybit.py"}
    found = []
    for path in SOURCES:
        if str(path.relative_to(ROOT)) in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str | int):
                continue
            if not _is_prose(node.value) and spelled.search(str(node.value)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}")

    assert [line for line in found if "x-bapi-" not in line] == []
    assert all(line.startswith(("proxy/headers.py", "policies/bybit.py")) for line in found), found


def _is_prose(value: object) -> bool:
    """Docstrings and messages may speak of the exchange."""
    return isinstance(value, str) and " " in value


def test_importing_one_room_does_not_need_another_first() -> None:
    """Every module can be imported by itself: no hidden order, no cycles."""
    modules = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in SOURCES]
    modules = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] in ('proxy', 'policies')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", script, *modules], check=True, cwd=ROOT, timeout=100)


def test_the_lock_files_name_no_registry() -> None:
    """Versions and hashes only: whoever installs decides from where."""
    for path in ROOT.glob("requirements*.lock"):
        assert "://" not in path.read_text()
        assert "--hash=sha256:" in path.read_text()
    for path in (ROOT / "tests").rglob("package-lock.json"):
        assert '"resolved"' not in path.read_text()
