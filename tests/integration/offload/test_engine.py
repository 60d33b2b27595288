"""An offload from end to end: what is in Iceberg afterwards is what is in ClickHouse."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k2.embedded.java import java_home
from k2.jobs import offload
from k2.offload.audit import audit_table
from k2.registry import PartitionRule, registry
from k2.settings import environment_of

from .rows import candle, silver_trade, trade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import SparkSession

    from .conftest import Bench


def test_trades_arrive_row_by_row_in_the_file_of_their_day(bronze: Bench) -> None:
    bronze.insert([trade(offset, day=offset % 3) for offset in range(30)])
    done = bronze.offload()
    assert (done.batches, done.rows) == (1, 30)
    assert bronze.lake_rows() == bronze.source_rows()
    assert sorted(bronze.committed_files()) == ["2024-11-20", "2024-11-21", "2024-11-22"]


def test_types_are_exact_in_pyiceberg(bronze: Bench) -> None:
    bronze.insert(
        [
            trade(
                2**63 - 1,
                sequence_number=2**63 - 1,
                kafka_partition=65535,
                symbol="BTC/USDT ✓",
                price=Decimal("9999999999.99999999"),
            )
        ]
    )
    bronze.offload()
    schema = bronze.iceberg().scan().to_arrow().schema
    assert {field.name: str(field.type) for field in schema} == {
        "exchange_timestamp": "timestamp[us, tz=UTC]",
        "sequence_number": "int64",
        "symbol": "string",
        "price": "decimal128(18, 8)",
        "kafka_offset": "int64",
        "kafka_partition": "int32",
        "ingestion_timestamp": "timestamp[us, tz=UTC]",
    }
    assert bronze.lake_rows() == bronze.source_rows()


def test_a_second_run_adds_no_snapshot(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(5)])
    bronze.offload()
    before = bronze.snapshots(), bronze.files(), bronze.watermark()["token"]
    done = bronze.offload()
    assert (done.batches, done.rows) == (0, 0)
    assert (bronze.snapshots(), bronze.files(), bronze.watermark()["token"]) == before


def test_an_empty_table_adds_no_snapshot(bronze: Bench) -> None:
    assert bronze.offload().batches == 0
    assert bronze.snapshots() == []


def test_late_and_out_of_order_trades_and_new_partitions_of_the_log_are_taken(
    bronze: Bench,
) -> None:
    bronze.insert([trade(offset, day=5) for offset in range(10)])
    bronze.offload()
    bronze.insert([trade(10, day=0), trade(0, day=5, kafka_partition=7)])
    assert bronze.offload().rows == 2
    assert bronze.lake_rows() == bronze.source_rows()


def test_a_replayed_message_is_not_offloaded_again(bronze: Bench) -> None:
    rows = [trade(offset) for offset in range(10)]
    bronze.insert(rows)
    bronze.offload()
    bronze.insert(rows[3:])
    assert bronze.offload().rows == 0
    assert bronze.lake_rows() == bronze.source_rows()


def test_a_large_range_is_moved_in_batches(make_bench: Callable[..., Bench]) -> None:
    bronze = make_bench("bronze", max_batch_rows=25)
    bronze.insert([trade(offset, kafka_partition=offset % 2) for offset in range(100)])
    done = bronze.offload()
    assert done.batches >= 4
    assert len(bronze.snapshots()) == done.batches == len(bronze.history())
    assert sum(batch["row_count"] for batch in bronze.history()) == 100
    assert bronze.lake_rows() == bronze.source_rows()


def test_the_history_records_each_batch(bronze: Bench) -> None:
    bronze.insert([trade(offset, day=offset % 2) for offset in range(10)])
    bronze.offload()
    (batch,) = bronze.history()
    files = [Path(path) for paths in bronze.committed_files().values() for path in paths]
    files = [Path(str(path).removeprefix("file:")) for path in files]
    assert batch["row_count"] == 10
    assert batch["file_count"] == 2
    assert batch["byte_count"] == sum(path.stat().st_size for path in files)
    assert [(part["partition"], part["rows"]) for part in batch["partitions"]] == [
        ("2024-11-20", 5),
        ("2024-11-21", 5),
    ]
    assert batch["snapshot_id"] == bronze.snapshots()[-1]
    assert batch["started_at"] <= batch["committed_at"]
    assert bronze.watermark()["token"] == batch["upper_token"] == bronze.lake_table().state().token
    assert bronze.watermark()["intent"] is None


@pytest.mark.parametrize("together", [True, False], ids=["one run", "a run between"])
def test_a_trade_produced_twice_is_one_trade_in_the_lake(silver: Bench, together: bool) -> None:
    # The higher the rank, the earlier the arrival: the first one stays.
    silver.insert([silver_trade(number, offset=number, arrival_rank=9) for number in range(6)])
    if not together:
        silver.offload()
    again = [silver_trade(number, offset=number + 6, arrival_rank=5) for number in range(4)]
    silver.insert([*again, silver_trade(6, offset=10, arrival_rank=5)])
    silver.offload()
    assert [row[3] for row in silver.lake_rows()] == list(range(7))
    assert silver.lake_rows() == silver.source_rows()


def test_two_exchanges_share_silver_without_mixing_their_offsets(silver: Bench) -> None:
    silver.insert([silver_trade(number, offset=number) for number in range(9)])
    silver.offload()
    silver.insert([silver_trade(number, offset=number, exchange="kraken") for number in range(4)])
    assert silver.offload().rows == 4
    assert silver.lake_rows() == silver.source_rows()


def test_a_corrected_candle_replaces_the_old_one_and_touches_only_its_day(gold: Bench) -> None:
    gold.insert([candle(minute, day=day) for day in range(3) for minute in range(4)])
    gold.offload()
    before = gold.committed_files()
    gold.insert([candle(2, day=1, close="99.5", settled=1)])
    done = gold.offload()
    after = gold.committed_files()
    assert done.rows == 4
    assert gold.lake_rows() == gold.source_rows()
    assert len(gold.lake_rows()) == 12
    assert {name for name in before if before[name] != after[name]} == {"2024-11-21"}


def test_a_new_candle_joins_those_of_its_day(gold: Bench) -> None:
    gold.insert([candle(0)])
    gold.offload()
    gold.insert([candle(1, settled=1)])
    gold.offload()
    assert gold.lake_rows() == gold.source_rows()
    assert len(gold.lake_rows()) == 2


@pytest.mark.parametrize(
    ("by", "partitions"),
    [
        ("day", ["1969-12-31", "1970-01-01", "2023-12-31", "2024-02-29"]),
        ("month", ["1969-12", "1970-01", "2023-12", "2024-02"]),
        ("year", ["1969", "1970", "2023", "2024"]),
    ],
)
def test_each_partitioning_puts_a_row_where_a_reader_looks_for_it(
    make_bench: Callable[..., Bench], by: Any, partitions: Sequence[str]
) -> None:
    bench = make_bench("bronze", partition=PartitionRule(column="exchange_timestamp", by=by))
    times = [
        dt.datetime(1969, 12, 31, 23, 59, 59, 999000, dt.UTC),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2023, 12, 31, 23, 59, 59, 999000, dt.UTC),
        dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    ]
    bench.insert([trade(n, exchange_timestamp=time) for n, time in enumerate(times)])
    bench.offload()
    assert sorted(bench.committed_files()) == partitions
    assert bench.lake_rows() == bench.source_rows()
    for time in times:
        found = bench.iceberg().scan(row_filter=f"exchange_timestamp = '{time.isoformat()}'")
        assert found.to_arrow().num_rows == 1
    assert audit_table(bench.settings, bench.table).equal


def test_more_days_than_one_statement_writes_at_once(bronze: Bench) -> None:
    bronze.insert([trade(offset, day=offset) for offset in range(70)])
    bronze.offload()
    assert len(bronze.committed_files()) == 70
    assert bronze.lake_rows() == bronze.source_rows()


def test_a_number_that_does_not_fit_stops_the_offload_and_commits_nothing(bronze: Bench) -> None:
    bronze.insert([trade(0, sequence_number=2**63)])
    with pytest.raises(Exception, match=r"sequence_number|cannot be safely converted"):
        bronze.offload()
    assert bronze.snapshots() == []


# Spark: what the job commits, and what a user reads.


def test_spark_reads_the_same_rows(bronze: Bench, spark: SparkSession) -> None:
    bronze.insert(
        [
            trade(2**63 - 1, sequence_number=2**63 - 1, kafka_partition=65535, symbol="é✓"),
            trade(0, price=Decimal("0.00000001"), day=3),
        ]
    )
    bronze.offload()
    frame = spark.table(f"lake.cold.{bronze.name}")
    assert dict(frame.dtypes) == {
        "exchange_timestamp": "timestamp",
        "sequence_number": "bigint",
        "symbol": "string",
        "price": "decimal(18,8)",
        "kafka_offset": "bigint",
        "kafka_partition": "int",
        "ingestion_timestamp": "timestamp",
    }
    # Times as numbers: Python would turn them into the zone of its process.
    numbers = frame.selectExpr(
        *(f"unix_micros({name})" if "timestamp" in name else name for name in frame.columns)
    )
    expected = [tuple(_microseconds(value) for value in row) for row in bronze.source_rows()]
    assert sorted(tuple(row) for row in numbers.collect()) == expected


def _microseconds(value: object) -> object:
    if not isinstance(value, dt.datetime):
        return value
    return (value.replace(tzinfo=dt.UTC) - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(
        microseconds=1
    )


def test_the_spark_job_offloads_a_table_of_the_registry(
    make_bench: Callable[..., Bench], jvm: Any
) -> None:
    bench = make_bench("bronze")
    name = registry().table("bronze_trades_kraken").name
    bench.client.command(f"rename table {bench.name} to {name}")
    bench = bench.with_table(name=name)
    bench.create_lake_table()
    bench.insert([trade(offset) for offset in range(20)])
    done = _submit(bench, name)
    assert done.returncode == 0, done.stdout
    assert "event=offloaded" in done.stdout
    assert bench.lake_rows() == bench.source_rows()
    bench.insert([trade(20, sequence_number=2**63)])
    done = _submit(bench, name)
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if "level=error" in line)
    assert "sequence_number" in line or "cannot be safely converted" in line
    assert "Traceback" not in done.stdout


def test_the_spark_job_refuses_an_unknown_table_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert offload.main(["no_such_table"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "unknown table 'no_such_table'" in errors
    assert errors.count("\n") == 1


def _submit(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "spark-submit"
    # spark-submit passes both outputs of the job on to its own standard output.
    return subprocess.run(
        [program, "--master", "local[1]", offload.__file__, *arguments],
        env={
            **os.environ,
            **environment_of(bench.settings),
            "JAVA_HOME": str(java_home()),
            "PYSPARK_PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
