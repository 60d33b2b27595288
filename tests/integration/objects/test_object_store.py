"""The lake on a real S3 server: exactly once, also where the server fails; no key shows."""

from __future__ import annotations

import gzip
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from tests.configured_clickhouse import start_configured, users_with_only

from k2.clickhouse import connect
from k2.embedded.stack import OBJECT_STORE_ACCESS, restart_clickhouse
from k2.embedded.state import HOST, free_port
from k2.errors import OffloadError
from k2.initialise import initialise
from k2.jobs import maintain_command, offload_command, submit_command
from k2.offload.audit import audit_table, require_equal
from k2.offload.catalog import load_table, open_catalog
from k2.offload.lake import require_in_lake
from k2.offload.storage import storage_of
from k2.offload.storage_errors import StorageError
from k2.registry import Layer, registry
from k2.settings import ClickHouse
from k2.transform import build_layer, run_dbt

from .conftest import BUCKET, KEY, KEYS, SECRET, Lakehouse, Run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from clickhouse_connect.driver.client import Client

# The first time, versitygw is built.
pytestmark = [pytest.mark.s3, pytest.mark.timeout(1800)]

BRONZE = "bronze_trades_binance"
ONE_OF_EACH_LAYER = (BRONZE, "silver_trades", "ohlcv_1m")


def require_every_row_once(lakehouse: Lakehouse, *tables: str) -> None:
    """Both sides are equal, nothing waits, and no Parquet file lies there without a snapshot."""
    settings = lakehouse.stack.settings
    catalog = open_catalog(settings)
    for name in tables:
        audit = audit_table(settings, registry().table(name))
        require_equal([audit])
        assert audit.waiting_rows == 0
        files = load_table(catalog, settings, name).inspect.all_data_files()["file_path"]
        assert set(files.to_pylist()) == {
            f"s3://{BUCKET}/{key}" for key in lakehouse.store.objects(lakehouse.data_prefix(name))
        }


@pytest.fixture(scope="module")
def offloaded(lakehouse: Lakehouse) -> Lakehouse:
    """A day and some hours of trades, through all layers into the lake."""
    lakehouse.feed(hours=26)
    for layer in Layer:
        if layer is not Layer.BRONZE:
            settings, state = lakehouse.stack.settings, lakehouse.stack.directory / "dbt"
            run_dbt(build_layer(layer.value), settings, state=state, on_line=lambda _: None)
        for table in registry().layer(layer):
            run = lakehouse.offload(table.name)
            assert run.status == 0, run.output
    return lakehouse


def test_every_table_of_every_layer_is_in_the_bucket_once(offloaded: Lakehouse) -> None:
    names = [table.name for table in registry().tables]
    require_every_row_once(offloaded, *names)
    for name in names:
        assert offloaded.location(name).startswith(f"s3://{BUCKET}/crypto/lake/")
        assert offloaded.snapshots(name) == 1
    assert not (offloaded.stack.directory / "lake").exists()


@pytest.mark.parametrize("table", ONE_OF_EACH_LAYER)
def test_a_rerun_adds_nothing(offloaded: Lakehouse, table: str) -> None:
    before = offloaded.store.objects("crypto")
    run = offloaded.offload(table)
    assert run.status == 0, run.output
    assert "batches=0" in run.last_line
    assert (offloaded.snapshots(table), offloaded.store.objects("crypto")) == (1, before)


@pytest.mark.parametrize("table", ONE_OF_EACH_LAYER)
def test_spark_and_pyiceberg_read_what_clickhouse_has(offloaded: Lakehouse, table: str) -> None:
    settings = offloaded.stack.settings
    with connect(settings.clickhouse) as client:
        ((rows,),) = client.query(f"select count() from {table} final").result_rows
    assert load_table(open_catalog(settings), settings, table).scan().to_arrow().num_rows == rows
    script = Path(__file__).with_name("read_with_spark.py")
    run = offloaded.run(submit_command(script, table, cores=1))
    assert f"rows={rows}" in run.output.splitlines(), run.output


