"""The stack: run it once, start it, stop it, create what it needs."""

from __future__ import annotations

import signal
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from k2 import terminal
from k2.commands.common import (
    Count,
    Hours,
    Json,
    Seed,
    SkipBad,
    Trades,
    current_settings,
)
from k2.commands.feeding import feed, trades_files
from k2.embedded.state import state_directory
from k2.errors import K2Error
from k2.ingest.simulation import Simulation
from k2.registry import registry


class Queue(StrEnum):
    """What Bronze reads from."""

    KAFKA = "kafka"
    EMBEDDED = "embedded"


def demo(
    trades: Trades = None,
    skip_bad: SkipBad = False,
    seed: Seed = 1,
    count: Count = Simulation.trades,
    hours: Hours = Simulation.hours,
    json: Json = False,
) -> None:
    """Run everything once: trades to candles to Iceberg, audited; then stop the stack.

    Example: k2 demo --trades binance:XRPETH=XRPETH-aggTrades.csv
    """
    from k2.demo import prepare, results, run_dag
    from k2.embedded.stack import running_engines

    files = trades_files(trades)
    with running_engines(state_directory(), terminal.say) as stack:
        prepare(stack, registry(), terminal.say, scheduled=False)
        feed(stack.settings, files, Simulation(seed, count, hours), skip_bad=skip_bad)
        run_dag(stack, terminal.say)
        tables = results(stack.settings, registry())
    if json:
        terminal.show_json(tables)
    else:
        terminal.show_table(
            "ClickHouse and Iceberg",
            ["table", "rows in ClickHouse", "rows in Iceberg", "equal", "seconds", "rows/s"],
            [list(asdict(table).values()) for table in tables],
        )
    if not all(table.equal for table in tables):
        raise K2Error("not every table is equal in ClickHouse and Iceberg")


def up() -> None:
    """Start the stack with Airflow's UI and stay until Ctrl-C or 'k2 down'.

    Example: k2 up
    """
    from k2.demo import prepare
    from k2.embedded import airflow
    from k2.embedded.stack import DAGS, running_engines

    with running_engines(state_directory(), terminal.say) as stack:
        prepare(stack, registry(), terminal.say, scheduled=True)
        for dag in DAGS:
            stack.airflow().unpause(dag)
        state = stack.state
        terminal.say(f"Airflow:    {stack.airflow_address}")
        terminal.say(f"            user {airflow.USER}, password {state.airflow_password}")
        terminal.say(f"ClickHouse: http://127.0.0.1:{state.clickhouse_port}")
        terminal.say(f"            user k2, password {state.clickhouse_password}")
        terminal.say(f"PostgreSQL: 127.0.0.1:{state.postgres_port}, databases k2, lake, airflow")
        terminal.say(f"            user k2, password {state.postgres_password}")
        terminal.say("Feed trades with 'k2 replay'. Stop with Ctrl-C or 'make down'.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            terminal.say("stopping")


def down() -> None:
    """Stop the stack, wherever it was started.

    Example: k2 down
    """
    from k2.embedded.stack import stop

    terminal.say("stopped" if stop(state_directory()) else "no stack was running")


def init(
    queue: Annotated[
        Queue, typer.Option(help="kafka: read the topics; embedded: take inserts.")
    ] = Queue.EMBEDDED,
    broker: Annotated[
        str | None,
        typer.Option(
            envvar="K2_KAFKA_BROKERS", help="Kafka bootstrap servers, with --queue kafka."
        ),
    ] = None,
) -> None:
    """Create Bronze, Silver, Gold, the watermarks and the Iceberg tables, where missing.

    Example: k2 init
    """
    from k2.initialise import initialise

    initialise(
        current_settings(),
        registry(),
        queue=queue.value,
        state=state_directory() / "dbt",
        say=terminal.say,
        broker=broker,
    )
