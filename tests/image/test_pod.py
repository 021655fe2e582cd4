"""The sidecar's pod as kustomize renders it, in containers of a real engine, with a fake exchange in its network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendered import ROOT, overlay
from tests.image.engine import Container, Engine
from tests.image.pod import Pod

_EXCHANGE = "http://127.0.0.1:9443"


@pytest.fixture
def exchange(engine: Engine, image: str) -> Iterator[Container]:
    """The pod's network, of which nothing leads outside, and the exchange in it."""
    command = ("-m", "tests.fake_bybit", "--port", "9443")
    options = ("--network=none", "--volume", f"{ROOT}:/repository:ro", "--workdir=/repository", "--entrypoint=python")
    with engine.running(*command, image=image, options=options) as container:
        container.wait_until(lambda: "ready" in container.logs()[0], "ready")
        yield container


def said(bot: Container, what: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in bot.logs()[0].splitlines() if line.startswith("{")]
    return [line for line in lines if line["bot"] == what]


def state_file(gateway: Container) -> str:
    """Which one it is, for the file system."""
    find = "import glob, os; (f,) = glob.glob('/var/lib/bybit-gateway/bybit-gateway/*.json'); print(os.stat(f).st_ino)"
    return gateway.execute("python", "-c", find).stdout


@pytest.mark.timeout(400)
def test_a_sidecar_and_its_bot_run_together_as_the_manifest_says(
    engine: Engine, image: str, exchange: Container, tmp_path: Path
) -> None:
    """Started, killed and stopped in the order in which the kubelet does it."""
    pod = Pod(engine, image, overlay("sidecar"), tmp_path, exchange)
    gateway = pod.container("gateway")
    upstream = {"GATEWAY__UPSTREAM__URL": _EXCHANGE}
    with ExitStack() as stack:
        first = stack.enter_context(pod.running("gateway", upstream))
        first.wait_until(lambda: pod.passes(gateway, "startupProbe"), "started")
        bot = stack.enter_context(pod.running("bot"))
        bot.wait_until(lambda: len(said(bot, "asked")) >= 2, "asking")
        assert {line["retCode"] for line in said(bot, "asked")} == {0}
        assert [pod.passes(gateway, probe) for probe in ("livenessProbe", "readinessProbe")] == [True, True]
        assert said(bot, "failed") == []
        kept = state_file(first)

        # The gateway dies: the bot goes on, and finds the next one, which knows what the exchange still counts.
        engine.docker("kill", "--signal=KILL", first.id)
        bot.wait_until(lambda: bool(said(bot, "failed")), "refused")
        second = stack.enter_context(pod.running("gateway", upstream))
        second.wait_until(lambda: pod.passes(gateway, "startupProbe"), "started")
        before = len(said(bot, "asked"))
        bot.wait_until(lambda: len(said(bot, "asked")) > before, "asking again")
        assert state_file(second) == kept

        # The pod ends: the bot first, with a last request, and then the gateway.
        assert bot.stop(60) == 0
        assert [line["retCode"] for line in said(bot, "last")] == [0]
        assert second.stop(100) == 0
        assert second.events()[-1]["event"] == "stopped"


def test_the_probes_of_a_sidecar_fail_where_there_is_no_gateway(
    engine: Engine, image: str, exchange: Container, tmp_path: Path
) -> None:
    """Else the test above would show nothing."""
    pod = Pod(engine, image, overlay("sidecar"), tmp_path, exchange)

    assert not pod.passes(pod.container("gateway"), "startupProbe")
