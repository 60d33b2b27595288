"""A folder for the stack of each module."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .user import User

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    # PostgreSQL's system user must be able to reach its data, so not below pytest's own folder.
    directory = Path(tempfile.mkdtemp(prefix="k2-e2e-", dir="/tmp"))
    directory.chmod(0o755)
    yield User(directory)
    User(directory).run("down")
    shutil.rmtree(directory, ignore_errors=True)
