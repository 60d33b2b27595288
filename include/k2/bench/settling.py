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

from k2.bench.page import table, where, write_document, write_section
from k2.clickhouse import connect, quote_identifier
from k2.ingest.bronze import create_bronze
from k2.registry import registry
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

TABLE_TRADES = (1_000_000, 40_000_000)
NEW_TRADES = 20_000
# Days over which the history was ingested; the time that the new trades span.
DAYS = 30
INTERVAL = dt.timedelta(minutes=15)
# What dbt selects: all that candles are made from and shown by; their settled tables.
CANDLES = ("--select", "path:models/gold/live", "+path:models/gold/views")
SETTLED = ("--select", "path:models/gold/settled")

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

# Markets share the trades unevenly: the first of the twenty has a fifth of them. One new trade in
# fifty is late, by up to a week; the others come in the order of their ids.
_COLUMNS = """
    exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, event_time,
    kafka_offset, kafka_partition, ingestion_timestamp
"""
_TRADES = f"""
    insert into bronze_trades_binance ({_COLUMNS})
    with
        cityHash64(number) as dice,
        toUInt16(floor(20 * pow((dice % 10007) / 10007, 2))) as market,
        toFloat64(number - {{first:UInt64}}) / {{count:UInt64}} as elapsed,
        fromUnixTimestamp64Milli(
            {{start:Int64}} + toInt64(elapsed * {{span:Int64}}), 'UTC'
        ) as arrived_at,
        if(
            {{late:UInt8}} and dice % 50 = 0,
            arrived_at - toIntervalSecond(intDiv(dice, 50) % 604800),
            arrived_at
        ) as traded_at,
        toDecimal64(100 + market, 8) + toDecimal64(intDiv(dice, 64) % 1000, 8) / 100 as price,
        toDecimal64(1 + intDiv(dice, 4096) % 500, 8) / 100 as quantity
    select
        traded_at,
        number,
        format('M{{}}USDT', toString(market)),
        if(bitAnd(dice, 1) = 1, 'buy', 'sell'),
        price,
        quantity,
        toDecimal64(price * quantity, 8),
        traded_at,
        number,
        0,
        arrived_at
    from numbers({{first:UInt64}}, {{count:UInt64}})
"""
_AGAIN = f"""
    insert into bronze_trades_binance ({_COLUMNS})
    select
        * replace (
            1 as kafka_partition,
            ingestion_timestamp + toIntervalMillisecond(1) as ingestion_timestamp
        )
    from bronze_trades_binance
    where kafka_partition = 0 and kafka_offset >= {{first:UInt64}} and kafka_offset % 100 = 0
"""


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
    _dbt(settings, state, "build", *CANDLES, "--exclude-resource-type", "test", "unit_test")
    with connect(settings.clickhouse) as client:
        say(f"{trades:,} trades of {DAYS} days go to Silver ...")
        end = now() - INTERVAL
        for day in range(DAYS):
            first, last = trades * day // DAYS, trades * (day + 1) // DAYS
            start = end - dt.timedelta(days=DAYS - day)
            _insert_trades(client, first, last - first, start, dt.timedelta(days=1), late=False)
        say("their candles are settled ...")
        _dbt(settings, state, "run", *SETTLED)
        # As if that run had been when the history ended.
        _dbt(
            settings,
            state,
            "run-operation",
            "rewind_settlement",
            "--args",
            f"since: '{end:%F %T}.000'",
        )
        say(f"{new_trades:,} trades more are settled ...")
        _insert_trades(client, trades, new_trades, end, INTERVAL, late=True)
        client.command(_AGAIN, parameters={"first": trades})
        rows, size, candles = _counters(client)
        _dbt(settings, state, "run", *SETTLED)
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


def _insert_trades(
    client: Client,
    first: int,
    count: int,
    start: dt.datetime,
    span: dt.timedelta,
    *,
    late: bool,
) -> None:
    """Insert trades that arrive evenly from `start` on; `first` is the id of the first of them."""
    millisecond = dt.timedelta(milliseconds=1)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    client.command(
        _TRADES,
        parameters={
            "first": first,
            "count": count,
            "start": (start - epoch) // millisecond,
            "span": span // millisecond,
            "late": int(late),
        },
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


def _dbt(settings: Settings, state: Path, *arguments: str) -> None:
    run_dbt([*arguments, "--quiet"], settings, state=state)


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
