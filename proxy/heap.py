"""What fills the memory, for people: objects by their types, and, while it is traced, bytes by the lines of code.

Type names, counts, sizes, places in the code; never a value.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from typing import Any, Final

_SHOWN: Final = 20
_AT_ONCE: Final = 10_000
_MOST: Final = 2_000_000
_OWN: Final = (tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__),)


async def types() -> dict[str, Any]:
    """The most frequent types of what the garbage collector knows; others (numbers, texts) it does not know.

    To list them holds up everything else, for about 20 ms for each million; they are counted in small parts.
    """
    known = gc.get_objects()
    counted = known[:_MOST]
    whole = len(counted) == len(known)
    del known
    found: Counter[type] = Counter()
    while counted:
        found.update(map(type, counted[-_AT_ONCE:]))
        del counted[-_AT_ONCE:]
        await asyncio.sleep(0)
    rows = [{"type": _name(kind), "count": count} for kind, count in found.most_common(_SHOWN)]
    return {"counted": found.total(), "whole": whole, "types": rows}


def lines() -> list[dict[str, Any]]:
    """Where most of what was allocated since the trace began, and is still there, was allocated. For a thread: with
    many traces it takes seconds."""
    try:
        taken = tracemalloc.take_snapshot().filter_traces(_OWN)
    except RuntimeError:  # it was stopped in the same moment
        return []
    return [
        {
            "at": f"{_place(each.traceback[0].filename)}:{each.traceback[0].lineno}",
            "bytes": each.size,
            "blocks": each.count,
        }
        for each in taken.statistics("lineno")[:_SHOWN]
    ]


def _name(kind: type) -> str:
    module = kind.__module__
    plain = module == "builtins" or not isinstance(module, str)  # a class may have something else under that name
    return kind.__qualname__ if plain else f"{module}.{kind.__qualname__}"


def _place(file: str) -> str:
    """As much of a path as a reader needs."""
    return "/".join(file.replace("\\", "/").split("/")[-3:])
