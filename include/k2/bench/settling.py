"""What settling costs: the rows it reads and its seconds, on a small table and on a large one.

Silver is filled with a history of trades, then with those of a quarter of an hour more, some of
them late and some produced twice, and dbt settles them as always: few of them, then as many as come
in a rush. The cost follows the new trades when a larger history leaves it where it was.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from k2.bench import history
from k2.bench.page import table, where, write_document, write_section
from k2.clickhouse import connect, quote_identifier
from k2.ingest.bronze import create_bronze
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

TABLE_TRADES = (1_000_000, 40_000_000)
# What a quarter of an hour brings in everyday life, and at its worst.
NEW_TRADES = (20_000, 3_800_000)

JSON_NAME = "settling.json"
COLUMNS = (
    "trades in Silver",
    "new trades",
    "candles written",
    "rows read",
    "rows read per new trade",
    "MB read",
    "seconds",
)


@dataclass(frozen=True)
class Settling:
    """One run of dbt over the settled candles of all timeframes.

    Rows and bytes (uncompressed) are what ClickHouse read for the whole run; seconds are those from
    the start of the first model to the end of the last.
    """

    table_trades: int
    new_trades: int
    candles: int
    rows_read: int
    bytes_read: int
    seconds: float
    seconds_by_model: dict[str, float]

    @property
    def rows_per_trade(self) -> float:
        """Rows read for each new trade."""
        return self.rows_read / self.new_trades


def measure(
    settings: Settings,
    state: Path,
    *,
    now: Callable[[], dt.datetime],
    table_trades: Sequence[int] = TABLE_TRADES,
    new_trades: Sequence[int] = NEW_TRADES,
    say: Callable[[str], object] = lambda _line: None,
) -> Iterator[Settling]:
    """Settle arrivals of new trades on a table of each size, one arrival after the other.

    Each table is in a database of its own, which is dropped.

    Args:
        settings: a ClickHouse that does nothing else meanwhile: its counters are read.
        state: directory for what dbt writes.
        now: the current time, UTC.
        new_trades: how many each arrival brings, a quarter of an hour after the one before.

    Raises:
        StackError: ClickHouse cannot be used.
        TransformError: dbt failed.
    """
    for trades in table_trades:
        database = f"settling_{trades}"
        own = replace(settings, clickhouse=replace(settings.clickhouse, database=database))
        with connect(settings.clickhouse, database="default") as client:
            client.command(f"drop database if exists {quote_identifier(database)}")
            create_bronze(client, registry(), queue="embedded", database=database)
        try:
            start = now() - len(new_trades) * history.INTERVAL
            say(f"{trades:,} trades of {history.DAYS} days go to Silver, their candles are settled")
            history.build(own, state / database)
            with connect(own.clickhouse) as client:
                history.fill(client, trades, start)
            history.settle(own, state / database)
            held = trades
            for count in new_trades:
                say(f"{count:,} trades more are settled ...")
                yield _settle_arrival(own, state / database, held, count, start)
                held += count
                start += history.INTERVAL
        finally:
            with connect(settings.clickhouse, database="default") as client:
                client.command(f"drop database {quote_identifier(database)}")


def _settle_arrival(
    settings: Settings, state: Path, held: int, new_trades: int, start: dt.datetime
) -> Settling:
    """Settle trades that arrive in the interval after `start`, on top of those that are held."""
    # As if the last run had been when they began to arrive.
    history.rewind(settings, state, start)
    with connect(settings.clickhouse) as client:
        history.add_interval(client, held, new_trades, start)
        rows, size, candles = _counters(client)
        history.settle(settings, state)
        rows_after, size_after, candles_after = _counters(client)
    seconds, seconds_by_model = _seconds(state)
    return Settling(
        table_trades=held,
        new_trades=new_trades,
        candles=candles_after - candles,
        rows_read=rows_after - rows,
        bytes_read=size_after - size,
        seconds=seconds,
        seconds_by_model=seconds_by_model,
    )


def _counters(client: Client) -> tuple[int, int, int]:
    """Rows and bytes that ClickHouse has read since it started, and versions of candles there."""
    rows, size, candles = client.query("""
        select
            (select value from system.events where event = 'SelectedRows'),
            (select value from system.events where event = 'SelectedBytes'),
            (
                select sum(total_rows) from system.tables
                where database = currentDatabase() and match(name, '^ohlcv_[0-9]+[mhd]$')
            )
    """).result_rows[0]
    return rows, size, candles


def _seconds(state: Path) -> tuple[float, dict[str, float]]:
    """Of the last run of dbt: from its first model's start to its last one's end, and by model."""
    ran = json.loads((state / "target" / "run_results.json").read_text())["results"]
    results = [result for result in ran if result["unique_id"].startswith("model.")]
    times = [timing for result in results for timing in result["timing"]]
    started = min(dt.datetime.fromisoformat(timing["started_at"]) for timing in times)
    completed = max(dt.datetime.fromisoformat(timing["completed_at"]) for timing in times)
    by_model = {result["unique_id"].split(".")[2]: result["execution_time"] for result in results}
    return (completed - started).total_seconds(), by_model


def summary(settlings: Iterable[Settling]) -> list[list[Any]]:
    """A row of COLUMNS for each run, arrivals of one size together.

    With several tables, what the last costs relative to the first follows.
    """
    rows = []
    for _, runs in groupby(sorted(settlings, key=_new_trades), key=_new_trades):
        figures = [_figures(run) for run in runs]
        rows += figures
        if len(figures) > 1:
            first, last = figures[0], figures[-1]
            rows.append([f"x {b / a:.2f}" for a, b in zip(first, last, strict=True)])
    return rows


def write_report(output: Path, settlings: Sequence[Settling], measurement: dict[str, Any]) -> None:
    """Write what was measured as JSON into a directory, and its section of the page beside it."""
    document = {**measurement, "settlings": [asdict(one) for one in settlings]}
    write_document(output / JSON_NAME, document)
    write_section(output, "k2 bench settling", _section(document, settlings))


def _section(document: dict[str, Any], settlings: Sequence[Settling]) -> Iterator[str]:
    yield "## Settling"
    yield ""
    yield "What a run of dbt over the settled candles of all six timeframes costs, by the"
    yield "trades in Silver before. A new trade in fifty is late, by up to a week, one in a"
    yield "hundred is produced twice. Seconds are those of the models, without the start of dbt."
    yield ""
    yield where(document)
    yield ""
    yield from table(COLUMNS, summary(settlings))


def _new_trades(one: Settling) -> int:
    return one.new_trades


def _figures(one: Settling) -> list[Any]:
    return [
        one.table_trades,
        one.new_trades,
        one.candles,
        one.rows_read,
        round(one.rows_per_trade, 1),
        round(one.bytes_read / 1e6, 1),
        round(one.seconds, 2),
    ]
