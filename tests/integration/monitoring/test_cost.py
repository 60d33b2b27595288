"""What a scrape reads does not grow with the tables; by rows, not by seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from k2.clickhouse import connect
from k2.ingest.bronze import create_bronze
from k2.monitoring import metrics, pipeline
from k2.monitoring.stores import clickhouse_store
from k2.offload.cursor import make_token
from k2.offload.history import TableHistory
from k2.registry import Layer, OffsetCursor, registry
from k2.status import LagError, read_lag
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clickhouse_connect.driver.client import Client

    from .conftest import Stack

EXCHANGES: Final = ("binance", "kraken")
SMALL: Final = 20_000
LARGE: Final = 20 * SMALL
TRADE: Final = """
insert into bronze_trades_{exchange} (
    exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, event_time,
    kafka_offset, kafka_partition, ingestion_timestamp
)
select
    {time} as time, number, ['BTCUSDT', 'ETHUSDT'][number % 2 + 1], 'buy', 1, 1, 1, time,
    number, 0, time
from numbers({first}, {count})
"""
OLD: Final = "now64(3) - toIntervalDay(2) + toIntervalMillisecond(number % 60000)"
DEAD_LETTER: Final = """
insert into dead_letters (
    exchange, topic, kafka_partition, kafka_offset, raw_message, reason, ingestion_timestamp
)
select 'kraken', 'topic', 0, number, 'x', 'not JSON', now64(3) - toIntervalDay(2)
from numbers({first}, {count})
"""
# One more run of the checks for each.
RESULTS: Final = """
insert into {layer}_quality
select * except (number)
    replace (checked_at - toIntervalDay(10) - toIntervalSecond(number) as checked_at)
from {layer}_quality
cross join numbers({count}) as runs
where checked_at = (select max(checked_at) from {layer}_quality) and check_name = 'rows_looked_at'
"""
SETTLEMENTS: Final = """
insert into settlement_progress
select
    arrayJoin({tables:Array(String)}),
    now64(3) - toIntervalDay(1) - toIntervalSecond(number) as at,
    at
from numbers({first:UInt64}, {count:UInt64})
"""


@dataclass
class Counting:
    """A client that counts the rows that ClickHouse reads for its queries."""

    client: Client
    rows: int = 0

    @property
    def database(self) -> str | None:
        return self.client.database

    def query(self, query: str, *arguments: Any, **options: Any) -> Any:
        result = self.client.query(query, *arguments, **options)
        self.rows += int(result.summary["read_rows"])
        return result


@pytest.fixture(scope="module")
def client(clean_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """All layers in a database of their own, with a few trades that have just come."""
    settings = replace(
        clean_stack.settings,
        clickhouse=replace(clean_stack.settings.clickhouse, database="k2_grown"),
    )
    with connect(settings.clickhouse, database="default") as admin:
        create_bronze(admin, registry(), queue="embedded", database="k2_grown")
    run_dbt(["seed"], settings, state=tmp_path_factory.mktemp("dbt"), on_line=lambda _: None)
    run_dbt(["run"], settings, state=tmp_path_factory.mktemp("dbt"), on_line=lambda _: None)
    with connect(settings.clickhouse) as connected:
        yield connected


def grow(client: Client, first: int, end: int) -> None:
    """Let each table have got rows of numbers up to `end`, two days ago."""
    count = end - first
    for exchange in EXCHANGES:
        client.command(TRADE.format(exchange=exchange, time=OLD, first=first, count=count))
    client.command(DEAD_LETTER.format(first=first, count=count))
    for layer in ("bronze", "silver", "gold"):
        client.command(RESULTS.format(layer=layer, count=count // 10))
    tables = [table.name for table in registry().tables if table.layer == "gold"]
    client.command(SETTLEMENTS, parameters={"tables": tables, "first": first, "count": count // 10})


def just_now(client: Client, first: int) -> None:
    """A few trades of this moment, beyond the watermark."""
    for exchange in EXCHANGES:
        client.command(TRADE.format(exchange=exchange, time="now64(3)", first=first, count=100))


def offloaded(end: int) -> dict[str, TableHistory]:
    """As if all rows with numbers below `end` had been offloaded."""
    histories = {}
    for table in registry().tables:
        if isinstance(table.cursor, OffsetCursor):
            exchanges = [(name,) for name in EXCHANGES] if table.layer == "silver" else [()]
            token = make_token(table.cursor, [(*one, 0, end - 1) for one in exchanges])
            histories[table.name] = TableHistory(token=token.to_json())
    return histories


def rows_read(client: Client, histories: Mapping[str, TableHistory]) -> dict[str, int]:
    """The rows that each part of a scrape reads."""
    store = clickhouse_store(None, registry(), histories, timeout=60)  # type: ignore[arg-type]
    read = {}
    for part, samples in store.parts.items():
        counting = Counting(client)
        list(samples(counting))
        read[part] = counting.rows
    return read


def test_a_scrape_reads_no_more_of_tables_that_are_twenty_times_as_large(client: Client) -> None:
    grow(client, 0, SMALL)
    just_now(client, SMALL)
    small = rows_read(client, offloaded(SMALL))
    grow(client, SMALL + 100, LARGE)
    just_now(client, LARGE)
    large = rows_read(client, offloaded(LARGE))
    # The view of the candles reads the record of all settlements, whoever asks it.
    for part in small.keys() - {"query"}:
        assert large[part] < max(2 * small[part], SMALL), (part, small, large)


def test_a_lag_that_cannot_be_told_within_its_bound_is_not_told(client: Client) -> None:
    """No row is new, but the log partitions are mixed, so that no index tells."""
    (silver,) = registry().layer(Layer.SILVER)
    client.command("create table mixed as silver_trades")
    client.command(
        "insert into mixed select * replace (toUInt16(intDiv(trade_id, 2) % 2) as kafka_partition)"
        " from silver_trades"
    )
    token = make_token(
        silver.cursor,
        [(exchange, number, 10 * LARGE) for exchange in EXCHANGES for number in range(2)],
    )
    mixed = silver.model_copy(update={"name": "mixed"})
    with pytest.raises(LagError, match=f"mixed: {SMALL} rows were read and too few of them"):
        read_lag(client, mixed, token, at_most=SMALL)
    assert read_lag(client, mixed, token).rows == 0


def test_a_view_to_silver_that_is_missing_shows_as_lag(client: Client) -> None:
    client.command("drop table bronze_binance_to_silver_mv sync")
    moment = "now64(3) + toIntervalHour(1)"
    for exchange in EXCHANGES:
        client.command(TRADE.format(exchange=exchange, time=moment, first=2 * LARGE, count=10))
    lags = {
        sample.labels: sample.value
        for sample in pipeline.read_silver(client, registry())
        if sample.metric is metrics.SILVER_LAG
    }
    assert lags == {("binance",): pipeline.WINDOW_SECONDS, ("kraken",): 0}