# Faults.


def refused_by(lakehouse: Lakehouse, run: Run, what: str) -> bool:
    """Whether a run ended with the one line that says what an object store's client was told."""
    assert run.status == 1, run.output
    assert run.output.count("offload stopped") == 1
    assert "Traceback" not in run.output
    line = f"the object store at {lakehouse.store.address}, asked by {what}"
    return line in run.last_line


@pytest.fixture
def waiting(offloaded: Lakehouse) -> Iterator[Lakehouse]:
    """Trades that are not offloaded yet. Whatever a test does, the next run takes them once."""
    with connect(offloaded.stack.settings.clickhouse) as client:
        client.command(
            f"insert into {BRONZE} (kafka_partition, kafka_offset, sequence_number, symbol, side,"
            " price, quantity, quote_volume, exchange_timestamp, event_time)"
            " select 0, 1 + (select max(kafka_offset) from " + BRONZE + ") + number, number,"
            " 'BTCUSDT', 'buy', 1, 1, 1, toDateTime64('2026-01-05 00:00:00', 3, 'UTC')"
            " + number % 4 * 86400, now64(3) from numbers(400)"
        )
    token, snapshots = offloaded.token(BRONZE), offloaded.snapshots(BRONZE)
    yield offloaded
    assert offloaded.token(BRONZE) == token
    assert offloaded.snapshots(BRONZE) == snapshots
    run = offloaded.offload(BRONZE)
    assert run.status == 0, run.output
    assert "rows=400" in run.last_line
    assert offloaded.snapshots(BRONZE) == snapshots + 1
    require_every_row_once(offloaded, BRONZE)


def test_a_wrong_key_of_the_driver_stops_the_run(waiting: Lakehouse) -> None:
    run = waiting.offload(BRONZE, AWS_SECRET_ACCESS_KEY="wrong")
    correct = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
    assert refused_by(waiting, run, f"Spark: the key is refused; {correct}"), run.output


def test_a_key_that_nobody_has_stops_the_run(waiting: Lakehouse) -> None:
    run = waiting.offload(BRONZE, AWS_ACCESS_KEY_ID="NOBODYHASTHISKEY0001")
    assert refused_by(waiting, run, "Spark: the key is refused"), run.output


