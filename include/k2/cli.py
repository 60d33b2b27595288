"""The command line `k2`."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psycopg
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError

from k2 import terminal
from k2.embedded.state import read_state, running_owner, state_directory
from k2.errors import K2Error, SettingsError
from k2.ingest.simulation import Simulation
from k2.logs import configure_logs
from k2.registry import registry
from k2.settings import Settings, load_settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from k2.ingest.sources import TradesFile

app = typer.Typer(
    help="Crypto trades from Kafka to ClickHouse (bronze, silver, gold) and to Apache Iceberg.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

dead_letters = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dead_letters, name="deadletters")

Trades = Annotated[
    list[str] | None,
    typer.Option(
        "--trades",
        metavar="EXCHANGE:MARKET=PATH",
        help="An archive file of the exchange, csv or zip. Can be given several times.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Send broken archive rows to the dead letters.")
]
Seed = Annotated[int, typer.Option(help="Seed of the simulator; the same gives the same trades.")]
Count = Annotated[int, typer.Option(min=1, help="Trades to simulate, over all exchanges.")]
Hours = Annotated[float, typer.Option(min=0.1, help="Hours that the simulated trades span.")]
Brokers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...", envvar="K2_KAFKA_BROKERS", help="Kafka bootstrap servers."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


Of = Annotated[
    str | None, typer.Option("--exchange", metavar="EXCHANGE", help="Of this exchange only.")
]


class Queue(StrEnum):
    """What Bronze reads from."""

    KAFKA = "kafka"
    EMBEDDED = "embedded"


@app.command()
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
    from k2.demo import prepare, results, run_medallion
    from k2.embedded.stack import running_engines

    files = _trades_files(trades)
    with running_engines(state_directory(), terminal.say) as stack:
        prepare(stack, registry(), terminal.say, scheduled=False)
        _feed(stack.settings, files, Simulation(seed, count, hours), skip_bad=skip_bad)
        run_medallion(stack, terminal.say)
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


@app.command()
def up() -> None:
    """Start the stack with Airflow's UI and stay until Ctrl-C or 'k2 down'.

    Example: k2 up
    """
    from k2.demo import prepare
    from k2.embedded import airflow
    from k2.embedded.stack import running_engines

    with running_engines(state_directory(), terminal.say) as stack:
        prepare(stack, registry(), terminal.say, scheduled=True)
        stack.airflow().unpause("medallion")
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


@app.command()
def down() -> None:
    """Stop the stack, wherever it was started.

    Example: k2 down
    """
    from k2.embedded.stack import stop

    terminal.say("stopped" if stop(state_directory()) else "no stack was running")


@app.command()
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
        _settings(),
        registry(),
        queue=queue.value,
        state=state_directory() / "dbt",
        say=terminal.say,
        broker=broker,
    )


@app.command()
def replay(
    trades: Trades = None,
    skip_bad: SkipBad = False,
    seed: Seed = 1,
    count: Count = Simulation.trades,
    hours: Hours = Simulation.hours,
) -> None:
    """Feed trades into the queues as raw messages: of archive files, or simulated.

    Example: k2 replay --trades kraken:BCHEUR=BCHEUR.csv
    """
    files = _trades_files(trades)
    _feed(_settings(), files, Simulation(seed, count, hours), skip_bad=skip_bad)


@app.command()
def ingest(
    exchange: Annotated[
        list[str] | None, typer.Argument(help="Exchanges of the registry; all without it.")
    ] = None,
    brokers: Brokers = None,
    interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two inserts of an exchange, at least.")
    ] = 0.2,
    batch_messages: Annotated[
        int, typer.Option(min=1, help="Messages of an insert, at most.")
    ] = 50_000,
    session_seconds: Annotated[
        float, typer.Option(min=1.0, help="A member silent for so long loses its partitions.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every batch.")] = False,
) -> None:
    """Consume the exchanges' topics into the queues, until Ctrl-C or SIGTERM.

    Example: k2 ingest binance kraken --brokers 127.0.0.1:9092
    """
    from k2.ingest.consume import ingest as consume
    from k2.ingest.consume import stop_on_signals
    from k2.ingest.topic import Limits

    if not brokers:
        raise SettingsError("no broker is named; give --brokers HOST:PORT or set K2_KAFKA_BROKERS")
    exchanges = [registry().exchange(name) for name in exchange or []]
    configure_logs(logging.DEBUG if verbose else logging.INFO)
    consume(
        _settings().clickhouse,
        exchanges or list(registry().exchanges),
        brokers,
        stop_on_signals(),
        limits=Limits(batch_messages, interval=interval, session_seconds=session_seconds),
    )


@app.command()
def offload(table: Annotated[str, typer.Argument(help="A table of the registry.")]) -> None:
    """Offload what is new in one table, as the DAG does: one Spark job.

    Example: k2 offload silver_trades
    """
    import k2.jobs

    name = registry().table(table).name
    job = Path(k2.jobs.__file__).parent / "offload.py"
    submit = str(Path(sys.executable).parent / "spark-submit")
    done = subprocess.run([submit, "--master", "local[2]", str(job), name], env=_environment())
    if done.returncode != 0:
        raise typer.Exit(1)


@app.command()
def audit(
    table: Annotated[str | None, typer.Argument(help="One table; all without it.")] = None,
    json: Json = False,
) -> None:
    """Compare ClickHouse and Iceberg by partition: rows and checksums.

    Example: k2 audit ohlcv_1m
    """
    from k2.offload.audit import audit_table, require_equal

    settings = _settings()
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


@app.command()
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


@app.command()
def status(json: Json = False) -> None:
    """Show each table's watermark, its lag in rows and seconds, last batch and retention.

    Example: k2 status --json
    """
    from k2.status import table_statuses

    today = dt.datetime.now(dt.UTC).date()
    statuses = table_statuses(_settings(), registry(), today=today)
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


@app.command()
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
        terminal.say(mend(_settings(), one))
        return
    shown = repairs.examine(_settings(), one)
    terminal.show_table(table, ["what", "in Iceberg", "in PostgreSQL"], shown.rows)
    for line in shown.advice:
        terminal.say(line)


@dead_letters.callback(invoke_without_command=True)
def list_dead_letters(
    context: typer.Context,
    exchange: Of = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many.")] = 20,
    json: Json = False,
) -> None:
    """List the messages that could not become a trade, count them, read them again after a fix.

    Without a command, they are listed, the newest first.

    Example: k2 deadletters --exchange kraken --limit 5
    """
    if context.invoked_subcommand is not None:
        return
    from rich.markup import escape

    from k2.ingest.dead_letters import newest_dead_letters

    with _clickhouse() as client:
        letters = newest_dead_letters(
            client, client.database or "", exchange=_exchange_name(exchange), limit=limit
        )
    if json:
        terminal.show_json(letters)
        return
    terminal.show_table(
        "Dead letters",
        ["arrived (UTC)", "exchange", "partition", "offset", "reason", "message"],
        [
            [
                f"{one.arrived_at:%Y-%m-%d %H:%M:%S}",
                one.exchange,
                one.partition,
                one.offset,
                escape(one.reason),
                escape(" ".join(one.raw_message.split())[:60]),
            ]
            for one in letters
        ],
    )


@dead_letters.command("reasons")
def dead_letter_reasons(exchange: Of = None, json: Json = False) -> None:
    """Count the dead letters by exchange and reason.

    Example: k2 deadletters reasons
    """
    from k2.ingest.dead_letters import count_reasons

    with _clickhouse() as client:
        counts = count_reasons(client, client.database or "", exchange=_exchange_name(exchange))
    if json:
        terminal.show_json(counts)
        return
    terminal.show_table(
        "Dead letters by reason",
        ["exchange", "reason", "dead letters", "newest (UTC)"],
        [
            [one.exchange, one.reason, one.dead_letters, f"{one.newest:%Y-%m-%d %H:%M:%S}"]
            for one in counts
        ],
    )


@dead_letters.command("replay")
def replay_dead_letters(
    exchange: Of = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
) -> None:
    """Read the dead letters again through the views as they are now, after a fix.

    Those that are trades now appear in Bronze, and go on to Silver, Gold and Iceberg.

    Example: k2 deadletters replay --exchange binance
    """
    from k2.ingest.dead_letter_replay import replay_dead_letters as replay_letters
    from k2.offload.watermark import DATABASE

    settings = _settings()
    only = _exchange_name(exchange)
    for one in registry().exchanges:
        if only in (None, one.name):
            with _clickhouse() as client:
                done = replay_letters(
                    client,
                    registry(),
                    one.name,
                    conninfo=settings.postgres.conninfo(DATABASE),
                    database=settings.clickhouse.database,
                    dry_run=dry_run,
                )
            terminal.say(
                f"{one.name}: {done.read:,} dead letters read, {done.settled:,} "
                f"{'would be ' if dry_run else ''}settled, {done.read - done.settled:,} left"
            )


@app.command()
def sql(query: Annotated[str, typer.Argument(help="A query, passed on as it is.")]) -> None:
    """Run a query in ClickHouse; a FORMAT clause decides what is printed, else a table.

    Example: k2 sql "select * from k2.ohlcv_1h_view limit 5"
    """
    from k2.query import stream_query

    stream_query(_settings().clickhouse, query, sys.stdout.buffer)


def main() -> None:
    """Run the command line; errors of K2 end it with one line and status 1."""
    configure_logs(logging.WARNING)
    try:
        app()
    except (K2Error, ClickHouseError, psycopg.Error) as error:
        terminal.fail(str(error).splitlines()[0] if str(error) else type(error).__name__)
        sys.exit(1)
    except KeyboardInterrupt:
        terminal.fail("interrupted")
        sys.exit(130)


def _trades_files(arguments: list[str] | None) -> list[TradesFile]:
    from k2.ingest.sources import parse_trades_argument

    return [parse_trades_argument(argument, registry()) for argument in arguments or []]


def _feed(
    settings: Settings, files: list[TradesFile], simulation: Simulation, *, skip_bad: bool
) -> None:
    from k2.trades import feed_files, feed_simulation

    progress = terminal.every(
        2.0, lambda name, count, seconds: terminal.say(f"  {name}: {count:,} ({seconds:.0f} s)")
    )
    feeds = (
        feed_files(settings, registry(), files, skip_bad=skip_bad, progress=progress)
        if files
        else feed_simulation(settings, registry(), simulation, progress=progress)
    )
    for name, result in feeds:
        terminal.say(
            f"fed {name}: {result.messages:,} messages, {result.dead_letters:,} dead letters, "
            f"{result.seconds:.1f} s"
        )


def _clickhouse() -> Client:
    from k2.clickhouse import connect

    return connect(_settings().clickhouse)


def _exchange_name(name: str | None) -> str | None:
    """The same name, if the registry has it."""
    return None if name is None else registry().exchange(name).name


def _settings() -> Settings:
    """Of the environment when it names a ClickHouse, else of the stack that is running."""
    return load_settings(_environment())


def _environment() -> dict[str, str]:
    if "K2_CLICKHOUSE_HOST" in os.environ:
        return dict(os.environ)
    directory = state_directory()
    state = read_state(directory)
    if state is None or running_owner(directory) is None:
        raise SettingsError(
            "no stack is running; start one with 'make up', or set K2_CLICKHOUSE_HOST and the "
            "other K2_ variables to reach services of your own"
        )
    from k2.embedded.airflow import airflow_environment
    from k2.embedded.java import java_home

    return airflow_environment(state, directory, java_home())


if __name__ == "__main__":
    main()
