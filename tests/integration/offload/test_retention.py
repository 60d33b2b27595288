"""Retention: ClickHouse forgets what Iceberg keeps, and nothing else, whatever dies meanwhile."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq
import pytest

from k2.ingest.bronze import create_bronze
from k2.ingest.offsets import next_offsets
from k2.maintenance.files import delete_old_rows
from k2.offload import drops, retention, watermark
from k2.offload.audit import AuditError, audit_table, require_equal
from k2.offload.cursor import parse_token
from k2.offload.drops import Reason
from k2.offload.plan import SourceBehindError, require_source_not_behind
from k2.offload.retention import Retention, RetentionError, apply_retention
from k2.registry import Registry, registry
from k2.status import table_statuses

from .rows import START, candle, silver_trade, trade
from .test_maintenance import days_until, keeper_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench

DAYS = 7
# As the tables of K2 are: a partition for each day of ingestion, and the first arrival wins.
BRONZE = """
    exchange_timestamp DateTime64(3, 'UTC'),
    sequence_number UInt64,
    symbol LowCardinality(String),
    price Decimal(18, 8),
    kafka_offset UInt64,
    kafka_partition UInt16,
    ingestion_timestamp DateTime64(3, 'UTC') default now64(3),
    arrival_rank UInt64
        materialized toUInt64(9223372036854775807 - toUnixTimestamp64Milli(ingestion_timestamp))
"""
SILVER = """
    exchange LowCardinality(String),
    canonical_symbol LowCardinality(String),
    timestamp DateTime64(3, 'UTC'),
    trade_id UInt64,
    price Decimal(18, 8),
    kafka_offset UInt64,
    kafka_partition UInt16,
    ingestion_timestamp DateTime64(3, 'UTC') default now64(3),
    arrival_rank UInt128 materialized bitNot(
        bitShiftLeft(toUInt128(toUnixTimestamp64Milli(ingestion_timestamp)), 80)
        + bitShiftLeft(toUInt128(kafka_offset), 16) + toUInt128(kafka_partition)
    )
