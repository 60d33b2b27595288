"""Maintenance: fewer files, snapshots and manifests, the same rows, beside offloads that go on."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs
from tests.crash.driver import write_registry

from k2.embedded.java import java_home
from k2.jobs import maintain_command
from k2.maintenance import files
from k2.maintenance.files import delete_old_rows
from k2.maintenance.keeper import MIN_INPUTS, Keeper, MaintenanceError
from k2.maintenance.metadata import merge_manifests
from k2.maintenance.run import maintain
from k2.offload import watermark
from k2.offload.audit import audit_table, require_equal
from k2.offload.lineage import TOKEN, LakeChangedError
from k2.settings import environment_of

from .conftest import COLUMNS
from .rows import START, candle, trade
from .test_protocol import Death, die_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2.registry import Table

    from .conftest import Bench

# As few as make compaction worth it.
BATCHES = MIN_INPUTS
Log = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def session(jvm: Any) -> Iterator[Any]:
    """A Spark session in the shared JVM, made there as the job makes it."""
    builder = jvm.jvm.org.apache.spark.sql.SparkSession.builder().master("local[2]")
    builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "1").getOrCreate()
    yield session
    session.stop()


@pytest.fixture
def keep(session: Any) -> Callable[..., Log]:
    """Maintain a table so many days from now; its log lines by event.

    `meanwhile` happens whenever something is planned and Spark is about to begin.
    """

    def run(
        bench: Bench, *, days: float = 0, meanwhile: Callable[[], object] = lambda: None
    ) -> Log:
        def spark() -> Any:
            meanwhile()
            return session

        with watermark.connect(bench.settings.postgres) as postgres, capture_logs() as log:
            maintain(keeper_of(bench, postgres, days=days, spark=spark))
        return {line["event"]: dict(line) for line in log}

    return run


def keeper_of(bench: Bench, postgres: Any, *, days: float = 0, spark: Any = None) -> Keeper:
    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)

    return Keeper(bench.lake_table(), bench.table, bench.gateway.jvm, postgres, now, spark)  # type: ignore[arg-type]


def feed(bench: Bench, batch: int) -> None:
    """Ten trades, on two days and in two log partitions, offloaded on their own."""
    numbers = range(10 * batch, 10 * batch + 10)
    bench.insert([trade(n, day=n % 2, kafka_partition=n // 2 % 2) for n in numbers])
    bench.offload()


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """Two days of trades in Iceberg, each in as many files as there were offloads."""
    for batch in range(BATCHES):
        feed(bronze, batch)
    return bronze


@pytest.fixture
def young(bronze: Bench) -> Bench:
    """The same after one offload: nothing to compact."""
    feed(bronze, 0)
    return bronze


def require_every_row_once(bench: Bench) -> None:
    assert bench.lake_rows() == bench.source_rows()
    require_equal([audit_table(bench.settings, bench.table)])
    assert bench.offload().rows == 0


def token(bench: Bench) -> str | None:
    return bench.iceberg().properties.get(TOKEN)


def current_files(bench: Bench) -> list[Path]:
    tasks = bench.iceberg().scan().plan_files()
    return sorted(Path(task.file.file_path.removeprefix("file:")) for task in tasks)


def days_until(day: dt.datetime) -> float:
    return (day - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)


# Compaction.


def test_small_files_become_one_for_each_partition_with_the_same_rows(
    fed: Bench, keep: Callable[..., Log]
) -> None:
    before = token(fed)
    log = keep(fed)["compaction"]
    assert (log["files_before"], log["files"], log["partitions"]) == (2 * BATCHES, 2, 2)
    assert log["rows_before"] == log["rows"] == 10 * BATCHES
    assert log["bytes_before"] > log["bytes"] > 0
    for path in current_files(fed):
        require_sorted(path, fed.table)
    assert token(fed) == before
    require_every_row_once(fed)
    feed(fed, BATCHES)
    require_every_row_once(fed)


def require_sorted(path: Path, table: Table) -> None:
    rows = pq.read_table(path, columns=list(table.order)).to_pylist()
    places = [tuple(row.values()) for row in rows]
    assert places == sorted(places)
    # From both log partitions, and so from every batch.
    assert {place[0] for place in places} == {0, 1}


def test_a_partition_with_few_files_is_left_as_it_is(fed: Bench, keep: Callable[..., Log]) -> None:
    for batch in range(2):
        fed.insert([trade(1000 + batch, day=5)])
        fed.offload()
    few = [path for path in current_files(fed) if path.stem == "2024-11-25"]
    keep(fed)
    assert len(few) == 2
    assert set(few) < set(current_files(fed))
    assert len(current_files(fed)) == 4


def test_a_second_run_commits_nothing(fed: Bench, keep: Callable[..., Log]) -> None:
    keep(fed)
    location = fed.iceberg().metadata_location
    keep(fed)
    assert fed.iceberg().metadata_location == location


def test_a_file_reaches_the_size_of_the_registry_and_is_then_fine(
    make_bench: Callable[..., Bench], keep: Callable[..., Log]
) -> None:
    # 2 KB that do not compress.
    payload = (
        ", payload String default"
        " arrayStringConcat(arrayMap(n -> hex(sipHash128(kafka_offset, n)), range(64)))"
    )
    bench = make_bench("bronze", columns=COLUMNS["bronze"] + payload, target_file_mb=1)
    for batch in range(BATCHES):
        bench.insert([trade(n) for n in range(500 * batch, 500 * batch + 500)])
        bench.offload()
    keep(bench)
    sizes = [path.stat().st_size for path in current_files(bench)]
    assert 1 < len(sizes) < BATCHES
    assert max(sizes) < 1.8 * 1024 * 1024
    assert keep(bench)["compaction"]["partitions"] == 0
    require_every_row_once(bench)


# Offloads beside it.


def test_trades_that_are_offloaded_during_a_compaction_stay_beside_it(
    fed: Bench, keep: Callable[..., Log]
) -> None:
    batches = iter(range(BATCHES, 99))
    keep(fed, meanwhile=lambda: feed(fed, next(batches)))
    assert len(current_files(fed)) < 2 * BATCHES
    require_every_row_once(fed)


@pytest.fixture
def corrected(gold: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A day of candles whose one file is to be compacted, though it is fine."""
    options = files._options
    monkeypatch.setattr(files, "_options", lambda keeper: options(keeper) | {"rewrite-all": "true"})
    gold.insert([candle(minute) for minute in range(10)])
    gold.offload()
    return gold


