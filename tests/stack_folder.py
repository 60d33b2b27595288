"""A folder for the state of a stack."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def stack_folder() -> Iterator[Path]:
    """An empty folder, removed at the end.

    Not below pytest's own: PostgreSQL's system user must be able to reach its data.
    """
    path = Path(tempfile.mkdtemp(prefix="k2-stack-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
