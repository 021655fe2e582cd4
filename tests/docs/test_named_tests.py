"""A page that says which test shows something names one that exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DEFINED: Final = frozenset(
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_test_that_a_page_names_exists(path: Path) -> None:
    """A test that is renamed or dropped must not leave a promise behind that nothing holds."""
    named = set(re.findall(r"`(test_\w+)`", path.read_text()))

    assert named <= DEFINED


def test_the_page_about_security_names_a_test_for_most_threats() -> None:
    """What nothing shows says so by an empty cell, and these are few."""
    table = (ROOT / "docs" / "security.md").read_text().partition("## Threats")[2].partition("## Hardening")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    shown = [row for row in rows if "`test_" in row[4]]

    assert len(shown) >= 0.75 * len(rows)
