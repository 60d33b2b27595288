"""What breaks in practice, and what to do about it."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from k2 import terminal
from k2.commands.common import Json  # noqa: TC001 - typer looks at it
from k2.registry import registry

STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "dim"}


def doctor(
    spark: Annotated[
        bool,
        typer.Option("--spark", help="Also reach the lake from Spark: a JVM, some ten seconds."),
    ] = False,
    json: Json = False,
) -> None:
    """Check what breaks in practice, each with the fix; nothing is changed.

    Java, Python packages, jars, ports, file names; ClickHouse, its tables, grants and clock;
    PostgreSQL, watermarks and leases; the lake; Airflow. Exits with 1 if a check failed. Without a
    running stack, what needs one is not checked.

    Example: k2 doctor --spark
    """
    from k2.doctor.examination import examine
    from k2.doctor.result import Outcome
    from k2.doctor.surroundings import look_around

    results = examine(look_around(os.environ), registry(), spark=spark)
    if json:
        terminal.show_json(results)
    else:
        width = max(len(result.name) for result in results)
        for result in results:
            fix = f" -> {result.fix}" if result.fix else ""
            text = f"{result.name:<{width}}  {result.found}{fix}"
            terminal.show_marked(f"{result.outcome:<11}", STYLES[result.outcome], text)
    if any(result.outcome is Outcome.FAILED for result in results):
        raise typer.Exit(1)
