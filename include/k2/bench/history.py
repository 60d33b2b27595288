"""A history of trades in Bronze, Silver and Gold, and quarters of an hour that come after it.

Everything is made inside ClickHouse, by insert-select into Bronze, and settled by dbt as it always
is: tables of tens of millions of trades within minutes. A new trade in fifty is late, by up to a
week, one in a hundred is produced twice.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from k2.transform import run_dbt

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

# Days over which the history was ingested; the time that new trades span.
DAYS: Final = 30
INTERVAL: Final = dt.timedelta(minutes=15)
# What dbt selects: all that candles are made from and shown by; their settled tables.
_CANDLES: Final = ("--select", "path:models/gold/live", "+path:models/gold/views")
_SETTLED: Final = ("--select", "path:models/gold/settled")

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
    from bronze_trades_binance as trades
    -- Without its table, the name would be that of the new value.
    where trades.kafka_partition = 0 and kafka_offset >= {{first:UInt64}} and kafka_offset % 100 = 0
"""


def build(settings: Settings, state: Path) -> None:
    """Create Silver and Gold, empty, after Bronze; `state` is where dbt writes."""
    _dbt(settings, state, "build", *_CANDLES, "--exclude-resource-type", "test", "unit_test")


def fill(client: Client, trades: int, end: dt.datetime) -> None:
    """Insert so many trades, in order, that arrived evenly over the days before `end`."""
    for day in range(DAYS):
        first, last = trades * day // DAYS, trades * (day + 1) // DAYS
        start = end - dt.timedelta(days=DAYS - day)
        _insert(client, first, last - first, start, dt.timedelta(days=1), late=False)


def add_interval(client: Client, first: int, count: int, start: dt.datetime) -> None:
    """Insert the trades that arrive in the interval from `start` on, some of them late or twice.

    `first` is the id of the first of them, above all that are there.
    """
    _insert(client, first, count, start, INTERVAL, late=True)
    client.command(_AGAIN, parameters={"first": first})


def settle(settings: Settings, state: Path) -> None:
    """Settle the candles of all timeframes."""
    _dbt(settings, state, "run", *_SETTLED)


def rewind(settings: Settings, state: Path, since: dt.datetime) -> None:
    """As if the last settling had been at `since`."""
    arguments = ("--args", f"since: '{since:%F %T}.000'")
    _dbt(settings, state, "run-operation", "rewind_settlement", *arguments)


def _insert(
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


def _dbt(settings: Settings, state: Path, *arguments: str) -> None:
    run_dbt([*arguments, "--quiet"], settings, state=state)
