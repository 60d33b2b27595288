"""What spark-submit starts."""

from __future__ import annotations

import sys
from pathlib import Path


def command(job: str, *arguments: str, cores: int) -> list[str]:
    """The command that runs a job on this machine, by the spark-submit of this Python."""
    program = Path(sys.executable).parent / "spark-submit"
    file = Path(__file__).with_name(f"{job}.py")
    return [str(program), "--master", f"local[{cores}]", str(file), *arguments]


def offload_command(table: str, *, cores: int) -> list[str]:
    """The command that offloads a table."""
    return command("offload", table, cores=cores)
