"""What spark-submit starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

OFFLOAD: Final = Path(__file__).with_name("offload.py")
MAINTAIN: Final = Path(__file__).with_name("maintain.py")
LOOK: Final = Path(__file__).with_name("look.py")
REHEARSAL: Final = Path(__file__).with_name("rehearsal.py")


def submit_command(job: Path, *arguments: str, cores: int) -> list[str]:
    """The command that runs a job on this machine, by the spark-submit of this Python."""
    program = Path(sys.executable).parent / "spark-submit"
    return [str(program), "--master", f"local[{cores}]", str(job), *arguments]


def offload_command(table: str, *, cores: int) -> list[str]:
    """The command that offloads a table."""
    return submit_command(OFFLOAD, table, cores=cores)


def maintain_command(*tables: str, cores: int) -> list[str]:
    """The command that maintains the Iceberg tables of these names, in one job."""
    return submit_command(MAINTAIN, *tables, cores=cores)