def correct(bench: Bench, seconds: int) -> None:
    bench.insert([candle(3, settled=seconds, close=str(seconds))])
    bench.offload()


def test_a_compaction_that_a_correction_overtakes_is_made_again(
    corrected: Bench, keep: Callable[..., Log]
) -> None:
    corrections = iter([1])
    log = keep(corrected, meanwhile=lambda: [correct(corrected, n) for n in corrections])
    assert log["compaction"]["partitions"] == 1
    (file,) = current_files(corrected)
    assert file.parent.name == "window_start_day=2024-11-20"
    require_every_row_once(corrected)


def test_a_partition_that_is_corrected_again_and_again_is_left_to_the_next_run(
    corrected: Bench, keep: Callable[..., Log]
) -> None:
    corrections = iter(range(1, 99))
    log = keep(corrected, meanwhile=lambda: correct(corrected, next(corrections)))
    overtaken = log["compaction overtaken by offloads, left to the next run"]
    assert overtaken["partitions"] == ["2024-11-20"]
    assert log["compaction"]["partitions"] == 0
    require_every_row_once(corrected)


@pytest.mark.parametrize("layer", ["bronze", "gold"])
def test_offloads_go_on_while_a_table_is_maintained_again_and_again(
    make_bench: Callable[..., Bench], keep: Callable[..., Log], layer: str
) -> None:
    # Snapshots are expired as soon as they are not needed; files stay young.
    bench = make_bench(layer, orphan_days=99)
    rows: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "bronze": lambda n: [trade(10 * n + m, day=m % 2) for m in range(10)],
        "gold": lambda n: [
            candle(8 * n + m, day=m % 2, settled=n, close=str(n)) for m in range(10)
        ],
    }
    bench.insert(rows[layer](0))
    bench.offload()
    over, runs = threading.Event(), list[Log]()

    def maintain_again_and_again() -> None:
        while not over.is_set():
            runs.append(keep(bench, days=9))

    keeper = threading.Thread(target=maintain_again_and_again)
    keeper.start()
    try:
        for batch in range(1, 100):
            bench.insert(rows[layer](batch))
            bench.offload()
            if not keeper.is_alive() or (batch >= 8 and len(runs) >= 3):
                break
    finally:
        over.set()
        keeper.join()
    assert len(runs) >= 3
    require_every_row_once(bench)


# Expiry and manifests.


def test_old_snapshots_expire_and_the_one_with_the_token_stays(
    fed: Bench, keep: Callable[..., Log]
) -> None:
    before = token(fed)
    keep(fed)
    keep(fed, days=4)
    assert len(fed.snapshots()) > BATCHES
    keep(fed, days=6)
    tokens = [one.summary.additional_properties.get(TOKEN) for one in fed.iceberg().snapshots()]  # type: ignore[union-attr]
    assert tokens[0] == token(fed) == before
    assert set(tokens[1:]) == {None}
    require_every_row_once(fed)


