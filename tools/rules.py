"""python -m tools.rules: put the rules of deploy/prometheus where Kubernetes takes them from, comments and all.

For kustomize an object for each file, because a name of a group may stand in both; for the Helm chart the files
themselves, which its template takes in as they are: the braces in them are Prometheus' templates, and none of Helm's.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

_DEPLOY: Final = Path(__file__).parents[1] / "deploy"
SOURCES: Final = {name: _DEPLOY / "prometheus" / f"{name}.yml" for name in ("recording", "alerts")}
OBJECTS: Final = _DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrules.yaml"
CHART: Final = _DEPLOY / "helm" / "bybit-gateway" / "files"

_ORIGIN: Final = "# Written by `python -m tools.rules` from deploy/prometheus: change it there.\n"
_OBJECT: Final = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: bybit-gateway-{name}
  labels:
    app.kubernetes.io/name: bybit-gateway
spec:
{rules}"""


def files() -> dict[Path, str]:
    """What stands in each file that is made of them."""
    texts = {name: source.read_text() for name, source in SOURCES.items()}
    objects = [_OBJECT.format(name=name, rules=textwrap.indent(text, "  ")) for name, text in texts.items()]
    charted = {CHART / f"{name}.yaml": _ORIGIN + text for name, text in texts.items()}
    return {OBJECTS: _ORIGIN + "---\n".join(objects), **charted}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
