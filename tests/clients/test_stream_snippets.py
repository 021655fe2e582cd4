"""The snippets that listen to a stream: each prints when the running candle has begun, and at which price."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.javascript import SNIPPETS
from tests.clients.test_snippets import names, python

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.chain import Chain
    from tests.clients.javascript import Node

pytestmark = pytest.mark.timeout(300)  # the first test may install the JavaScript clients


def said_alike(chain: Chain, run: Callable[[str], str]) -> None:
    """Directly, through the gateway, directly: the clock goes, or a client that misses the first push waits for ever
    (pybit does, when it comes before it has noted whom to tell). So a candle may end once in between."""
    before, through, after = run(chain.direct_url), run(chain.gateway_url), run(chain.direct_url)
    assert through in {before, after}
    assert through.startswith("[")


@pytest.mark.parametrize("name", names("*.py", streams=True))
def test_a_python_snippet_hears_the_exchanges_candle(name: str, chain: Chain) -> None:
    """Run as it stands, with nothing but GATEWAY_URL set."""
    said_alike(chain, lambda base: python(SNIPPETS / name, base))


@pytest.mark.parametrize("name", names("*.mjs", streams=True))
def test_a_javascript_snippet_hears_the_exchanges_candle(name: str, chain: Chain, node: Node) -> None:
    """Run as it stands, with nothing but GATEWAY_URL set."""
    said_alike(chain, lambda base: node.run(SNIPPETS / name, {"GATEWAY_URL": base}))
