"""The engine of the session, and the image built with it; a plain word where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.image.engine import Engine, NoEngine, NoImage


@pytest.fixture(scope="session")
def engine() -> Engine:
    try:
        return Engine()
    except NoEngine as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the image, built from the Dockerfile as it stands."""
    try:
        return engine.image()
    except NoImage as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session", autouse=True)
def _no_proxies() -> Iterator[None]:
    """pybit takes HTTP_PROXY even for 127.0.0.1."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield
