"""The dashboards are what Grafana publishes as their type: no misspelt option, no word that it does not know."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import orjson
import pytest

from tests import npm
from tests.observability.boards import FILES, WRITTEN, Json

PACKAGES: Final = Path(__file__).parent / "grafana"
_SECONDS: Final = 90
_OPTIONS: Final = (
    "--noEmit",
    "--strict",
    "--skipLibCheck",
    *("--module", "esnext"),
    *("--moduleResolution", "bundler"),
    *("--target", "es2022"),
)

WHY_NOT: Final = npm.missing("the types of the dashboards are")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")


def complaints(boards: dict[str, Json]) -> str:
    """What TypeScript says of them; empty when they fit."""
    directory = npm.installed(PACKAGES, "grafana")
    with TemporaryDirectory(dir=directory, prefix="run-") as run:
        shutil.copy(PACKAGES / "types.ts", run)
        sources = []
        for name, board in boards.items():
            source = Path(run) / f"{name}.ts"
            text = orjson.dumps(board, option=orjson.OPT_INDENT_2).decode()
            source.write_text(
                f"import type {{ Written }} from './types';\n\nexport const dashboard: Written = {text};\n"
            )
            sources.append(str(source))
        done = subprocess.run(
            ["node", str(directory / "node_modules" / "typescript" / "bin" / "tsc"), *_OPTIONS, *sources],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    assert (done.returncode == 0) == (not done.stdout), done.stderr
    return done.stdout


def test_the_dashboards_have_grafanas_own_type() -> None:
    assert complaints({name.removesuffix(".json"): WRITTEN[name] for name in FILES}) == ""


def test_what_does_not_fit_is_found() -> None:
    """An option of another kind of panel, a misspelt one, a word that is none: the types are not too loose to tell."""
    wrong: dict[str, Json] = {}
    for name, (kind, place, key, value) in {
        "foreign": ("timeseries", "options", "graphMode", "area"),
        "misspelt": ("timeseries", "fieldConfig", "overides", []),
        "unknown": ("stat", "options", "colorMode", "loud"),
    }.items():
        board = orjson.loads(orjson.dumps(WRITTEN["performance.json"]))
        panel = next(panel for panel in board["panels"] if panel["type"] == kind)
        panel[place][key] = value
        wrong[name] = board

    told = complaints(wrong)

    assert all(f"{name}.ts(" in told for name in wrong), told
