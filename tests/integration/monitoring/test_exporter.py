"""What the exporter tells of a real stack, and what of one whose stores are away."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2.clickhouse import connect
from k2.embedded.state import free_port
from k2.monitoring import metrics, pipeline
from k2.monitoring.exporter import Exporter, exposition
from k2.offload import watermark
from k2.offload.claim import claim
from k2.registry import Layer, registry
from k2.settings import environment_of
from k2.status import table_statuses

from .conftest import NOT_TRADES, Stack, Values, feed, metrics_of, of_table, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = {table.name for table in registry().tables}
FIRST = registry().tables[0].name
STORES = ("clickhouse", "lake", "postgres")


def stores(values: Values) -> dict[str, float]:
    """Which stores are up."""
    return {dict(labels)["store"]: value for labels, value in values["k2_up"].items()}


def failed_parts(values: Values) -> set[str]:
    return {dict(labels)["part"] for labels, one in values["k2_read_success"].items() if not one}


# Before anything was created.


def test_an_empty_stack_is_up_and_its_missing_tables_are_told(clean_stack: Stack) -> None:
    with connect(clean_stack.settings.clickhouse, database="default") as client:
        if client.command("exists database k2"):
            pytest.skip("another test has created its tables")
    values = clean_stack.scrape()
    assert stores(values)["postgres"] == 1
    assert {"offload", "audit"} <= failed_parts(values)


# Its figures.


@pytest.fixture(scope="module")
def values(stack: Stack) -> Values:
    """A scrape while a table is claimed."""
    with claim(stack.settings.postgres, FIRST):
        return stack.scrape()


def test_every_metric_has_a_value(values: Values) -> None:
    # Of Kafka there is none here; `ingest/test_consumer_lag.py` has one.
    assert {name for name, of_it in values.items() if not of_it} == {metrics.KAFKA_LAG.name}
    assert set(values) == {metric.name for metric in metrics.METRICS}


def test_every_store_is_up_and_every_part_is_read(values: Values) -> None:
    assert stores(values) == dict.fromkeys(STORES, 1)
    assert failed_parts(values) == set()


def test_lags_and_batches_are_those_of_the_status(stack: Stack, values: Values) -> None:
    today = dt.datetime.now(dt.UTC).date()
    statuses = {one.table: one for one in table_statuses(stack.settings, registry(), today=today)}
    lags = of_table(values, "k2_offload_lag_rows")
    assert lags == {name: one.lag_rows for name, one in statuses.items()}
    assert lags["bronze_trades_binance"] > 0
    assert lags["ohlcv_1d"] == 0
    assert of_table(values, "k2_offload_last_batch_rows") == {
        name: one.last_rows for name, one in statuses.items()
    }
    seconds = of_table(values, "k2_offload_lag_seconds")
    assert {name for name, age in seconds.items() if age > 0} == {
        name for name, rows in lags.items() if rows
    }


def test_totals_are_the_sums_of_the_history(stack: Stack, values: Values) -> None:
    with watermark.connect(stack.settings.postgres) as connection:
        spent = watermark.time_spent(connection)
    assert of_table(values, "k2_offload_rows_total") == {
        name: rows for name, (rows, _) in spent.items()
    }
    assert set(of_table(values, "k2_offload_batches_total").values()) == {1}
    rates = of_table(values, "k2_offload_last_batch_rows_per_second")
    for name, (rows, seconds) in spent.items():
        assert rates[name] == pytest.approx(rows / seconds)


def test_runs_are_counted_by_how_they_ended(values: Values) -> None:
    assert of_table(values, "k2_offload_successes_total") == dict.fromkeys(TABLES, 1)
    failures = of_table(values, "k2_offload_failures_total")
    assert failures == {**dict.fromkeys(TABLES, 0), FIRST: 1}
    assert set(of_table(values, "k2_offload_failure_timestamp_seconds")) == {FIRST}
    failed = of_table(values, "k2_offload_failure_timestamp_seconds")[FIRST]
    assert of_table(values, "k2_offload_success_timestamp_seconds")[FIRST] > failed


def test_a_claim_is_shown_with_its_lease_while_it_is_held(stack: Stack, values: Values) -> None:
    assert of_table(values, "k2_offload_claim_held") == {**dict.fromkeys(TABLES, 0), FIRST: 1}
    (claimed,) = of_table(values, "k2_offload_claim_timestamp_seconds").values()
    (lease,) = of_table(values, "k2_offload_lease_timestamp_seconds").values()
    assert claimed < lease
    after = stack.scrape()
    assert set(of_table(after, "k2_offload_claim_held").values()) == {0}
    assert after["k2_offload_lease_timestamp_seconds"] == {}


def test_equal_audits_show_no_difference(values: Values) -> None:
    assert of_table(values, "k2_audit_differences") == dict.fromkeys(TABLES, 0)
    assert set(of_table(values, "k2_audit_timestamp_seconds")) == TABLES


def test_dead_letters_are_counted_by_reason(values: Values) -> None:
    ((labels, count),) = values["k2_dead_letters_last_hour"].items()
    assert dict(labels)["exchange"] == "kraken"
    assert dict(labels)["reason"]
    assert count == NOT_TRADES


def test_findings_are_those_of_the_newest_checks(values: Values) -> None:
    counts = {
        (dict(labels)["layer"], dict(labels)["status"]): value
        for labels, value in values["k2_quality_findings"].items()
    }
    assert set(counts) == {(layer.value, status) for layer in Layer for status in ("warn", "error")}
    found = [dict(labels) for labels in values["k2_quality_finding_value"]]
    assert {"bronze", "warn", "dead_letters", "kraken", ""} in [set(one.values()) for one in found]
    for (layer, status), count in counts.items():
        assert count == sum((one["layer"], one["status"]) == (layer, status) for one in found)


def test_silver_is_as_far_as_bronze_and_gold_is_settled(values: Values) -> None:
    assert set(values["k2_silver_lag_seconds"].values()) == {0}
    gold = {table.name for table in registry().layer(Layer.GOLD)}
    assert set(of_table(values, "k2_gold_lag_seconds")) == gold
    assert set(of_table(values, "k2_candle_timestamp_seconds")) == gold
    (live,) = values["k2_live_candle_timestamp_seconds"].values()
    assert live == max(values["k2_ingestion_timestamp_seconds"].values())


def test_rates_are_the_trades_of_the_last_minute(stack: Stack) -> None:
    feed(stack.settings, seed=3, trades=900)
    values = stack.scrape()
    for name in ("k2_ingestion_rows_per_second", "k2_silver_rows_per_second"):
        rates = {dict(labels)["exchange"]: rate for labels, rate in values[name].items()}
        assert set(rates) == {exchange.name for exchange in registry().exchanges}
        assert all(rate * pipeline.WINDOW_SECONDS >= 400 for rate in rates.values())


def test_a_table_that_is_missing_hides_no_other(stack: Stack) -> None:
    with connect(stack.settings.clickhouse) as client:
        client.command(f"rename table {FIRST} to away")
        try:
            values = stack.scrape()
        finally:
            client.command(f"rename table away to {FIRST}")
    assert set(of_table(values, "k2_offload_lag_rows")) == TABLES - {FIRST}
    assert {f"lag {FIRST}"} <= failed_parts(values)
    assert stores(values) == dict.fromkeys(STORES, 1)


# Stores that are away.


@pytest.fixture
def without_postgres(stack: Stack) -> Iterator[Stack]:
    stack.postgres.stop()
    yield stack
    stack.postgres.start()


@pytest.fixture
def frozen_clickhouse(stack: Stack) -> Iterator[Stack]:
    stack.clickhouse.freeze()
    yield stack
    stack.clickhouse.go_on()


@pytest.fixture
def without_clickhouse(stack: Stack) -> Iterator[Stack]:
    stack.clickhouse.kill()
    yield stack
    stack.clickhouse.start()


def test_without_postgresql_the_others_are_told(without_postgres: Stack) -> None:
    values = without_postgres.scrape()
    assert stores(values) == {**dict.fromkeys(STORES, 1), "postgres": 0}
    assert values["k2_offload_rows_total"] == {}
    # Without the watermarks everything would seem to wait.
    assert values["k2_offload_lag_rows"] == {}
    assert failed_parts(values) == {f"lag {table}" for table in TABLES}
    assert values["k2_gold_lag_seconds"]
    assert values["k2_disk_free_bytes"]


def test_a_clickhouse_that_hangs_is_down_and_the_others_are_told(frozen_clickhouse: Stack) -> None:
    exporter = Exporter(frozen_clickhouse.settings, registry(), store_seconds=1)
    # Asked again while the first question still hangs.
    for _ in range(2):
        values = parse(exposition(exporter))
        assert stores(values) == {**dict.fromkeys(STORES, 1), "clickhouse": 0}
        assert set(of_table(values, "k2_offload_rows_total")) == TABLES


def test_a_store_that_is_back_is_told_again(
    stack: Stack, capfd: pytest.CaptureFixture[str]
) -> None:
    exporter = Exporter(stack.settings, registry())
    stack.postgres.stop()
    try:
        for _ in range(2):
            assert stores(parse(exposition(exporter)))["postgres"] == 0
    finally:
        stack.postgres.start()
    assert stores(parse(exposition(exporter)))["postgres"] == 1
    lines = [line for line in capfd.readouterr().out.splitlines() if "metrics." in line]
    assert sum("metrics.missing" in line and "postgres" in line for line in lines) == 1
    assert sum("metrics.back" in line and "postgres" in line for line in lines) == 1


def test_a_lake_that_is_not_there_is_down(stack: Stack, tmp_path: Path) -> None:
    lake = Path(stack.settings.lake.warehouse.removeprefix("file:"))
    away = lake.with_name("away")
    shutil.move(lake, away)
    try:
        values = stack.scrape()
    finally:
        shutil.move(away, lake)
    assert stores(values) == {**dict.fromkeys(STORES, 1), "lake": 0}


def test_without_clickhouse_the_others_are_told(without_clickhouse: Stack) -> None:
    values = without_clickhouse.scrape()
    assert stores(values) == {**dict.fromkeys(STORES, 1), "clickhouse": 0}
    assert set(of_table(values, "k2_offload_rows_total")) == TABLES
    assert set(of_table(values, "k2_audit_differences")) == TABLES
    assert values["k2_ingestion_rows_per_second"] == {}


def test_kafka_that_does_not_answer_is_down(stack: Stack) -> None:
    values = stack.scrape(brokers=f"127.0.0.1:{free_port()}", store_seconds=2)
    assert stores(values) == {**dict.fromkeys(STORES, 1), "kafka": 0}


# As a command.


def test_it_is_served_until_it_is_asked_to_end(stack: Stack) -> None:
    with stack.serving() as address:
        values = metrics_of(address)
        assert set(of_table(values, "k2_offload_lag_rows")) == TABLES
        assert metrics_of(address).keys() == values.keys()


def test_it_is_printed_once(stack: Stack) -> None:
    done = _k2_metrics(stack)
    assert (done.returncode, done.stderr) == (0, "")
    assert "# HELP k2_offload_lag_rows " in done.stdout
    assert set(of_table(parse(done.stdout), "k2_offload_lag_rows")) == TABLES


def test_a_port_in_use_is_named_in_one_line(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _k2_metrics(stack, "--serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: 127.0.0.1:{port} cannot be used (Address already in use); "
        "choose another port with --port\n"
    )


def _k2_metrics(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "k2.cli", "metrics", *arguments],
        env={**os.environ, **environment_of(stack.settings)},
        capture_output=True,
        text=True,
    )
