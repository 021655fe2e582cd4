"""The Grafana dashboards, described so that people can carry them on; `make dashboards` writes the files.

performance, cache, limits, system   the four dashboards: what is asked, and what the answer means
kinds     the panels they are made of
parts     what a dashboard is, in our words
looks     how a panel looks in Grafana;  written: the JSON;  page: docs/dashboards.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tools.dashboards.cache import CACHE
from tools.dashboards.limits import LIMITS
from tools.dashboards.page import as_markdown
from tools.dashboards.parts import Board
from tools.dashboards.performance import PERFORMANCE
from tools.dashboards.system import SYSTEM
from tools.dashboards.written import text

__all__ = ["BOARDS", "DIRECTORY", "PAGE", "as_markdown", "text"]

BOARDS: Final[tuple[Board, ...]] = (PERFORMANCE, CACHE, LIMITS, SYSTEM)
_ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = _ROOT / "deploy" / "grafana" / "dashboards"
PAGE: Final = _ROOT / "docs" / "dashboards.md"
