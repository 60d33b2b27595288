"""The way to Iceberg and back: offload, maintain, audit, soak, status, repair, restore."""

from __future__ import annotations

import datetime as dt
import subprocess
from dataclasses import asdict
from typing import Annotated

import typer

from k2 import terminal
from k2.commands.common import (
    Count,
    Json,
    Seed,
    current_environment,
    current_settings,
)
from k2.embedded.state import state_directory
from k2.errors import K2Error
from k2.ingest.simulation import Simulation
from k2.jobs import maintain_command, offload_command
from k2.registry import registry


def offload(table: Annotated[str, typer.Argument(help="A table of the registry.")]) -> None:
    """Offload what is new in one table, as the DAG does: one Spark job.

    Example: k2 offload silver_trades
    """
    name = registry().table(table).name
    done = subprocess.run(offload_command(name, cores=2), env=current_environment())
    if done.returncode != 0:
        raise typer.Exit(1)


def maintain(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", help="Tables of the registry; all without one."),
    ] = None,
) -> None:
    """Keep Iceberg tables in order, as the DAG does once a day: one Spark job for all of them.

    Deletes what is past its retention in Iceberg, compacts, expires snapshots, removes orphans.
    Offloads can go on meanwhile.

    Example: k2 maintain bronze_trades_binance silver_trades
    """
    chosen = [registry().table(name) for name in tables] if tables else registry().tables
    command = maintain_command(*(table.name for table in chosen), cores=2)
    done = subprocess.run(command, env=current_environment())
    if done.returncode != 0:
        raise typer.Exit(1)


def audit(
    table: Annotated[str | None, typer.Argument(help="One table; all without it.")] = None,
    json: Json = False,
) -> None:
    """Compare ClickHouse and Iceberg by partition: rows and checksums.

    Example: k2 audit ohlcv_1m
    """
    from k2.offload.audit import audit_table, require_equal

    settings = current_settings()
    tables = [registry().table(table)] if table else list(registry().tables)
    audits = []
    for one in tables:
        audits.append(audit_table(settings, one))
        terminal.say(f"audited {one.name}")
    if json:
        terminal.show_json(audits)
    else:
        terminal.show_table(
            "Audit",
            [
                "table",
                "partitions",
                "rows in ClickHouse",
                "dropped there",
                "rows in Iceberg",
                "equal",
                "waiting",
            ],
            [
                [
                    one.table,
                    len(one.partitions),
                    one.clickhouse_rows,
                    one.dropped_rows,
                    one.iceberg_rows,
                    one.equal,
                    one.waiting_rows,
                ]
                for one in audits
            ],
        )
    require_equal(audits)


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="Stop after so many minutes.")] = 10.0,
    cycles: Annotated[
        int, typer.Option(min=1, help="Stop after so many quarters of an hour of data.")
    ] = 96,
    seed: Seed = 1,
    count: Count = Simulation.trades,
    json: Json = False,
) -> None:
    """Run the medallion for many cycles while drivers and engines are killed; then audit.

    Example: k2 soak --minutes 120
    """
    import random

    from k2.embedded.stack import running_engines
    from k2.initialise import initialise
    from k2.soak import require_empty
    from k2.soak import soak as run_soak

    with running_engines(state_directory(), terminal.say) as stack:
        require_empty(stack)
        state = stack.directory / "dbt"
        initialise(stack.settings, registry(), queue="embedded", state=state, say=terminal.say)
        result = run_soak(
            stack,
            registry(),
            Simulation(seed, count),
            random.Random(seed),  # noqa: S311 - which fault strikes next is no secret
            minutes=minutes,
            cycles=cycles,
            say=terminal.say,
        )
    if json:
        terminal.show_json(result)
    else:
        figures = asdict(result)
        terminal.show_table("Soak", list(figures), [list(figures.values())])
    if result.lost or result.duplicated:
        raise K2Error(f"{result.lost} rows lost, {result.duplicated} duplicated")


def status(json: Json = False) -> None:
    """Show each table's watermark, its lag in rows and seconds, last batch and retention.

    Example: k2 status --json
    """
    from k2.status import table_statuses

    today = dt.datetime.now(dt.UTC).date()
    statuses = table_statuses(current_settings(), registry(), today=today)
    if json:
        terminal.show_json(statuses)
        return
    terminal.show_table(
        "Tables",
        [
            "table",
            "watermark",
            "lag rows",
            "lag s",
            "last batch",
            "rows",
            "committed (UTC)",
            "retention",
        ],
        [
            [
                one.table,
                one.watermark_text,
                one.lag_rows,
                one.lag_seconds,
                one.last_batch,
                one.last_rows,
                f"{one.last_committed_at:%Y-%m-%d %H:%M:%S}" if one.last_committed_at else None,
                one.retention,
            ]
            for one in statuses
        ],
    )


def restore(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", help="Tables of the registry; all without one."),
    ] = None,
) -> None:
    """Bring rows that ClickHouse has lost back from Iceberg; what is there stays one row.

    For the owner of ClickHouse. Days that retention dropped stay dropped.

    Example: k2 restore bronze_trades_kraken
    """
    from k2.restore import restore_table

    chosen = [registry().table(name) for name in tables] if tables else registry().tables
    # The later layers first: their own rows are there before Bronze's views fill them.
    for table in reversed(chosen):
        rows = restore_table(current_settings(), table)
        terminal.say(f"restored {table.name}: {rows:,} rows are in Iceberg")


def repair(
    table: Annotated[str, typer.Argument(help="A table of the registry.")],
    restore_lake: Annotated[
        bool, typer.Option("--restore-lake", help="Set Iceberg back to what K2 committed last.")
    ] = False,
    accept_lake: Annotated[
        bool,
        typer.Option(
            "--accept-lake",
            help="Take Iceberg as it is; what comes after its current snapshot is offloaded again.",
        ),
    ] = False,
) -> None:
    """Show whether Iceberg still stands where K2 left it, and mend it one way or the other.

    Without an option nothing is changed.

    Example: k2 repair silver_trades --restore-lake
    """
    from k2.offload import repair as repairs

    if restore_lake and accept_lake:
        raise typer.BadParameter("choose one of --restore-lake and --accept-lake")
    one = registry().table(table)
    if restore_lake or accept_lake:
        mend = repairs.restore_lake if restore_lake else repairs.accept_lake
        terminal.say(mend(current_settings(), one))
        return
    shown = repairs.examine(current_settings(), one)
    terminal.show_table(table, ["what", "in Iceberg", "in PostgreSQL"], shown.rows)
    for line in shown.advice:
        terminal.say(line)
