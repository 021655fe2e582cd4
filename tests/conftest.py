"""Profiles of the property tests: `fast` for every run, `deep` for `make test-deep`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres_server import database, postgres

__all__ = ["database", "postgres"]  # fixtures

settings.register_profile("fast", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(scope="session", autouse=True)
def _home_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gateways that tests start as processes keep their state files (proxy/store/keeper.py) here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
