"""An embedded stack without Airflow, in which everything has been created."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.stack_folder import stack_folder

from k2.embedded.stack import Stack, running_engines
from k2.embedded.state import FREE_PORTS
from k2.initialise import initialise
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with (
        stack_folder() as directory,
        running_engines(directory, lambda _: None, {**os.environ, **FREE_PORTS}) as running,
    ):
        state = directory / "dbt"
        initialise(running.settings, registry(), queue="embedded", state=state, say=lambda _: None)
        yield running
