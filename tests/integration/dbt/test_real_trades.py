"""Real trades, shuffled, some produced twice, some batches replayed: candles as by pandas."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from k2.transform import TransformError

from .conftest import GOLD_TABLES, PROJECT, Warehouse
from .reference import CANDLE_COLUMNS, TIMEFRAMES, Trade, read_archive, reference_candles

if TYPE_CHECKING:
    from collections.abc import Sequence

ARCHIVE = PROJECT.parent / "shared" / "data" / "XRPETH-aggTrades-2019-10-11.csv"
BATCH = 500

# A trade of the archive's second minute that comes after all others.
LATE = Trade(1, 1570752060000, Decimal("0.00200000"), Decimal("7.00000000"), "buy")

Fingerprint = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Story:
    """What was seen on the way: the tests read it, so that each run of dbt serves many."""

    trades: list[Trade]
    candles: dict[str, list[tuple[object, ...]]]
    view_candles: dict[str, list[tuple[object, ...]]]
    silver_rows: int
    messages: int
    settled: Fingerprint
    settled_again: Fingerprint
    rewound: Fingerprint
    refreshed: Fingerprint


@pytest.fixture(scope="module")
def story(warehouse: Warehouse) -> Story:
    if not ARCHIVE.exists():
        pytest.skip(f"the real trades are not here: {ARCHIVE.name} is expected in ../shared/data")
    trades = read_archive(ARCHIVE)
    batches = _batches(trades)
    # Bronze has trades before dbt runs for the first time, and gets more afterwards.
    for batch in batches[: len(batches) // 3]:
        warehouse.feed("binance", batch)
    warehouse.dbt("build")
    for batch in batches[len(batches) // 3 :]:
        warehouse.feed("binance", batch)
    warehouse.dbt("run")
    settled = warehouse.fingerprint()
    candles = {table: _candles(warehouse, f"{table} final") for table in GOLD_TABLES}
    views = {table: _candles(warehouse, f"{table}_view") for table in GOLD_TABLES}
    warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    settled_again = warehouse.fingerprint()
    warehouse.dbt("run-operation", "rewind_settlement")
    warehouse.dbt("run")
    rewound = warehouse.fingerprint()
    warehouse.dbt("run", "--full-refresh")
    return Story(
        trades=trades,
        candles=candles,
        view_candles=views,
        silver_rows=settled["silver_trades"][0],
        messages=len({row[-2] for batch in batches for row in batch}),
        settled=settled,
        settled_again=settled_again,
        rewound=rewound,
        refreshed=warehouse.fingerprint(),
    )


@pytest.fixture(scope="module")
def late(story: Story, warehouse: Warehouse) -> dict[str, list[tuple[object, ...]]]:
    """The windows that have a new version after one late trade, by table."""
    warehouse.feed("binance", [LATE.bronze_row(offset=10_000_000)])
    warehouse.dbt("run")
    return {
        table: warehouse.query(
            f"select window_start from {table} final "
            f"where settled_at > '{story.refreshed[table][2]:%Y-%m-%d %H:%M:%S.%f}'"
        )
        for table in GOLD_TABLES
    }


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_settled_candles_equal_the_reference(story: Story, table: str) -> None:
    assert story.candles[table] == reference_candles(story.trades, table)


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_views_give_the_settled_candles(story: Story, table: str) -> None:
    assert story.view_candles[table] == reference_candles(story.trades, table)


def test_a_trade_produced_twice_is_one_trade(story: Story) -> None:
    assert story.messages > len(story.trades)
    assert story.silver_rows == len(story.trades)


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert story.settled_again == story.settled


def test_looking_at_every_trade_again_changes_nothing(story: Story) -> None:
    assert story.rewound == story.settled


def test_a_full_refresh_neither_empties_silver_nor_rewrites_a_candle(story: Story) -> None:
    assert story.refreshed == story.settled


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_a_late_trade_settles_its_own_windows_anew(
    late: dict[str, list[tuple[object, ...]]], table: str
) -> None:
    length = timedelta(seconds=_seconds(table))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    window = LATE.time - (LATE.time - epoch) % length
    assert late[table] == [(window.replace(tzinfo=None),)]


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_candles_with_the_late_trade_equal_the_reference(
    story: Story, late: object, warehouse: Warehouse, table: str
) -> None:
    expected = reference_candles([*story.trades, LATE], table)
    assert _candles(warehouse, f"{table} final") == expected


@pytest.mark.usefixtures("late")
def test_a_wrong_candle_fails_the_comparison_with_its_minutes(warehouse: Warehouse) -> None:
    warehouse.command(
        "insert into ohlcv_5m select * replace (volume + 1 as volume, now64(3) as settled_at) "
        "from ohlcv_5m final order by window_start desc limit 1"
    )
    with pytest.raises(TransformError, match="candles_equal_minutes_ohlcv_5m"):
        warehouse.dbt("test", "--select", "ohlcv_5m", "--exclude-resource-type", "unit_test")


def test_a_candle_that_is_gone_is_missed(late: object, warehouse: Warehouse) -> None:
    warehouse.command("delete from ohlcv_15m where trade_count > 100")
    with pytest.raises(TransformError, match="candles_equal_minutes_ohlcv_15m"):
        warehouse.dbt("test", "--select", "ohlcv_15m", "--exclude-resource-type", "unit_test")


def _batches(trades: Sequence[Trade]) -> list[list[tuple[object, ...]]]:
    """The trades as a log: shuffled, 5% in it twice, 30% of its batches delivered twice."""
    chance = random.Random(20191011)  # noqa: S311 - a reproducible shuffle
    log = [*trades, *chance.sample(list(trades), len(trades) // 20)]
    chance.shuffle(log)
    rows = [trade.bronze_row(offset) for offset, trade in enumerate(log)]
    batches = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    return [again for batch in batches for again in [batch] * (1 + (chance.random() < 0.3))]


def _candles(warehouse: Warehouse, source: str) -> list[tuple[object, ...]]:
    return warehouse.query(
        f"select {', '.join(CANDLE_COLUMNS)} from {source} "
        "where exchange = 'binance' and canonical_symbol = 'XRP/ETH' order by window_start"
    )


def _seconds(table: str) -> int:
    return {"1min": 60, "5min": 300, "15min": 900, "30min": 1800, "1h": 3600, "1D": 86400}[
        TIMEFRAMES[table]
    ]
