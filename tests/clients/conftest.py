"""The chain of a module, and the rule that nothing here goes by a proxy of the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients import chain as chains
from tests.clients import javascript

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.chain import Chain
    from tests.clients.javascript import Node


@pytest.fixture(scope="session", autouse=True)
def _no_proxies() -> Iterator[None]:
    """pybit and axios take HTTP_PROXY even for 127.0.0.1."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


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
