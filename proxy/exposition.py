"""Metrics as text: Prometheus' own format, or OpenMetrics for who asks for it, where exemplars name traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition

_OPEN: Final = "application/openmetrics-text"
_VERSIONS: Final = frozenset({"", "0.0.1", "1.0.0"})


class Form(NamedTuple):
    content_type: bytes
    write: Callable[[CollectorRegistry], bytes]


def _open_metrics(registry: CollectorRegistry) -> bytes:
    text: bytes = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


PLAIN: Final = Form(CONTENT_TYPE_LATEST.encode(), generate_latest)
OPEN: Final = Form(exposition.CONTENT_TYPE_LATEST.encode(), _open_metrics)


def form_for(accept: str) -> Form:
    """By an Accept header. OpenMetrics only for who names it, in a version that is known, and likes it no less."""
    best = {_OPEN: 0.0, "text/plain": 0.0}
    for item in accept.lower().split(","):
        kind, *params = (part.strip() for part in item.split(";"))
        said = dict(param.partition("=")[::2] for param in params)
        if kind in best and (kind != _OPEN or said.get("version", "").strip('"') in _VERSIONS):
            best[kind] = max(best[kind], _quality(said.get("q", "1")))
    return OPEN if best[_OPEN] > 0 and best[_OPEN] >= best["text/plain"] else PLAIN


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
