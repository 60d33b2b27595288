"""What settling costs: the rows it reads and its seconds, on a small table and on a large one.

Silver is filled with a history of trades, then with those of one more quarter of an hour, some of
them late and some produced twice; dbt settles them as it does every time. The cost follows the new
trades when a larger history leaves it where it was.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from k2.bench import history
from k2.bench.page import table, where, write_document, write_section
from k2.clickhouse import connect, quote_identifier
from k2.ingest.bronze import create_bronze
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

TABLE_TRADES = (1_000_000, 40_000_000)
NEW_TRADES = 20_000

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
    new_trades: int = NEW_TRADES,
    say: Callable[[str], object] = lambda _line: None,
) -> Iterator[Settling]:
    """Settle `new_trades` on a table of each size, in databases of their own, which are dropped.

    Args:
        settings: a ClickHouse that does nothing else meanwhile: its counters are read.
        state: directory for what dbt writes.
        now: the current time, UTC.

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
            yield _settle_on_history(own, state / database, trades, new_trades, now, say)
        finally:
            with connect(settings.clickhouse, database="default") as client:
                client.command(f"drop database {quote_identifier(database)}")


def _settle_on_history(
    settings: Settings,
    state: Path,
    trades: int,
    new_trades: int,
    now: Callable[[], dt.datetime],
    say: Callable[[str], object],
) -> Settling:
    history.build(settings, state)
    with connect(settings.clickhouse) as client:
        say(f"{trades:,} trades of {history.DAYS} days go to Silver ...")
        end = now() - history.INTERVAL
        history.fill(client, trades, end)
        say("their candles are settled ...")
        history.settle(settings, state)
        # As if that run had been when the history ended.
        history.rewind(settings, state, end)
        say(f"{new_trades:,} trades more are settled ...")
        history.add_interval(client, trades, new_trades, end)
        rows, size, candles = _counters(client)
        history.settle(settings, state)
        rows_after, size_after, candles_after = _counters(client)
    seconds, seconds_by_model = _seconds(state)
    return Settling(
        table_trades=trades,
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
    results = json.loads((state / "target" / "run_results.json").read_text())["results"]
    times = [timing for result in results for timing in result["timing"]]
    started = min(dt.datetime.fromisoformat(timing["started_at"]) for timing in times)
    completed = max(dt.datetime.fromisoformat(timing["completed_at"]) for timing in times)
    by_model = {result["unique_id"].split(".")[2]: result["execution_time"] for result in results}
    return (completed - started).total_seconds(), by_model


def summary(settlings: Sequence[Settling]) -> list[list[Any]]:
    """A row of COLUMNS for each table; with several, what the last costs relative to the first."""
    rows = [_figures(one) for one in settlings]
    if len(rows) > 1:
        rows.append(
            [f"x {last / first:.2f}" for first, last in zip(rows[0], rows[-1], strict=True)]
        )
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
