"""Packages for Node, installed once from a lock file and kept below .make."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

_KEPT: Final = Path(__file__).parents[1] / ".make"
_FILES: Final = ("package.json", "package-lock.json")
_INSTALL_S: Final = 240


def missing(what: str) -> str | None:
    """Why nothing can run here, or None; `what` is then not tested."""
    absent = [program for program in ("node", "npm") if shutil.which(program) is None]
    return f"{' and '.join(absent)} not found: {what} not tested" if absent else None


def installed(wanted: Path, name: str) -> Path:
    """A directory with the packages of `wanted`; `npm ci` runs when its lock file is not the one installed last."""
    directory = _KEPT / name
    directory.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(b"".join((wanted / file).read_bytes() for file in _FILES)).hexdigest()
    stamp = directory / "installed"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers share the directory
        if not stamp.exists() or stamp.read_text() != mark:
            stamp.unlink(missing_ok=True)
            _install(wanted, directory)
            stamp.write_text(mark)
    return directory


def _install(wanted: Path, directory: Path) -> None:
    for file in _FILES:
        shutil.copyfile(wanted / file, directory / file)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        check=False,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
    )
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