def test_a_run_without_a_key_is_told_to_set_one(waiting: Lakehouse) -> None:
    run = waiting.offload(BRONZE, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert refused_by(waiting, run, "Spark: there is no key; set AWS_ACCESS_KEY_ID"), run.output


def test_a_wrong_key_of_clickhouse_stops_the_run(
    waiting: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        restart_clickhouse(waiting.stack)
    run = waiting.offload(BRONZE, **KEYS)
    assert refused_by(waiting, run, "ClickHouse: the key is refused"), run.output
    restart_clickhouse(waiting.stack)


def test_a_bucket_that_is_not_there_stops_the_run(waiting: Lakehouse) -> None:
    with waiting.store.without_its_bucket():
        run = waiting.offload(BRONZE)
        settings = waiting.stack.settings
        with pytest.raises(StorageError, match=f"PyIceberg: .* there is no bucket '{BUCKET}'"):
            audit_table(settings, registry().table(BRONZE))
    assert refused_by(waiting, run, f"Spark: there is no bucket '{BUCKET}'"), run.output


def test_a_store_that_is_down_stops_the_run(waiting: Lakehouse) -> None:
    waiting.store.kill()
    run = waiting.offload(BRONZE)
    waiting.store.start()
    assert refused_by(waiting, run, "Spark: it does not answer; start it"), run.output


@pytest.fixture
def paused(waiting: Lakehouse, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start an offload that waits at a point of its way, until its directory has the file `go`."""
    started: list[subprocess.Popen[str]] = []

    def start(point: str) -> subprocess.Popen[str]:
        command = offload_command(BRONZE, cores=1)
        job = waiting.start(command, K2_FAULT=f"{point}:pause:{tmp_path}")
        started.append(job)
        while not (tmp_path / "reached").exists():
            assert job.poll() is None, waiting.end(job).output
            time.sleep(0.01)
        return job

    yield start
    for job in started:
        job.kill()
        job.wait()


def test_a_store_killed_while_clickhouse_writes_stops_the_run(
    waiting: Lakehouse, paused: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = paused("intended")
    # The connections of ClickHouse are taken, and stay without an answer until it is killed.
    waiting.store.freeze()
    (tmp_path / "go").touch()
    with connect(waiting.stack.settings.clickhouse) as client:
        while not client.query(
            "select 1 from system.processes where query ilike 'insert into function s3(%'"
        ).result_rows:
            assert job.poll() is None, waiting.end(job).output
    waiting.store.kill()
    run = waiting.end(job)
    waiting.store.start()
    assert refused_by(waiting, run, "ClickHouse: it does not answer"), run.output


def test_a_store_killed_between_writing_and_verifying_leaves_files_that_the_next_run_removes(
    waiting: Lakehouse, paused: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    before = waiting.store.objects(waiting.data_prefix(BRONZE))
    job = paused("unloaded")
    left = waiting.store.objects(waiting.data_prefix(BRONZE)) - before
    assert len(left) == 4
    waiting.store.kill()
    (tmp_path / "go").touch()
    run = waiting.end(job)
    waiting.store.start()
    assert run.status == 1, run.output
    assert left <= waiting.store.objects(waiting.data_prefix(BRONZE))


def test_a_store_killed_before_the_metadata_is_replaced_stops_the_run(
    waiting: Lakehouse, paused: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = paused("swapping")
    waiting.store.kill()
    (tmp_path / "go").touch()
    run = waiting.end(job)
    waiting.store.start()
    assert refused_by(waiting, run, "Spark: it does not answer"), run.output


def test_init_on_a_bucket_that_is_not_there_names_it(offloaded: Lakehouse) -> None:
    stack = offloaded.stack
    elsewhere = replace(
        stack.settings.lake, warehouse="s3://no-such-bucket/lake", namespace="elsewhere"
    )
    settings = replace(stack.settings, lake=elsewhere)
    with pytest.raises(StorageError, match=r"there is no bucket 'no-such-bucket'; create it"):
        initialise(settings, registry(), queue="embedded", state=stack.directory / "dbt", say=print)


def test_a_table_of_another_lake_is_not_written_to(offloaded: Lakehouse) -> None:
    lake = replace(offloaded.stack.settings.lake, warehouse="s3://another-bucket/lake")
    with pytest.raises(OffloadError, match="the lake has moved since the table was made"):
        require_in_lake(offloaded.location(BRONZE), lake)


# Grants.


@pytest.fixture
def as_user(
    lakehouse: Lakehouse, tmp_path: Path
) -> Callable[[str], AbstractContextManager[Client]]:
    """A ClickHouse as one user of users.xml, with the access to the store that all share."""

    @contextmanager
    def run(user: str) -> Iterator[Client]:
        directory, port = tmp_path / user, free_port()
        directory.mkdir()
        users = directory / "users.xml"
        users.write_text(users_with_only(user))
        configuration = OBJECT_STORE_ACCESS.read_text().replace(
            "<clickhouse>", f"<clickhouse><users_config>{users}</users_config>"
        )
        process = start_configured(directory, configuration, port=port, password="p")
        try:
            with connect(ClickHouse(HOST, port, "k2", "p"), database="system") as client:
                yield client
        finally:
            process.terminate()
            process.wait()

    return run


def test_of_the_programs_only_the_offload_writes_to_the_store(
    lakehouse: Lakehouse, as_user: Callable[[str], AbstractContextManager[Client]]
) -> None:
    storage = storage_of(lakehouse.stack.settings.lake)
    location = f"s3://{BUCKET}/grants/1.parquet"
    statement = f"insert into function {storage.parquet_sql(location)} select 1 as x"
    settings = dict(storage.query_settings)
    with as_user("k2_offload") as client:
        client.command(statement, settings=settings)
        rows = client.query(f"select x from {storage.parquet_sql(location)}").result_rows
        assert rows == [(1,)]
        elsewhere = statement.replace("format =", "use_environment_credentials = 0, format =")
        with pytest.raises(DatabaseError, match=r"not allowed|overrid"):
            client.command(elsewhere, settings=settings)
    for user in ("k2_reader", "k2_dbt", "k2_ingest"):
        with as_user(user) as client, pytest.raises(DatabaseError, match=r"ACCESS_DENIED|READONLY"):
            client.command(statement)


# Maintenance.


def test_maintenance_joins_small_files_and_removes_orphans(offloaded: Lakehouse) -> None:
    for number in range(6):
        with connect(offloaded.stack.settings.clickhouse) as client:
            client.command(
                "insert into bronze_trades_kraken"
                f" select * replace(kafka_offset + {1_000_000 * (number + 1)} as kafka_offset)"
                " from (select * from bronze_trades_kraken order by kafka_offset limit 100)"
            )
        assert "batches=1" in offloaded.offload("bronze_trades_kraken").last_line
    folder = offloaded.store.data / BUCKET / offloaded.data_prefix("bronze_trades_kraken")
    before = len(offloaded.store.objects(offloaded.data_prefix("bronze_trades_kraken")))
    old, young = folder / "old" / "1.parquet", folder / "young" / "1.parquet"
    for path, days in ((old, 4), (young, 1)):
        path.parent.mkdir()
        path.write_bytes(b"left over")
        os.utime(path, (time.time() - days * 86_400,) * 2)
    run = offloaded.run(maintain_command("bronze_trades_kraken", cores=1))
    assert run.status == 0, run.output
    assert (old.exists(), young.exists()) == (False, True)
    settings = offloaded.stack.settings
    files = load_table(open_catalog(settings), settings, "bronze_trades_kraken").scan().plan_files()
    assert len(list(files)) < before
    require_equal([audit_table(settings, registry().table("bronze_trades_kraken"))])
    run = offloaded.offload("bronze_trades_kraken")
    assert "batches=0" in run.last_line


# Secrets: after all of the above.


def test_no_key_is_in_a_log_an_argument_or_a_file(
    offloaded: Lakehouse, arguments_seen: set[str]
) -> None:
    texts = {"arguments": "\n".join(arguments_seen), "outputs": "\n".join(offloaded.outputs)}
    assert any("offload.py" in argument for argument in arguments_seen)
    assert any(str(offloaded.store.program) == argument for argument in arguments_seen)
    for path in [*offloaded.stack.directory.rglob("*"), *offloaded.store.data.rglob("*")]:
        if path.is_file() and "clickhouse/store" not in str(path):
            content = path.read_bytes()
            if path.suffixes[-3:] == [".gz", ".metadata", ".json"]:
                content = gzip.decompress(content)
            texts[str(path)] = content.decode(errors="replace")
    texts["log of the object store"] = offloaded.store.log.read_text()
    assert any(name.endswith("clickhouse.log") for name in texts)
    assert any(name.endswith(".metadata.json") for name in texts)
    found = [name for name, text in texts.items() if KEY in text or SECRET in text]
    assert found == []


def test_clickhouse_shows_no_key_to_who_asks(offloaded: Lakehouse) -> None:
    with connect(offloaded.stack.settings.clickhouse) as client:
        ((collection,),) = client.query(
            "select toString(collection) from system.named_collections"
        ).result_rows
    assert KEY not in collection
    assert SECRET not in collection
