"""The FAQ has every word by which the gateway can name a reason in X-Gateway, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_SECOND: Final = frozenset({"_answer", "plain", "Malformed", "Unanswered"})
"""Whose second argument is the word; of the next ones it is the first, of the last the fourth, behind `bad-`."""
_FIRST: Final = frozenset({"NotSent", "FateUnknown", "BrokenAnswer", "BadClock"})
_FOURTH: Final = frozenset({"wanted"})
_WHOLE: Final = {"upstream.py": "_name", "errors.py": "reason_of"}
"""Functions whose every text is a word."""
OF_SINGLE_PAGES: Final = frozenset({"not-counted", "too-many-rows", "too-many-viewers"})
"""Told where it happens, in words that say enough."""


def words_of(path: Path) -> Iterator[str]:
    """Words that a module can put into X-Gateway."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = 1 if name in _SECOND else 0 if name in _FIRST else 3 if name in _FOURTH else None
            if place is None or len(node.args) <= place:
                continue
            word = node.args[place]
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                yield f"bad-{word.value}" if name in _FOURTH else word.value
        elif isinstance(node, ast.FunctionDef) and node.name == _WHOLE.get(path.name):
            yield from (each.value for each in ast.walk(node) if _is_word(each))
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            header, word = node.elts
            if isinstance(header, ast.Constant) and header.value == b"X-Gateway" and isinstance(word, ast.Constant):
                yield word.value.decode()
        elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "REASON":
            assert isinstance(node.value, ast.Constant)
            yield node.value.value.decode()


def _is_word(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(re.fullmatch("[a-z-]+", node.value))


SAID: Final = frozenset(word for path in (ROOT / "proxy").rglob("*.py") for word in words_of(path))


def test_the_faq_has_every_reason_that_the_gateway_can_give() -> None:
    """A new word in the code needs a line in docs/faq.md, and a word that is gone must go there too."""
    page = (ROOT / "docs" / "faq.md").read_text()
    table = page.partition("## The gateway says")[2].partition("## Bybit says")[0]
    told = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)

    assert len(told) == len(set(told))
    assert set(told) == SAID


def test_every_failure_has_its_shape_on_the_page_of_answers() -> None:
    """Status and body of what the gateway says in the place of the exchange stand in docs/answers.md."""
    pages = "".join(
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("answers", "marketdata", "usage", "status-page")
    )

    assert {word for word in SAID if not re.search(rf"`{word}`", pages)} <= OF_SINGLE_PAGES
