"""The snippets that users copy: each prints a candle of the exchange when it is pointed at the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.javascript import SNIPPETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.chain import Chain
    from tests.clients.javascript import Node

pytestmark = pytest.mark.timeout(300)  # the first test may install the JavaScript clients


@pytest.fixture(scope="module")
def standing(chain: Chain) -> Chain:
    """One moment for all: the gateway may answer one client with the running candle that it fetched for another."""
    chain.clock.stand()
    return chain


def names(ending: str, *, streams: bool = False) -> list[str]:
    """Of programs that ask, or of those that listen (tests/clients/test_stream_snippets.py)."""
    listening = ("_stream_", "_pro_")
    return sorted(
        path.name for path in SNIPPETS.glob(ending) if any(each in path.name for each in listening) is streams
    )


def python(snippet: Path, base: str) -> str:
    done = subprocess.run(
        [sys.executable, str(snippet)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "GATEWAY_URL": base},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", names("*.py"))
def test_a_python_snippet_prints_the_exchanges_candle(name: str, standing: Chain) -> None:
    """Run as it stands, with nothing but GATEWAY_URL set."""
    directly = python(SNIPPETS / name, standing.direct_url)
    through = python(SNIPPETS / name, standing.gateway_url)
    assert through == directly
    assert through.startswith("[")


@pytest.mark.parametrize("name", names("*.mjs"))
def test_a_javascript_snippet_prints_the_exchanges_candle(name: str, standing: Chain, node: Node) -> None:
    """Run as it stands, with nothing but GATEWAY_URL set."""
    directly = node.run(SNIPPETS / name, {"GATEWAY_URL": standing.direct_url})
    through = node.run(SNIPPETS / name, {"GATEWAY_URL": standing.gateway_url})
    assert through == directly
    assert through.startswith("[")


@pytest.mark.parametrize("path", sorted(SNIPPETS.iterdir()), ids=lambda path: path.name)
def test_a_snippet_speaks_to_the_default_address(path: Path) -> None:
    """Without GATEWAY_URL it is the gateway's own default, and never the exchange by mistake."""
    text = path.read_text()
    assert "GATEWAY_URL" in text
    assert "http://127.0.0.1:8080" in text
    assert "bybit.com" not in text
