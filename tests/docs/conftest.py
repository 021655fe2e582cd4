"""What the tests of the pages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.surroundings import copy_of_the_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied once; each block gets a copy of it."""
    return copy_of_the_checkout(tmp_path_factory.mktemp("docs") / "checkout")