"""
ENGINE = "ReplacingMergeTree(arrival_rank) order by ({}) partition by toDate(ingestion_timestamp)"
# In the brackets that dbt-clickhouse writes.
DBT_ENGINE = ENGINE.replace("toDate(ingestion_timestamp)", "(toDate(ingestion_timestamp))")


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture
def bronze(make_bench: Callable[..., Bench]) -> Bench:
    order = "kafka_partition, kafka_offset, symbol, sequence_number"
    return make_bench("bronze", columns=BRONZE, engine=ENGINE.format(order), retention_days=DAYS)


@pytest.fixture
def silver(make_bench: Callable[..., Bench]) -> Bench:
    order = "exchange, canonical_symbol, timestamp, trade_id"
    engine = DBT_ENGINE.format(order)
    return make_bench("silver", columns=SILVER, engine=engine, retention_days=DAYS)


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """Three days of ten trades each, in the order of the log, offloaded."""
    feed(bronze)
    bronze.offload()
    return bronze


def feed(bench: Bench) -> None:
    for day in range(3):
        bench.insert([trade(10 * day + number, day=day) for number in range(10)])


def day(number: int) -> dt.date:
    return START.date() + dt.timedelta(days=number)


def on_day(number: int, hour: int = 12) -> dt.datetime:
    return START + dt.timedelta(days=number, hours=hour)


def retain(bench: Bench, today: int) -> Retention:
    """The retention as of a day; `today` counts from the first day of the trades."""
    return apply_retention(bench.settings, bench.table, today=day(today))


def kept(result: Retention) -> list[tuple[dt.date, Reason]]:
    return [(one.day, one.reason) for one in result.kept]


def dropped(result: Retention) -> list[tuple[dt.date, int]]:
    return [(one.day, one.rows) for one in result.dropped]


def offsets(bench: Bench) -> list[int]:
    rows = bench.client.query(f"select kafka_offset from {bench.name} final").result_rows
    return sorted(offset for (offset,) in rows)


def lake_offsets(bench: Bench) -> list[int]:
    rows = bench.iceberg().scan(selected_fields=("kafka_offset",)).to_arrow().to_pylist()
    return sorted(row["kafka_offset"] for row in rows)


def require_audit(bench: Bench) -> None:
    require_equal([audit_table(bench.settings, bench.table)])


def silver_row(number: int, *, offset: int, at: dt.datetime) -> dict[str, Any]:
    row = silver_trade(number, offset=offset, ingestion_timestamp=at)
    del row["arrival_rank"]
    return row


def status(bench: Bench, today: int) -> str | None:
    tables = Registry(tables=(bench.table,), exchanges=registry().exchanges)
    (one,) = table_statuses(bench.settings, tables, today=day(today))
    return one.retention


def records(bench: Bench) -> list[tuple[dt.date, str]]:
    rows = bench.sql(
        "select ingested_on, state from retention_drops where table_name = %s order by 1",
        bench.name,
    )
    return [(row["ingested_on"], row["state"]) for row in rows]


def damage(bench: Bench, partition: str) -> Callable[[], int]:
    """Take a row out of a committed file; the answer puts it back."""
    path = Path(bench.committed_files()[partition][0].removeprefix("file:"))
    content = path.read_bytes()
    pq.write_table(pq.ParquetFile(path).read().slice(1), path)
    return lambda: path.write_bytes(content)


def dying_at(action: str) -> Callable[..., None]:
    """`_alter`, dead before one of its actions."""
    alter = retention._alter

    def die(step: Any, wanted: str, on: dt.date) -> None:
        if wanted == action:
            raise KilledError
        alter(step, wanted, on)

    return die


# What is dropped, and what is kept.


def test_with_the_offload_off_for_longer_than_the_retention_nothing_is_dropped(
    bronze: Bench,
) -> None:
    feed(bronze)
    assert status(bronze, today=12) == "3 days past, kept: not offloaded"
    result = retain(bronze, today=12)
    assert result.dropped == ()
    assert kept(result) == [(day(number), Reason.NOT_OFFLOADED) for number in range(3)]
    assert result.kept[0].detail == "10 rows wait for their offload"
    assert offsets(bronze) == list(range(30))
    assert status(bronze, today=12) == "3 days past, kept: not offloaded"


def test_what_is_offloaded_is_dropped_and_stays_in_iceberg(fed: Bench) -> None:
    before = fed.lake_rows()
    assert len(before) == 30
    assert status(fed, today=12) == "3 days past, due with the next run"
    assert dropped(retain(fed, today=12)) == [(day(number), 10) for number in range(3)]
    assert fed.source_rows() == []
    assert fed.lake_rows() == before
    assert status(fed, today=12) == "ok"
    require_audit(fed)


def test_a_day_is_dropped_once_all_of_it_is_older_than_the_retention(fed: Bench) -> None:
    assert status(fed, today=DAYS) == "ok"
    assert retain(fed, today=DAYS) == Retention(fed.name)
    assert status(fed, today=DAYS + 1) == "1 day past, due with the next run"
    assert dropped(retain(fed, today=DAYS + 1)) == [(day(0), 10)]
    assert offsets(fed) == list(range(10, 30))
    require_audit(fed)


def test_one_row_beyond_the_token_keeps_its_whole_day(fed: Bench) -> None:
    fed.insert([trade(30, day=0)])
    result = retain(fed, today=12)
    assert kept(result) == [(day(0), Reason.NOT_OFFLOADED)]
    assert result.kept[0].detail == "1 rows wait for their offload"
    assert dropped(result) == [(day(1), 10), (day(2), 10)]
    assert status(fed, today=12) == "1 day past, kept: not offloaded"
    fed.offload()
    assert dropped(retain(fed, today=12)) == [(day(0), 11)]
    require_audit(fed)


def test_a_day_is_dropped_of_which_iceberg_has_forgotten_old_trades(bronze: Bench) -> None:
    bench = bronze.with_table(lake_retention_days=30)
    bench.insert([trade(number, ingestion_timestamp=on_day(5)) for number in range(10)])
    bench.insert([trade(number, day=5) for number in range(10, 20)])
    bench.offload()
    forgotten = days_until(on_day(33))
    with watermark.connect(bench.settings.postgres) as postgres:
        delete_old_rows(keeper_of(bench, postgres, days=forgotten))
    assert lake_offsets(bench) == list(range(10, 20))
    (dropped,) = retain(bench, today=13).dropped
    assert (dropped.day, dropped.rows) == (day(5), 20)
    require_audit(bench)


def test_a_day_that_differs_is_kept_and_named_until_it_is_equal(fed: Bench) -> None:
    repair = damage(fed, "2024-11-21")
    result = retain(fed, today=12)
    assert dropped(result) == [(day(0), 10), (day(2), 10)]
    assert kept(result) == [(day(1), Reason.DIFFERS)]
    assert result.kept[0].detail == "ClickHouse 10 rows, Iceberg 9 rows"
    assert status(fed, today=12) == "1 day past, kept: audit differs"
    repair()
    # Reading both sides of a day is no small thing: one that differed waits for the next day.
    assert kept(retain(fed, today=12)) == [(day(1), Reason.DIFFERS)]
    assert dropped(retain(fed, today=13)) == [(day(1), 10)]
    require_audit(fed)


def test_a_value_changed_in_clickhouse_keeps_its_day(fed: Bench) -> None:
    fed.client.command(
        f"alter table {fed.name} update price = price + 1 where kafka_offset = 14"
        " settings mutations_sync = 1"
    )
    assert kept(retain(fed, today=12)) == [(day(1), Reason.DIFFERS)]


def test_a_backfill_of_old_trades_is_kept_as_long_as_the_trades_of_its_day(
    bronze: Bench,
) -> None:
    bronze.insert([trade(n, day=-2000, ingestion_timestamp=on_day(0)) for n in range(5)])
    bronze.offload()
    assert retain(bronze, today=1) == retain(bronze, today=DAYS) == Retention(bronze.name)
    assert offsets(bronze) == list(range(5))
    assert dropped(retain(bronze, today=DAYS + 1)) == [(day(0), 5)]
    require_audit(bronze)


def test_a_second_run_drops_nothing_more(fed: Bench) -> None:
    retain(fed, today=9)
    assert retain(fed, today=9) == Retention(fed.name)
    assert offsets(fed) == list(range(20, 30))
    assert records(fed) == [(day(0), "dropped"), (day(1), "dropped")]


def test_a_table_without_retention_is_left_alone(gold: Bench) -> None:
    gold.insert([candle(0)])
    gold.offload()
    assert retain(gold, today=9999) == Retention(gold.name)
    assert status(gold, today=9999) is None
    assert len(gold.source_rows()) == 1


def test_a_table_that_is_not_partitioned_by_ingestion_is_refused(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("bronze", retention_days=DAYS)
    with pytest.raises(RetentionError, match="is partitioned by ''; partition it by toDate"):
        retain(bench, today=12)
    assert status(bench, today=12) == "not partitioned by ingestion day"


# Copies: a row that was delivered or produced again on a later day.


def test_a_message_delivered_again_after_midnight_does_not_come_back(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(10)])
    bronze.insert(
        [trade(offset, ingestion_timestamp=on_day(1)) for offset in range(8, 10)]
        + [trade(offset, day=1) for offset in range(10, 15)]
    )
    bronze.offload()
    assert dropped(retain(bronze, today=DAYS + 1)) == [(day(0), 10)]
    assert offsets(bronze) == list(range(10, 15))
    require_audit(bronze)
    assert dropped(retain(bronze, today=DAYS + 2)) == [(day(1), 5)]
    require_audit(bronze)


def test_a_trade_produced_again_is_not_offloaded_again_when_its_first_arrival_goes(
    silver: Bench,
) -> None:
    silver.insert([silver_row(number, offset=number, at=on_day(0)) for number in range(5)])
    silver.offload()
    # Beyond the token, and nobody sees it: the first arrival is still there.
    silver.insert([silver_row(2, offset=5, at=on_day(3))])
    assert dropped(retain(silver, today=DAYS + 1)) == [(day(0), 5)]
    assert silver.offload().rows == 0
    assert offsets(silver) == []
    assert lake_offsets(silver) == list(range(5))
    require_audit(silver)


def test_a_copy_goes_with_its_own_day_while_the_first_arrival_is_kept(silver: Bench) -> None:
    silver.insert([silver_row(number, offset=number, at=on_day(0)) for number in range(5)])
    silver.insert([silver_row(2, offset=5, at=on_day(1)), silver_row(9, offset=6, at=on_day(1))])
    silver.offload()
    silver.client.command(
        f"alter table {silver.name} update price = 7 where trade_id = 0 settings mutations_sync = 1"
    )
    result = retain(silver, today=12)
    assert (kept(result), dropped(result)) == ([(day(0), Reason.DIFFERS)], [(day(1), 1)])
    assert offsets(silver) == list(range(5))


# What comes after a drop.


def test_offloads_go_on_after_a_drop(fed: Bench) -> None:
    retain(fed, today=12)
    fed.insert([trade(offset, day=12) for offset in range(30, 35)])
    assert fed.offload().rows == 5
    assert lake_offsets(fed) == list(range(35))
    require_audit(fed)


def test_an_older_day_that_is_kept_does_not_look_like_a_topic_made_anew(fed: Bench) -> None:
    damage(fed, "2024-11-20")
    assert kept(retain(fed, today=12)) == [(day(0), Reason.DIFFERS)]
    token = parse_token(fed.watermark()["token"], fed.table.cursor)
    with pytest.raises(SourceBehindError):
        require_source_not_behind(fed.client, fed.table, token)
    assert fed.offload().rows == 0


def test_a_late_trade_that_had_the_highest_offset_does_not_either(silver: Bench) -> None:
    silver.insert([silver_row(1, offset=9, at=on_day(0))])
    silver.insert([silver_row(2, offset=3, at=on_day(5))])
    silver.offload()
    assert dropped(retain(silver, today=DAYS + 1)) == [(day(0), 1)]
    assert silver.offload().rows == 0
    assert offsets(silver) == [3]


def test_a_topic_made_anew_after_a_drop_stops_the_offload(fed: Bench) -> None:
    retain(fed, today=12)
    new = trade(0)
    del new["ingestion_timestamp"]
    fed.insert([new])
    with pytest.raises(SourceBehindError, match=r"the source ends before \[0, 29\]"):
        fed.offload()


def test_the_audit_goes_on_watching_what_only_iceberg_has(fed: Bench) -> None:
    retain(fed, today=12)
    found = audit_table(fed.settings, fed.table)
    assert (found.clickhouse_rows, found.dropped_rows, found.iceberg_rows) == (0, 30, 30)
    damage(fed, "2024-11-21")
    with pytest.raises(
        AuditError,
        match=r"2024-11-21: ClickHouse 0 rows and 10 dropped by retention, Iceberg 9 rows$",
    ):
        require_audit(fed)


def test_rows_that_come_into_a_day_that_was_dropped_are_kept_and_dropped_in_turn(
    fed: Bench,
) -> None:
    retain(fed, today=12)
    fed.insert([trade(offset, day=1) for offset in range(30, 33)])
    assert kept(retain(fed, today=12)) == [(day(1), Reason.NOT_OFFLOADED)]
    assert fed.offload().rows == 3
    require_audit(fed)
    assert dropped(retain(fed, today=12)) == [(day(1), 3)]
    require_audit(fed)
    assert lake_offsets(fed) == list(range(33))


def test_replay_goes_on_above_what_was_dropped(fed: Bench) -> None:
    name = "bronze_trades_retired"
    fed.client.command(f"create table {name} as {fed.name}")
    bench = replace(fed, table=fed.table.model_copy(update={"name": name}))
    bench.create_lake_table()
    feed(bench)
    bench.offload()
    retain(bench, today=12)
    assert offsets(bench) == []
    database = bench.settings.clickhouse.database
    nothing_else = Registry(tables=(), exchanges=())
    create_bronze(bench.client, nothing_else, queue="embedded", database=database)
    tables = Registry(tables=(bench.table,), exchanges=())
    with psycopg.connect(bench.settings.postgres.conninfo("k2")) as connection:
        free = next_offsets(bench.client, connection, tables, database, "retired")
    assert free == {0: 30}


# Death, and rows that come at the wrong moment.


def test_death_between_check_and_drop_is_harmless(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_alter", dying_at("detach partition"))
        with pytest.raises(KilledError):
            retain(fed, today=DAYS + 1)
    assert records(fed) == [(day(0), "dropping")]
    assert offsets(fed) == list(range(30))
    require_audit(fed)
    assert dropped(retain(fed, today=DAYS + 1)) == [(day(0), 10)]
    assert records(fed) == [(day(0), "dropped")]
    require_audit(fed)


def test_death_in_the_middle_of_a_drop_is_harmless(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_alter", dying_at("drop detached partition"))
        with pytest.raises(KilledError):
            retain(fed, today=DAYS + 1)
    assert drops.detached_parts(fed.client, fed.name, day(0)).count == 1
    require_audit(fed)
    assert fed.offload().rows == 0
    assert retain(fed, today=DAYS + 1) == Retention(fed.name)
    assert drops.detached_parts(fed.client, fed.name, day(0)).count == 0
    assert records(fed) == [(day(0), "dropped")]
    require_audit(fed)


def test_death_between_drop_and_record_is_harmless(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(drops, "set_state", die)
        with pytest.raises(KilledError):
            retain(fed, today=DAYS + 1)
    assert offsets(fed) == list(range(10, 30))
    assert records(fed) == [(day(0), "dropping")]
    require_audit(fed)
    fed.insert([trade(30, day=0)])
    fed.offload()
    require_audit(fed)
    assert dropped(retain(fed, today=DAYS + 1)) == [(day(0), 1)]
    assert records(fed) == [(day(0), "dropped"), (day(0), "dropped")]
    require_audit(fed)


def test_a_row_that_comes_between_check_and_drop_is_not_deleted(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_remove_copies", lambda *_: fed.insert([trade(30, day=0)]))
        result = retain(fed, today=DAYS + 1)
    assert (dropped(result), kept(result)) == ([], [(day(0), Reason.CHANGED)])
    assert offsets(fed) == list(range(31))
    assert records(fed) == []
    require_audit(fed)
    assert kept(retain(fed, today=DAYS + 1)) == [(day(0), Reason.NOT_OFFLOADED)]
    fed.offload()
    assert dropped(retain(fed, today=DAYS + 1)) == [(day(0), 11)]
    require_audit(fed)


def test_death_while_such_a_row_is_put_back_is_harmless(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(retention, "_remove_copies", lambda *_: fed.insert([trade(30, day=0)]))
        patch.setattr(retention, "_alter", dying_at("attach partition"))
        with pytest.raises(KilledError):
            retain(fed, today=DAYS + 1)
    assert records(fed) == [(day(0), "returning")]
    require_audit(fed)
    assert kept(retain(fed, today=DAYS + 1)) == [(day(0), Reason.NOT_OFFLOADED)]
    assert offsets(fed) == list(range(31))
    assert records(fed) == []
    require_audit(fed)


def test_death_after_such_a_row_was_put_back_is_harmless(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_remove_copies", lambda *_: fed.insert([trade(30, day=0)]))
        patch.setattr(drops, "forget", die)
        with pytest.raises(KilledError):
            retain(fed, today=DAYS + 1)
    assert records(fed) == [(day(0), "returning")]
    assert offsets(fed) == list(range(31))
    require_audit(fed)
    assert kept(retain(fed, today=DAYS + 1)) == [(day(0), Reason.NOT_OFFLOADED)]
    assert records(fed) == []


def test_parts_that_somebody_detached_by_hand_are_not_deleted(fed: Bench) -> None:
    fed.client.command(f"alter table {fed.name} detach partition '{day(0)}'")
    fed.insert([trade(number) for number in range(10)])
    assert kept(retain(fed, today=DAYS + 1)) == [(day(0), Reason.DETACHED)]
    assert drops.detached_parts(fed.client, fed.name, day(0)).count == 1
    fed.client.command(f"alter table {fed.name} attach partition '{day(0)}'")
    assert dropped(retain(fed, today=DAYS + 1)) == [(day(0), 10)]
    require_audit(fed)


def test_retention_waits_for_an_audit_that_is_going_on(fed: Bench) -> None:
    waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
    with watermark.connect(fed.settings.postgres) as connection:
        with drops.lock(connection, fed.name, shared=True):
            run = threading.Thread(target=retain, args=(fed, 12))
            run.start()
            while not connection.execute(waiting).fetchall():
                assert run.is_alive()
            assert offsets(fed) == list(range(30))
        run.join()
    assert offsets(fed) == []
