"""The chain of a module, and the rule that nothing here goes by a proxy of the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients import chain as chains
from tests.clients import javascript
from tests.no_proxies import no_proxies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.chain import Chain
    from tests.clients.javascript import Node

__all__ = ["no_proxies"]  # a fixture


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Fresh exchanges and a fresh gateway: modules must not meet each other's orders and cached candles."""
    with chains.running(tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture(scope="session")
def node() -> Node:
    """Where the JavaScript clients are installed."""
    if (reason := javascript.missing()) is not None:
        pytest.skip(reason)
    return javascript.installed()
