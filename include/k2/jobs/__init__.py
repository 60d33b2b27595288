"""What spark-submit starts."""

from __future__ import annotations

import sys
from pathlib import Path


def offload_command(table: str, *, cores: int) -> list[str]:
    """The command that offloads a table on this machine, by the spark-submit of this Python."""
    program = Path(sys.executable).parent / "spark-submit"
    job = Path(__file__).with_name("offload.py")
    return [str(program), "--master", f"local[{cores}]", str(job), table]
