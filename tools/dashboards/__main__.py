"""python -m tools.dashboards: write deploy/grafana/dashboards/*.json and docs/dashboards.md."""

from __future__ import annotations

from tools.dashboards import BOARDS, DIRECTORY, PAGE, as_markdown, text

for board in BOARDS:
    (DIRECTORY / f"{board.name}.json").write_text(text(board, BOARDS))
PAGE.write_text(as_markdown(BOARDS))
