"""For the tests that saturate gateways in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def warnings_only() -> Iterator[None]:
    """Thousands of requests, and whoever reads a failure wants to see what the store did."""
    wrapper = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=wrapper, cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()
