"""A dead letter that is replayed after a fix reaches Bronze, Silver, Gold and the lake once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from k2.clickhouse import connect
from k2.ingest.bronze import create_bronze
from k2.ingest.dead_letter_replay import replay_dead_letters
from k2.ingest.offsets import REPLAYED
from k2.offload.audit import audit_table
from k2.offload.watermark import DATABASE as WATERMARKS
from k2.registry import registry
from k2.settings import Lake
from k2.transform import run_dbt

from .conftest import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2.settings import Settings

TABLES = ("bronze_trades_binance", "silver_trades", "ohlcv_1m")
CANDLES = ("--select", "path:models/gold/live", "+path:models/gold/views")


@pytest.fixture
def medallion(
    services: Settings, jvm: Any, tmp_path: Path
) -> Iterator[tuple[Settings, dict[str, Bench]]]:
    """Bronze, Silver and Gold in a database of their own, and their tables in a lake."""
    settings = replace(
        services,
        clickhouse=replace(services.clickhouse, database="replayed"),
        lake=Lake(f"file:{tmp_path / 'lake'}", namespace="replayed"),
    )
    with connect(settings.clickhouse, database="default") as client:
        create_bronze(client, registry(), queue="embedded", database="replayed")
    run_dbt(
        ["build", "--quiet", "--resource-type", "seed", "--resource-type", "model"],
        settings,
        state=tmp_path,
    )
    with connect(settings.clickhouse) as client:
        benches = {name: Bench(settings, client, jvm, registry().table(name)) for name in TABLES}
        for bench in benches.values():
            bench.forget()
            bench.create_lake_table()
        yield settings, benches
        client.command("drop database replayed sync")


def message(trade_id: int, event: str = "trade") -> str:
    time = 1_700_000_000_000 + 1_000 * trade_id
    return (
        f'{{"e":"{event}","E":{time},"s":"BTCUSDT","t":{trade_id},"p":"2","q":"{trade_id}",'
        f'"T":{time},"m":true,"M":true}}'
    )


def send(bench: Bench, messages: list[str], *, first_offset: int) -> None:
    bench.client.insert(
        "trades_binance_queue",
        [(text, "topic", 0, first_offset + place) for place, text in enumerate(messages)],
        column_names=["message", "_topic", "_partition", "_offset"],
    )


def accept_fills(bronze: Bench) -> None:
    """The fix: another event type is a trade, too."""
    ((statement,),) = bronze.client.query(
        "select create_table_query from system.tables"
        " where database = 'replayed' and name = 'trades_binance_checked_mv'"
    ).result_rows
    bronze.client.command("drop table replayed.trades_binance_checked_mv sync")
    bronze.client.command(statement.replace("'trade', 'aggTrade'", "'trade', 'aggTrade', 'fill'"))


def test_a_replayed_dead_letter_is_in_every_table_of_the_lake_once(
    medallion: tuple[Settings, dict[str, Bench]], tmp_path: Path
) -> None:
    settings, benches = medallion
    bronze = benches["bronze_trades_binance"]

    def settle_and_offload() -> dict[str, int]:
        run_dbt(["run", "--quiet", *CANDLES], settings, state=tmp_path)
        return {name: bench.offload().rows for name, bench in benches.items()}

    def replay() -> int:
        return replay_dead_letters(
            bronze.client,
            registry(),
            "binance",
            conninfo=settings.postgres.conninfo(WATERMARKS),
            database="replayed",
        ).settled

    send(bronze, [message(1), message(2, "fill"), message(3), message(4, "fill")], first_offset=0)
    settle_and_offload()
    # One of the two is sent again, well this time, before anyone replays it.
    send(bronze, [message(4), message(5)], first_offset=4)
    assert bronze.offload().rows == 2
    accept_fills(bronze)

    assert replay() == 2
    assert settle_and_offload()["bronze_trades_binance"] == 2
    assert replay() == 0
    assert [bench.offload().rows for bench in benches.values()] == [0, 0, 0]

    places = {
        (row["kafka_partition"], row["kafka_offset"], row["sequence_number"])
        for row in bronze.iceberg().scan().to_arrow().to_pylist()
    }
    assert places == {
        (0, 0, 1),
        (0, 2, 3),
        (0, 4, 4),
        (0, 5, 5),
        (REPLAYED, 0, 2),
        (REPLAYED, 1, 4),
    }
    trades = benches["silver_trades"].iceberg().scan().to_arrow()
    assert sorted(trades["trade_id"].to_pylist()) == [1, 2, 3, 4, 5]
    (candle,) = benches["ohlcv_1m"].iceberg().scan().to_arrow().to_pylist()
    assert (candle["trade_count"], candle["volume"]) == (5, 1 + 2 + 3 + 4 + 5)
    for bench in benches.values():
        assert bench.lake_rows() == bench.source_rows()
        assert audit_table(settings, bench.table).equal
