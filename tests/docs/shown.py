"""What a page shows beside what was said: the words must be the same, the figures need not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

_NUMBER: Final = r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
_HEX: Final = r"(?=[0-9a-f]*\d)(?=[\d]*[a-f])[0-9a-f]{8,}"
_PIECES: Final = re.compile(
    r"(?P<exact>HTTP/\d(?:\.\d)? \d{3}|\"retCode\": ?\d+|fwd-status=\d+|\bexit \d+)"
    r"|(?P<anything>\.\.\.|…)"
    rf"|(?P<hex>\b{_HEX}\b)"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<space>\s+)"
    r"|(?P<word>.)",
    re.DOTALL,
)
_FREE: Final = {"anything": ".*", "hex": "[0-9a-f]{8,}", "number": _NUMBER, "space": r"\s+"}


def pattern(line: str) -> re.Pattern[str]:
    """Numbers, times and ids of random digits are free, an ellipsis is anything, all else is as it is shown."""
    pieces = (_FREE.get(match.lastgroup or "") or re.escape(match[0]) for match in _PIECES.finditer(line.strip()))
    return re.compile("".join(pieces))


def missing(shown: Iterable[str], said: str) -> str | None:
    """The first line that is shown and was not said, in this order; None: all were."""
    lines = iter([line.strip() for line in said.splitlines()])
    for line in shown:
        if line.strip() in {"...", "…"}:
            continue
        wanted = pattern(line)
        if not any(wanted.fullmatch(each) for each in lines):
            return line
    return None


def differs(shown: Any, real: Any, place: str = "") -> str | None:
    """What a page shows of an answer that is not so: names and types must be there, more may be. None: nothing.

    Null stands for "not known at present" and agrees with every type. Of lists the first elements are compared.
    """
    where = place or "the answer"
    match shown, real:
        case None, _:
            return None
        case _, None:
            return None
        case dict(), dict():
            return _differing_fields(shown, real, place)
        case list(), list():
            if shown and not real:
                return f"{where} is empty"
            return next(
                filter(None, (differs(*each, f"{place}[0]") for each in zip(shown[:1], real, strict=False))), None
            )
        case bool(), bool():
            return None
        case (bool(), _) | (_, bool()):
            return f"{where} is {real!r}, not {shown!r}"
        case (int() | float(), int() | float()):
            return None
        case str(), str():
            return None if pattern(shown).fullmatch(real) else f"{where} is {real!r}, not {shown!r}"
        case _:
            return f"{where} is {real!r}, not {shown!r}"


def _differing_fields(shown: dict[str, Any], real: dict[str, Any], place: str) -> str | None:
    for name, value in shown.items():
        if name == "...":
            continue
        if name not in real:
            return f"{place}.{name} is not in the answer".removeprefix(".")
        found = differs(value, real[name], f"{place}.{name}".removeprefix("."))
        if found is not None:
            return found
    return None
