"""Measurements of K2 on this machine."""

from __future__ import annotations

import datetime as dt
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k2 import terminal
from k2.commands.common import HELP, Json
from k2.embedded.state import running_owner, state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.embedded.stack import Stack

bench = typer.Typer(
    context_settings=HELP,
    help="Measure K2 on this machine.\n\nExample: k2 bench freshness --rates 1000+100",
)

Output = Annotated[
    Path, typer.Option(help="Directory for JSON and plots; {output}.md gets its section.")
]


@bench.command()
def freshness(
    rates: Annotated[
        str, typer.Option(help="Trades a second, Binance+Kraken, comma separated.")
    ] = "1000+100,10000+500",
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes measured at each rate.")] = 10.0,
    find_highest: Annotated[
        bool,
        typer.Option(
            "--find-highest", help="Instead, search the highest rate that holds, from the first."
        ),
    ] = False,
    settle_every: Annotated[
        float, typer.Option(min=0.0, help="Minutes between dbt builds; 0: none.")
    ] = 15.0,
    interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two inserts of k2 ingest, at least.")
    ] = 0.2,
    look_every: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two looks at the view.")
    ] = 0.1,
    step_seconds: Annotated[
        float, typer.Option(min=5.0, help="Seconds of a step of the search.")
    ] = 30.0,
    output: Output = Path("docs/benchmarks"),
    json: Json = False,
) -> None:
    """Measure from the produce call until a trade is in ohlcv_1m_view; write table and plot.

    Example: k2 bench freshness --rates 1000+100 --minutes 10
    """
    from k2.bench.freshness import measure
    from k2.bench.freshness.plan import Plan, Rate

    chosen = [Rate.parse(text) for text in rates.split(",")]
    seconds = step_seconds if find_highest else minutes * 60
    plan = Plan(seconds, settle_every=settle_every * 60 or None, period=look_every)
    way = measure.Way(state_directory() / "freshness", output, interval)
    runs = (
        measure.measure_highest(way, chosen[0], plan, now=_now, say=terminal.say)
        if find_highest
        else measure.measure_rates(way, chosen, plan, now=_now, say=terminal.say)
    )
    if json:
        terminal.show_json(runs)
    else:
        terminal.show_table("Freshness", measure.COLUMNS, measure.summary(runs))


@bench.command()
def settling(
    new_trades: Annotated[
        str, typer.Option(help="Trades that are new in a measured run, comma separated.")
    ] = "20000,3800000",
    table_trades: Annotated[
        str, typer.Option(help="Trades that Silver holds before, comma separated.")
    ] = "1000000,40000000",
    output: Output = Path("docs/benchmarks"),
) -> None:
    """Measure what settling candles costs on a small and on a large table; write table and JSON.

    Example: k2 bench settling --new-trades 3800000 --table-trades 1000000
    """
    from k2.bench import page
    from k2.bench import settling as settlings

    arrivals, tables = _counts(new_trades), _counts(table_trades)
    with _throwaway_stack("settling") as stack:
        measurement = page.measurement(_now())
        measured = list(
            settlings.measure(
                stack.settings,
                stack.directory / "dbt",
                now=_now,
                table_trades=tables,
                new_trades=arrivals,
                say=terminal.say,
            )
        )
    settlings.write_report(output, measured, measurement)
    rows = settlings.summary(measured)
    terminal.show_table("Settling all six timeframes", settlings.COLUMNS, rows)


@bench.command()
def incremental(
    new_trades: Annotated[
        int, typer.Option(min=1, help="Trades of a quarter of an hour.")
    ] = 20_000,
    table_trades: Annotated[
        str, typer.Option(help="Trades that the tables hold before, comma separated.")
    ] = "1000000,40000000",
    repeat: Annotated[int, typer.Option(min=1, help="Quarters of an hour.")] = 5,
    output: Output = Path("docs/benchmarks"),
) -> None:
    """Measure the offload of 15 minutes of rows out of a small table and a large one; write tables.

    Example: k2 bench incremental --table-trades 1000000,4000000 --repeat 2
    """
    from k2.bench import page
    from k2.bench.incremental import measure, report

    with _emptied(state_directory() / "incremental") as directory:
        measurement = page.measurement(_now())
        measured = []
        for one in measure.measure(
            directory,
            now=_now,
            table_trades=_counts(table_trades),
            new_trades=new_trades,
            repeat=repeat,
            say=terminal.say,
        ):
            measured.append(one)
            terminal.say(
                f"  {one.table}, {one.table_trades:,} trades: {one.rows:,} rows,"
                f" {one.run_seconds:.1f} of {one.job_seconds:.1f} s"
            )
    report.write_report(output, measured, measurement)
    terminal.show_table("Incremental offload", report.COLUMNS, report.summary(measured))
    terminal.show_table("Seconds of the steps", report.STEP_COLUMNS, report.steps(measured))
    terminal.show_table("Ratios", report.RATIO_COLUMNS, report.ratios(measured))


