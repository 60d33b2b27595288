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

# What `-m MARKER` alone runs: it takes long, or needs programs that are built first.
ASKED_FOR = ("crash", "prometheus", "s3")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for; the short form of the crash matrix always runs."""
    unasked = [marker for marker in ASKED_FOR if marker not in config.getoption("markexpr")]
    left_out = [
        item
        for item in items
        if not item.get_closest_marker("short") and any(map(item.get_closest_marker, unasked))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """A program run inside a test configures logs for the standard error of that test."""
    yield
    structlog.reset_defaults()
