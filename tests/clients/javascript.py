"""Node programs beside the clients they use, installed once from the lock file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.clients.chain import KEY, RECV_WINDOW_MS, REPOSITORY, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS: Final = Path(__file__).parent / "js"
SNIPPETS: Final = Path(__file__).parent / "snippets"

_CACHE: Final = REPOSITORY / ".make" / "js"
_PACKAGES: Final = ("package.json", "package-lock.json")
_INSTALL_S: Final = 240
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
    absent = [program for program in ("node", "npm") if shutil.which(program) is None]
    return f"{' and '.join(absent)} not found: the JavaScript clients are not tested" if absent else None


def installed() -> Node:
    """The clients of the lock file; `npm ci` runs when the lock file is not the one that was installed last."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(b"".join((PROGRAMS / name).read_bytes() for name in _PACKAGES)).hexdigest()
    stamp = _CACHE / "installed"
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers share the directory
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _install()
            stamp.write_text(wanted)
    return Node(_CACHE)


def _install() -> None:
    for name in _PACKAGES:
        shutil.copyfile(PROGRAMS / name, _CACHE / name)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        check=False,
        cwd=_CACHE,
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
    )
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