@bench.command()
def offload(
    rows: Annotated[int, typer.Option(min=1, help="Trades that every way moves.")] = 3_800_000,
    large: Annotated[
        int, typer.Option(min=0, help="Trades that the offload and its floor move then; 0: none.")
    ] = 40_000_000,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    output: Output = Path("docs/benchmarks"),
) -> None:
    """Measure the offload against Spark over JDBC, PyIceberg and others; write table and plot.

    Example: k2 bench offload --rows 1000000 --large 0 --repeat 1
    """
    from k2.bench import page
    from k2.bench.offload import report
    from k2.bench.offload.measure import measure

    measured = []
    with _throwaway_stack("offload") as stack:
        measurement = page.measurement(_now())
        for one in measure(stack, rows=rows, large=large, repeat=repeat, say=terminal.say):
            measured.append(one)
            terminal.say(f"  {one.way}: {one.transfer_seconds:.1f} of {one.job_seconds:.1f} s")
    report.write_report(output, measured, measurement)
    terminal.show_table("Offload", report.COLUMNS, report.summary(measured))
    terminal.show_table("Ratios", report.RATIO_COLUMNS, report.ratios(measured))


@bench.command()
def dag(
    binance: Annotated[int, typer.Option(min=1, help="New trades of Binance.")] = 3_800_000,
    kraken: Annotated[int, typer.Option(min=1, help="New trades of Kraken.")] = 19_000,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds.")] = 1,
    output: Output = Path("docs/benchmarks"),
) -> None:
    """Measure a run of the DAG against one with plain Spark jobs; write table and plot.

    Two tables offloaded at once, and parsing the DAG files, are measured as well. A round takes
    some ten minutes.

    Example: k2 bench dag --binance 200000 --kraken 1000
    """
    from k2.bench import page
    from k2.bench.dag import measure, pair, parsing, report

    trades = {"binance": binance, "kraken": kraken}
    measurement = page.measurement(_now())
    parsed = parsing.measure_parsing()
    with _throwaway_stack("dag") as stack:
        measure.prepare(stack, terminal.say)
        measure.fill(stack, trades, terminal.say)
        pairs = [pair.measure_pair(stack) for _ in range(repeat)]
    runs = []
    for number in range(1, repeat + 1):
        for way in measure.WAYS:
            terminal.say(f"round {number} of {repeat}: {way.name}")
            with _throwaway_stack("dag") as stack:
                measure.prepare(stack, terminal.say)
                runs.append(measure.measure_run(stack, way, trades, terminal.say))
    results = report.Results(runs, pairs, parsed)
    report.write_report(output, results, measurement)
    terminal.show_table("Runs", report.RUN_COLUMNS, report.summary(results))
    terminal.show_table("Spent", report.SPENT_COLUMNS, report.spent(results))
    terminal.show_table("Targets", report.TARGET_COLUMNS, report.targets(results))


@bench.command()
def server(
    rows: Annotated[int, typer.Option(min=1, help="Rows that are read and inserted.")] = 5_000_000,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    output: Output = Path("docs/benchmarks"),
) -> None:
    """Measure the embedded ClickHouse over HTTP against its engine in process; write a table.

    Example: k2 bench server --rows 1000000 --repeat 3
    """
    from k2.bench import page
    from k2.bench import server as servers

    with _emptied(state_directory() / "server") as directory:
        measurement = page.measurement(_now())
        measured = list(servers.measure(directory, rows=rows, repeat=repeat, say=terminal.say))
    servers.write_report(output, measured, measurement)
    terminal.show_table("Embedded server", servers.COLUMNS, servers.summary(measured))


@contextmanager
def _throwaway_stack(name: str) -> Iterator[Stack]:
    """Running engines on an empty folder of their own, which is removed afterwards."""
    from k2.embedded.stack import running_engines
    from k2.embedded.state import FREE_PORTS

    with (
        _emptied(state_directory() / name) as directory,
        running_engines(directory, terminal.say, FREE_PORTS) as stack,
    ):
        yield stack


@contextmanager
def _emptied(directory: Path) -> Iterator[Path]:
    """A folder without what a killed run has left in it, which would be counted; none afterwards.

    A run that is going on there is left alone: its stack refuses another one.
    """
    from k2.embedded.stack import stop

    stacks = [directory, *directory.glob("*/")]
    if not any(running_owner(stack) for stack in stacks):
        for stack in stacks:
            stop(stack)
        shutil.rmtree(directory, ignore_errors=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise typer.BadParameter(f"{text!r}: give whole numbers above zero, comma separated.")
    return counts


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
