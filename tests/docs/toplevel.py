"""Runs a Python block of a page, which may await at its top: `python -m tests.docs.toplevel FILE`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from pathlib import Path


def main() -> None:
    path = Path(sys.argv[1])
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"__name__": "__main__", "__file__": str(path)}
    made = eval(code, names)  # noqa: S307  # the page's own program
    if inspect.iscoroutine(made):
        asyncio.run(made)


if __name__ == "__main__":
    main()
