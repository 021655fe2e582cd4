"""The engine of the session, and the image built with it; a plain word where there is none."""

from __future__ import annotations

import pytest

from tests.image.engine import Engine, NoEngine, NoImage
from tests.no_proxies import no_proxies

__all__ = ["no_proxies"]  # a fixture


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