def test_what_only_expired_snapshots_had_is_gone_after_the_next_offload(
    fed: Bench, keep: Callable[..., Log]
) -> None:
    keep(fed)
    feed(fed, BATCHES)
    keep(fed, days=6)
    assert len(fed.snapshots()) == 1
    assert fed.files() == set(current_files(fed))
    data = Path(fed.iceberg().location().removeprefix("file:")) / "data"
    assert all(any(folder.iterdir()) for folder in data.iterdir())
    require_every_row_once(fed)


def test_small_manifests_become_one(fed: Bench) -> None:
    snapshot = fed.iceberg().current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(fed.iceberg().io)) == BATCHES
    with watermark.connect(fed.settings.postgres) as postgres:
        figures = merge_manifests(keeper_of(fed, postgres))
    assert figures == {"manifests": 1, "manifests_before": BATCHES}
    require_every_row_once(fed)


# Orphans.


@pytest.fixture
def dead(young: Bench) -> Bench:
    """The same, and a driver that died when its files were written, before its commit."""
    young.insert([trade(offset, day=3) for offset in range(1000, 1010)])
    with pytest.raises(Death):
        young.offload(die_before("commit"))
    return young


def left_over(bench: Bench) -> set[Path]:
    return {path for path in bench.files() if path.stem == "2024-11-23"}


def test_the_files_of_an_intended_batch_stay_however_old_they_are(
    dead: Bench, keep: Callable[..., Log]
) -> None:
    intended = left_over(dead)
    keep(dead, days=99)
    assert left_over(dead) == intended != set()
    assert dead.offload().rows == 10
    require_every_row_once(dead)


def test_the_files_of_a_dead_driver_go_when_they_are_old_and_nobody_intends_them(
    dead: Bench, keep: Callable[..., Log]
) -> None:
    (orphan,) = left_over(dead)
    # As when PostgreSQL was made anew.
    dead.sql("delete from offload_watermarks where table_name = %s", dead.name)
    keep(dead, days=2)
    assert orphan.exists()
    size = orphan.stat().st_size
    log = keep(dead, days=4)
    assert (log["orphans"]["removed_files"], log["orphans"]["removed_bytes"]) >= (1, size)
    assert not orphan.parent.exists()
    assert dead.offload().rows == 10
    require_every_row_once(dead)


def test_an_intent_that_cannot_be_read_keeps_every_file(
    dead: Bench, keep: Callable[..., Log]
) -> None:
    dead.sql("update offload_watermarks set intent = '{}' where table_name = %s", dead.name)
    with pytest.raises(MaintenanceError, match=f"run 'k2 offload {dead.name}'"):
        keep(dead, days=99)
    assert left_over(dead)
    dead.offload()
    keep(dead, days=99)
    assert not left_over(dead) - set(current_files(dead))
    require_every_row_once(dead)


def test_files_that_come_and_go_while_orphans_are_searched_do_not_stop_the_search(
    fed: Bench, keep: Callable[..., Log]
) -> None:
    # As commits leave manifest lists and take them away again, only more often.
    folders = [
        Path(fed.iceberg().location().removeprefix("file:")) / name for name in ("metadata", "data")
    ]
    over, rounds = threading.Event(), itertools.count()

    def come_and_go() -> None:
        while not over.is_set():
            files = [folder / f"{n}.avro" for folder in folders for n in range(200)]
            for file in files:
                file.touch()
            for file in files:
                file.unlink()
            next(rounds)

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        for _ in range(3):
            keep(fed)
    finally:
        over.set()
        writer.join()
    assert next(rounds) > 3
    require_every_row_once(fed)


# Retention in Iceberg.


def forget(bench: Bench, *, days: float, keeping: int | None = 30) -> dict[str, Any]:
    """Retention alone, so many days after the first trade; rows before and after."""
    bench, before = bench.with_table(lake_retention_days=keeping), len(bench.lake_rows())
    with watermark.connect(bench.settings.postgres) as postgres:
        now = days_until(START + dt.timedelta(days=days))
        done = delete_old_rows(keeper_of(bench, postgres, days=now))
    return {**done, "rows_before": before, "rows": len(bench.lake_rows())}


def require_audited(bench: Bench, *, rows: int) -> None:
    audit = audit_table(bench.settings, bench.table)
    assert (audit.equal, audit.iceberg_rows) == (True, rows)


def test_old_partitions_are_deleted_and_the_audit_compares_the_others(
    young: Bench, keep: Callable[..., Log]
) -> None:
    bench, before = young.with_table(lake_retention_days=30), token(young)
    on_the_last_day = days_until(START + dt.timedelta(days=30.9))
    assert keep(bench, days=on_the_last_day)["retention"]["rows"] == 10
    log = keep(bench, days=on_the_last_day + 1)["retention"]
    assert (log["rows_before"], log["rows"]) == (10, 5)
    assert log["kept_from"] == START.date() + dt.timedelta(days=1)
    assert {path.stem for path in current_files(bench)} == {"2024-11-21"}
    assert token(bench) == before
    (audited,) = audit_table(bench.settings, bench.table).partitions
    assert (audited.partition, audited.equal, audited.iceberg.rows) == ("2024-11-21", True, 5)
    assert bench.offload().rows == 0


