"""docs/dashboards.md: what each panel answers, in the words that it has in Grafana."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tools.dashboards.parts import Board

_HEAD: Final = """\
# Dashboards

Four dashboards for Grafana 11 or newer, with {panels} panels; they need the metrics of [metrics.md](metrics.md) in a
Prometheus, and nothing else: no recording rules, no plug-ins. This page is made by `make dashboards`.

{contents}

Above each one chooses the data source, the instances, and where it matters routes and tiers. The four lead to each
other and keep the time and the choices. Bans, reloads and restarts are marked in every plot; thresholds of the alerts
([runbook.md](runbook.md)) are drawn as dashed lines.

**Import by hand**: *Dashboards, New, Import*, and one file of
[deploy/grafana/dashboards](../deploy/grafana/dashboards).

**Provisioned**: put these where Grafana looks, and say in the first where your Prometheus is.

| file | goes to |
|---|---|
| `deploy/grafana/provisioning/datasources/prometheus.yml` | `/etc/grafana/provisioning/datasources/` |
| `deploy/grafana/provisioning/dashboards/gateway.yml` | `/etc/grafana/provisioning/dashboards/` |
| `deploy/grafana/dashboards/*.json` | `/var/lib/grafana/dashboards/` |

`timeInterval` in the first must be the `scrape_interval` of Prometheus: all rates are over `$__rate_interval`, which is
four of them or more.

**Changing one.** The JSON is made from [tools/dashboards](../tools/dashboards): change a panel there,
`make dashboards`, and commit both. What is changed in a provisioned dashboard in the browser is not kept.

**Rare events.** A counter with labels comes into being with its first event, which `increase()` does not see. Where
that matters the queries add it; so where Prometheus begins to look at a gateway that has been running for long, these
plots begin with all that happened before. Where figures are per ten minutes, as their alerts are, a plot of more than a
week or so passes over some of them.

## What was verified, and what was not

`make test` asks a real Prometheus (2.42) every query of every panel, variable and annotation. It has scraped a gateway
through errors, waits, refusals, a ban, reloads and a spell of too much to do. Each query must find an answer with the
labels that its legend names; what finds none there is listed with its reason in
[test_dashboards_live.py](../tests/observability/test_dashboards_live.py). Metrics and labels are compared with the
registry, lines with the alerts. The files fit the types that Grafana 13.2 publishes (`@grafana/schema`), with the
options of each kind of panel.

**Not verified**: how it looks. No Grafana has drawn these yet, and none has read the provisioning.
"""


def as_markdown(boards: Iterable[Board]) -> str:
    boards = tuple(boards)
    contents = "\n".join(f"- [{board.title.partition(': ')[2]}](#{_anchor(board)}): {board.tells}" for board in boards)
    panels = sum(len(section.panels) for board in boards for section in board.sections)
    return _HEAD.format(panels=panels, contents=contents) + "".join(_tables(boards))


def _tables(boards: Iterable[Board]) -> Iterator[str]:
    for board in boards:
        yield f"\n## {_heading(board)}\n"
        for section in board.sections:
            yield f"\n### {section.title}\n\n| panel | what it tells | alerts |\n|---|---|---|\n"
            for panel in section.panels:
                alerts = ", ".join(f"[{alert}](runbook.md#{alert.lower()})" for alert in panel.alerts)
                yield f"| {panel.title} | {panel.tells} | {alerts} |\n"


def _heading(board: Board) -> str:
    return board.title.partition(": ")[2].capitalize()


def _anchor(board: Board) -> str:
    return _heading(board).lower().replace(" ", "-")
