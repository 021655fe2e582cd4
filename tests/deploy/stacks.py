"""The compose files as they are, without an engine: services with what they extend, and the variables in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE: Final = ROOT / "deploy" / "compose"
STACKS: Final = ("compose.yaml", "compose.redis.yaml", "compose.dev.yaml", "compose.scale.yaml")

_VARIABLE: Final = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")
Service = dict[str, Any]


def document(stack: str) -> dict[str, Any]:
    told = yaml.safe_load((COMPOSE / stack).read_text(encoding="utf-8"))
    assert isinstance(told, dict)
    return told


def services(stack: str) -> dict[str, Service]:
    """By name, each whole: what it extends lies below what it says itself."""
    return {name: _whole(service) for name, service in document(stack)["services"].items()}


def every_service() -> Iterator[tuple[str, str, Service]]:
    for stack in STACKS:
        for name, service in services(stack).items():
            yield stack, name, service


def variables() -> dict[str, str]:
    """Every variable of the compose files with its default, which is the same wherever it is used."""
    found: dict[str, str] = {}
    for stack in STACKS:
        text = re.sub(r"(?m)^\s*#.*$", "", (COMPOSE / stack).read_text(encoding="utf-8")).replace("$$", "")
        assert len(re.findall(r"\$\{?[A-Za-z_]", text)) == len(_VARIABLE.findall(text)), f"{stack}: one has no default"
        for name, default in _VARIABLE.findall(text):
            assert found.setdefault(name, default) == default, f"{name} has two defaults"
    return found


def filled_in(text: str) -> str:
    """With the defaults of the variables."""
    return _VARIABLE.sub(lambda found: found[2], text)


def _whole(service: Service) -> Service:
    base = service.get("extends")
    own = {name: value for name, value in service.items() if name != "extends"}
    if base is None:
        return own
    return _over(_whole(document(base["file"])["services"][base["service"]]), own)


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        both = {name: _over(below[name], above[name]) for name in below.keys() & above.keys()}
        return {**below, **above, **both}
    return above
