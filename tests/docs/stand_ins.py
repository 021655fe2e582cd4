"""Commands that a test cannot type as they stand, and what is done in their place.

make run, make demo     are really run; only that the virtual environment is set up first is left out
make ANY OTHER          `make -n`: the target and its variables are known. The tests cannot run inside themselves
pip install, npm ...    compared with what the project declares and what is installed: nothing is downloaded
kubectl apply ...       a cluster is not to be had; `kubectl kustomize` is run
docker ...              needs an engine: tests/image takes such blocks from the page by their name
"""

from __future__ import annotations

import re
from typing import Final

_MAKE: Final = re.compile(r"(?m)(?<![\w/.-])make (?=[a-zA-Z-])")
_RUN: Final = re.compile(r"\bmake (?:run|demo)\b")
_NO_SETTING_UP: Final = "-o .venv/.run -o .venv/.dev -o .venv/.bench -o .venv/.deploy"
_INSTALL: Final = re.compile(r"(?m)(?:\.venv/bin/|python3? -m )?\b(?:pip|npm) install\b")
_PROGRAMS: Final = frozenset(
    {"curl", "jq", "promtool", "amtool", "nginx", "node", "psql", "kubectl", "helm", "openssl", "make", "redis-cli"}
)
_BEGIN: Final = r"(?m)(?:^|[|;&(]|\bsudo\b)\s*(?:\w+=\S*\s+)*"
"""Of a command: a variable may stand before it."""
_IN_A_CLUSTER: Final = re.compile(
    rf"{_BEGIN}(?:kubectl (?!kustomize\b)|helm (?:install|upgrade|uninstall|rollback|get|status)\b)"
)
_OF_AN_ENGINE: Final = re.compile(rf"{_BEGIN}docker(?:-compose)? ")
_OF_A_MACHINE: Final = re.compile(rf"{_BEGIN}(?:sudo|apt|apt-get|systemctl|ssh|scp|git) ")


def replaced(text: str) -> str:
    """The command that is typed."""
    if _INSTALL.search(text):
        return _INSTALL.sub("python -m tests.docs.installed", text)
    if _RUN.search(text):
        return _RUN.sub(lambda match: match[0].replace("make ", f"make {_NO_SETTING_UP} "), text)
    return _MAKE.sub(f"make -n {_NO_SETTING_UP} ", text)


def programs(text: str) -> list[str]:
    """Those of other people that the command needs."""
    return [name for name in sorted(_PROGRAMS) if re.search(rf"{_BEGIN}{name}\b", text)]


def beyond_reach(text: str) -> str | None:
    """Why it cannot be run here, whatever is installed."""
    if _IN_A_CLUSTER.search(text):
        return "needs a Kubernetes cluster, and none can run here"
    for found in (_OF_AN_ENGINE, _OF_A_MACHINE):
        if (match := found.search(text)) is not None:
            word = match[0].strip(" |;&(")
            raise AssertionError(f"{word!r} is not run by this test: say `by FILE, NAME` or `not run: REASON` above")
    return None
