"""Where settling ends: in the midst of a market's trades, and of what ClickHouse reads at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count, product
from typing import TYPE_CHECKING

from .reference import Trade

if TYPE_CHECKING:
    from .conftest import Warehouse

# So many that granules of Silver (2048 rows) begin within a minute's last second.
TRADES_PER_MILLISECOND = 4
MILLISECONDS = 1000


def test_a_settled_minute_has_the_trades_of_its_last_second(warehouse: Warehouse) -> None:
    this_minute = datetime.now(UTC).replace(second=0, microsecond=0)
    # Around the beginnings of three minutes: settling ends at the second of them, or at the third.
    times = [
        round((this_minute + timedelta(minutes=minute)).timestamp() * 1000) + millisecond
        for minute, millisecond in product((-1, 0, 1), range(-MILLISECONDS, MILLISECONDS))
        for _ in range(TRADES_PER_MILLISECOND)
    ]
    trades = [
        Trade(number, time, Decimal(5), Decimal(1), "buy")
        for number, time in zip(count(), times, strict=False)
    ]
    warehouse.feed("binance", [trade.bronze_row(trade.trade_id) for trade in trades])
    warehouse.dbt("build", "--select", "+ohlcv_1m", "--exclude-resource-type", "test", "unit_test")
    in_a_second = MILLISECONDS * TRADES_PER_MILLISECOND
    settled = warehouse.query("select trade_count from ohlcv_1m final order by window_start")
    assert settled[:2] == [(in_a_second,), (2 * in_a_second,)]
