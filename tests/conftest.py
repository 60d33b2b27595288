"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# No test depends on how fast the machine is.
settings.register_profile("k2", deadline=None)
settings.load_profile("k2")


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """A program run inside a test configures logs for the standard error of that test."""
    yield
    structlog.reset_defaults()
