"""What the status says of a table: watermark, lag in rows and seconds, last batch, holder."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from k2.offload.claim import claim
from k2.registry import Registry, registry
from k2.status import TableStatus, table_statuses

from .rows import candle, silver_trade, trade

if TYPE_CHECKING:
    from .conftest import Bench


def status(bench: Bench) -> TableStatus:
    tables = Registry(tables=(bench.table,), exchanges=registry().exchanges)
    (one,) = table_statuses(bench.settings, tables, today=dt.datetime.now(dt.UTC).date())
    return one


def test_a_table_never_offloaded_has_no_watermark_and_no_batch(bronze: Bench) -> None:
    one = status(bronze)
    assert (one.table, one.layer) == (bronze.name, "bronze")
    assert (one.watermark, one.watermark_text, one.last_batch, one.holder) == (None,) * 4
    assert (one.lag_rows, one.lag_seconds) == (0, 0)


def test_lag_is_the_rows_beyond_the_watermark_and_the_age_of_the_oldest(bronze: Bench) -> None:
    now = dt.datetime.now(dt.UTC)
    old, young = now - dt.timedelta(hours=2), now - dt.timedelta(hours=1)
    bronze.insert([trade(0, ingestion_timestamp=now - dt.timedelta(hours=9))])
    bronze.offload()
    bronze.insert([trade(2, ingestion_timestamp=old), trade(1, ingestion_timestamp=young)])
    one = status(bronze)
    assert one.lag_rows == 2
    assert 7200 <= one.lag_seconds < 7200 + 300
    bronze.offload()
    one = status(bronze)
    assert (one.lag_rows, one.lag_seconds) == (0, 0)


def test_a_trade_that_comes_again_does_not_wait(silver: Bench) -> None:
    silver.insert([silver_trade(1, offset=1, arrival_rank=2)])
    silver.offload()
    silver.insert([silver_trade(1, offset=2, arrival_rank=1)])
    assert (status(silver).lag_rows, status(silver).lag_seconds) == (0, 0)
    silver.insert([silver_trade(2, offset=3, arrival_rank=1)])
    assert status(silver).lag_rows == 1


def test_the_last_batch_and_the_watermark_are_shown(bronze: Bench) -> None:
    for offset in range(2):
        bronze.insert([trade(offset)])
        bronze.offload()
    one = status(bronze)
    last = bronze.history()[-1]
    assert (one.last_batch, one.last_rows) == (last["batch"], 1)
    assert one.last_committed_at == last["committed_at"]
    assert one.watermark_text == "offset 2 over 1 partitions"
    assert one.watermark == bronze.lake_table().state().token


def test_a_candle_lags_since_it_was_settled(gold: Bench) -> None:
    gold.insert([candle(0)])
    gold.offload()
    assert status(gold).watermark_text == "2024-12-20 00:00:00"
    settled = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    gold.insert([{**candle(1), "settled_at": settled}])
    one = status(gold)
    assert one.lag_rows == 1
    assert 3600 <= one.lag_seconds < 3600 + 300


def test_who_holds_the_table_is_shown(bronze: Bench) -> None:
    with claim(bronze.settings.postgres, bronze.name):
        assert " process " in (status(bronze).holder or "")
    assert status(bronze).holder is None
