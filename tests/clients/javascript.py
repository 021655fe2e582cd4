"""Node programs beside the clients they use, installed once from the lock file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests import npm
from tests.clients.chain import KEY, RECV_WINDOW_MS, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS: Final = Path(__file__).parent / "js"
SNIPPETS: Final = Path(__file__).parent / "snippets"

_RUN_S: Final = 90


@dataclass(frozen=True)
class Node:
    """A directory in which `import` finds the clients."""

    directory: Path

    def run(self, program: Path, environment: Mapping[str, str]) -> str:
        """What the program prints. A copy of it runs, below node_modules: that is where imports are looked for."""
        with tempfile.TemporaryDirectory(dir=self.directory, prefix="run-") as name:
            for each in (program, PROGRAMS / "conversation.mjs"):
                shutil.copy(each, name)
            done = subprocess.run(
                ["node", str(Path(name) / program.name)],
                check=False,
                capture_output=True,
                text=True,
                env={**os.environ, **environment},
                timeout=_RUN_S,
            )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def converse(self, name: str, base: str) -> dict[str, Any]:
        """How each operation of js/NAME ended."""
        account = {"API_KEY": KEY, "API_SECRET": SECRET, "RECV_WINDOW": str(RECV_WINDOW_MS)}
        ends = json.loads(self.run(PROGRAMS / name, {"BASE_URL": base, **account}))
        assert isinstance(ends, dict)
        return ends


def missing() -> str | None:
    """Why nothing can run here, or None."""
    return npm.missing("the JavaScript clients are")


def installed() -> Node:
    """The clients of the lock file."""
    return Node(npm.installed(PROGRAMS, "js"))
