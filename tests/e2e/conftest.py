"""A folder for the stack of each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.stack_folder import stack_folder

from .user import User

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with stack_folder() as directory:
        yield User(directory)
        User(directory).run("down")
