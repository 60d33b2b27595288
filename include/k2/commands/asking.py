"""Questions to ClickHouse."""

from __future__ import annotations

import sys
from dataclasses import astuple, replace
from typing import Annotated

import typer

from k2 import terminal
from k2.commands.common import (
    Json,
    current_settings,
)


def quality(json: Json = False) -> None:
    """Show what the newest data quality checks of each layer found.

    Example: k2 quality --json
    """
    from k2.quality import newest_findings

    findings = newest_findings(current_settings().clickhouse)
    if json:
        terminal.show_json(findings)
        return
    if not findings:
        terminal.say("the newest checks found nothing")
        return
    terminal.show_table(
        "Findings of the newest checks",
        ["layer", "status", "check", "exchange", "symbol", "value", "threshold", "detail"],
        # The run's time is that of all of its layer.
        [astuple(one)[1:] for one in findings],
    )


def sql(
    query: Annotated[str, typer.Argument(help="A query, passed on as it is.")],
    database: Annotated[
        str | None, typer.Option(help="Database that names without one are of; K2's without it.")
    ] = None,
) -> None:
    """Run a query in ClickHouse; a FORMAT clause decides what is printed, else a table.

    Example: k2 sql "select * from k2.ohlcv_1h_view limit 5"
    """
    from k2.query import stream_query

    clickhouse = current_settings().clickhouse
    if database is not None:
        # K2's own may be missing, as before it is restored.
        clickhouse = replace(clickhouse, database=database)
    stream_query(clickhouse, query, sys.stdout.buffer)