def test_late_rows_of_a_deleted_day_are_offloaded_and_deleted_in_turn(young: Bench) -> None:
    forget(young, days=31.5)
    feed(young, 1)
    require_audited(young, rows=10)
    done = forget(young, days=31.5)
    assert (done["rows_before"], done["rows"]) == (15, 10)
    require_audited(young, rows=10)


def test_a_longer_retention_does_not_ask_for_what_is_gone(young: Bench) -> None:
    assert forget(young, days=31.5)["rows"] == 5
    feed(young, 1)
    for keeping in (60, None):
        forget(young, days=31.5, keeping=keeping)
        require_audited(young, rows=10)


def test_a_message_of_a_deleted_day_that_is_delivered_again_is_no_stranger(young: Bench) -> None:
    forget(young, days=31.5)
    again = START + dt.timedelta(days=9)
    young.insert(
        [trade(n, day=n % 2, kafka_partition=n // 2 % 2, ingestion_timestamp=again) for n in (0, 1)]
    )
    assert young.offload().rows == 0


# What stops it.


def test_a_table_that_was_rolled_back_is_left_alone(young: Bench, keep: Callable[..., Log]) -> None:
    feed(young, 1)
    young.iceberg().manage_snapshots().set_current_snapshot(young.snapshots()[0]).commit()
    location, there = young.iceberg().metadata_location, young.files()
    with pytest.raises(LakeChangedError, match="was rolled back"):
        keep(young, days=99)
    assert (young.iceberg().metadata_location, young.files()) == (location, there)


def test_a_rewrite_that_has_lost_rows_is_named(corrected: Bench, keep: Callable[..., Log]) -> None:
    def rewrite_without_a_row() -> None:
        lake = corrected.lake_table().in_jvm  # type: ignore[attr-defined]
        (task,) = lake.newScan().planFiles().iterator()
        location = task.file().location()
        less = Path(location.removeprefix("file:")).with_suffix(".less.parquet")
        pq.write_table(pq.read_table(location.removeprefix("file:")).slice(1), less)
        builder = corrected.gateway.jvm.org.apache.iceberg.DataFiles.builder(lake.spec())
        file = builder.copy(task.file()).withPath(f"file:{less}").withRecordCount(9)
        file = file.withFileSizeInBytes(less.stat().st_size).withSplitOffsets(None).build()
        lake.newRewrite().deleteFile(task.file()).addFile(file).commit()

    once = iter([rewrite_without_a_row])
    with pytest.raises(MaintenanceError, match=r"snapshot \d+ replaced 10 rows by 9; see"):
        keep(corrected, meanwhile=lambda: [rewrite() for rewrite in once])


def test_a_second_run_of_the_same_table_ends_at_once(
    young: Bench, keep: Callable[..., Log]
) -> None:
    def second() -> None:
        with pytest.raises(MaintenanceError, match="is being maintained by another run"):
            keep(young)

    keep(young, meanwhile=second)
    require_every_row_once(young)


def test_a_table_without_a_snapshot_has_nothing_to_maintain(
    bronze: Bench, keep: Callable[..., Log]
) -> None:
    location = bronze.iceberg().metadata_location
    keep(bronze.with_table(lake_retention_days=1), days=99)
    assert bronze.iceberg().metadata_location == location


# The job.


def test_the_job_is_killed_and_run_again_and_a_table_that_fails_stops_no_other(
    fed: Bench, tmp_path: Path
) -> None:
    write_registry(tmp_path / "registry", fed.table, fed.table.model_copy(update={"name": "gone"}))
    known = fed.files()
    with start_job(fed, tmp_path, fed.name) as job:
        while fed.files() == known:
            assert job.poll() is None
        os.killpg(job.pid, signal.SIGKILL)
    assert fed.lake_rows() == fed.source_rows()
    with start_job(fed, tmp_path, "gone", fed.name) as job:
        output, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    (error,) = (line for line in output.splitlines() if "level=error" in line)
    assert "table=gone" in error
    assert "not in the Iceberg catalog" in error
    for step in ("retention", "compaction", "expiry", "manifests", "orphans"):
        assert output.count(f"event={step} ") == 1
    assert len(current_files(fed)) == 2
    require_every_row_once(fed)


def start_job(bench: Bench, directory: Path, *tables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        maintain_command(*tables, cores=1),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            **environment_of(bench.settings),
            "JAVA_HOME": str(java_home()),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_DIRS": str(directory),
            "K2_REGISTRY": str(directory / "registry"),
        },
        start_new_session=True,
    )
