"""An offload that dies, is late, or finds something changed: nothing is lost, nothing comes twice.

Runs are cut off at a step by a lake that raises there; all that came before really happened.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k2.errors import OffloadError
from k2.offload import engine
from k2.offload.claim import ClaimLostError
from k2.offload.cursor import Token, parse_token
from k2.offload.lake import CommitConflictError
from k2.offload.plan import Intent, SourceBehindError, plan_batch
from k2.offload.ranges import next_range
from k2.offload.storage import FileSystem
from k2.offload.unload import VerificationError, unload, verify

from .rows import START, candle, trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.offload.engine import LakeTable

    from .conftest import Bench


class Death(BaseException):
    """The driver dies here."""


class DyingLake:
    """A lake at whose given step the driver dies, before or after it is done."""

    def __init__(self, lake: LakeTable, step: str, *, done: bool) -> None:
        self._lake, self._step, self._done = lake, step, done

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._lake, name)
        if name != self._step:
            return attribute

        def die(*arguments: Any, **options: Any) -> None:
            if self._done:
                attribute(*arguments, **options)
            raise Death

        return die


def die_before(step: str) -> Callable[[LakeTable], Any]:
    return lambda lake: DyingLake(lake, step, done=False)


def die_after(step: str) -> Callable[[LakeTable], Any]:
    return lambda lake: DyingLake(lake, step, done=True)


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """A bronze table with one committed batch, and new rows waiting."""
    bronze.insert([trade(offset) for offset in range(10)])
    bronze.offload()
    bronze.insert([trade(offset, day=offset % 2) for offset in range(10, 20)])
    return bronze


def assert_recovered(bench: Bench, snapshots: int) -> None:
    """The lake has every row once, PostgreSQL has Iceberg's token, nothing is left over."""
    assert bench.lake_rows() == bench.source_rows()
    assert len(bench.snapshots()) == snapshots
    row = bench.watermark()
    token = bench.lake_table().state().token
    assert (row["token"], row["intent"], row["holder"]) == (token, None, None)
    committed = bench.iceberg().inspect.all_data_files()["file_path"].to_pylist()
    assert {f"file:{path}" for path in bench.files()} == set(committed)


# A driver dies.


def test_death_before_the_commit_leaves_an_intent_and_the_retry_takes_the_same_range(
    fed: Bench,
) -> None:
    with pytest.raises(Death):
        fed.offload(die_before("commit"))
    intent = fed.watermark()["intent"]
    leftovers = list(Path(intent["path"].removeprefix("file:")).glob("*.parquet"))
    assert len(leftovers) == 2
    assert len(fed.snapshots()) == 1
    # Rows that arrive meanwhile belong to the batch after it.
    fed.insert([trade(offset) for offset in range(20, 25)])
    assert fed.offload().batches == 2
    assert [batch["batch"] for batch in fed.history()][1] == intent["batch"]
    assert [batch["row_count"] for batch in fed.history()] == [10, 10, 5]
    assert not any(path.exists() for path in leftovers)
    assert_recovered(fed, snapshots=3)


def test_death_of_the_very_first_batch_is_recovered(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(10)])
    with pytest.raises(Death):
        bronze.offload(die_before("commit"))
    bronze.offload()
    assert_recovered(bronze, snapshots=1)


def test_death_after_the_commit_is_recorded_by_the_next_run_and_not_repeated(fed: Bench) -> None:
    with pytest.raises(Death):
        fed.offload(die_after("commit"))
    assert fed.watermark()["token"] != fed.lake_table().state().token
    assert fed.offload().rows == 0
    batch = fed.history()[1]
    assert (batch["row_count"], batch["file_count"]) == (10, 2)
    assert batch["snapshot_id"] == fed.snapshots()[-1]
    assert batch["started_at"] <= batch["committed_at"]
    assert_recovered(fed, snapshots=2)


def test_death_during_recovery_is_recovered(fed: Bench) -> None:
    for step in (die_before("commit"), die_after("fence"), die_after("remove")):
        with pytest.raises(Death):
            fed.offload(step)
    fed.offload()
    assert_recovered(fed, snapshots=2)


def test_a_dead_correction_is_planned_anew(gold: Bench) -> None:
    gold.insert([candle(minute) for minute in range(4)])
    gold.offload()
    gold.insert([candle(1, settled=1, close="7")])
    with pytest.raises(Death):
        gold.offload(die_before("commit"))
    # The row that was planned is gone from the source: a later correction has replaced it.
    gold.insert([candle(1, settled=2, close="8")])
    gold.offload()
    assert_recovered(gold, snapshots=2)


# PostgreSQL and Iceberg disagree: Iceberg is right.


def test_postgresql_behind_iceberg_is_advanced(fed: Bench) -> None:
    earlier = fed.watermark()["token"]
    fed.offload()
    fed.sql("update offload_watermarks set token = %s where table_name = %s", earlier, fed.name)
    assert fed.offload().rows == 0
    assert_recovered(fed, snapshots=2)


def test_postgresql_ahead_of_iceberg_is_put_back(fed: Bench) -> None:
    ahead = Token("kafka_offset", ((0, 10_000),)).to_json()
    fed.sql("update offload_watermarks set token = %s where table_name = %s", ahead, fed.name)
    assert fed.offload().rows == 10
    assert_recovered(fed, snapshots=2)


@pytest.mark.parametrize(
    "damage",
    [
        "delete from offload_watermarks where table_name = %s",
        "update offload_watermarks set token = 'garbage' where table_name = %s",
        "update offload_watermarks set token = null where table_name = %s",
    ],
    ids=["lost", "unreadable", "empty"],
)
def test_postgresql_without_a_usable_token_is_rebuilt(fed: Bench, damage: str) -> None:
    fed.sql(damage, fed.name)
    assert fed.offload().rows == 10
    assert_recovered(fed, snapshots=2)


@pytest.mark.parametrize("intent", ["{}", '{"batch": 1}', '"text"'])
def test_an_unreadable_intent_is_no_obstacle(fed: Bench, intent: str) -> None:
    fed.sql("update offload_watermarks set intent = %s where table_name = %s", intent, fed.name)
    assert fed.offload().rows == 10
    assert_recovered(fed, snapshots=2)


def test_watermarks_begun_anew_do_not_fall_behind_the_epoch_in_iceberg(fed: Bench) -> None:
    for _ in range(3):
        fed.offload()
    fed.lake_table().fence(7)
    fed.sql("delete from offload_watermarks where table_name = %s", fed.name)
    fed.insert([trade(offset) for offset in range(20, 25)])
    assert fed.offload().rows == 5
    assert fed.watermark()["epoch"] > 7
    assert_recovered(fed, snapshots=3)


def test_a_driver_of_lost_watermarks_and_the_next_one_do_not_share_files(bronze: Bench) -> None:
    bronze.insert([trade(1)])
    with pytest.raises(Death):
        bronze.offload(die_before("commit"))
    (left,) = bronze.files()
    bronze.sql("delete from offload_watermarks where table_name = %s", bronze.name)
    assert bronze.offload().rows == 1
    # It was only asleep, and cleans up when it finds that it comes too late.
    bronze.lake_table().remove(f"file:{left.parent}")
    assert bronze.lake_rows() == bronze.source_rows()


def test_an_intent_of_long_ago_is_forgotten(fed: Bench) -> None:
    with pytest.raises(Death):
        fed.offload(die_before("commit"))
    intent = fed.watermark()["intent"]
    fed.offload()
    fed.insert([trade(offset) for offset in range(20, 25)])
    fed.offload()
    # A backup of PostgreSQL from before is restored.
    fed.sql(
        "update offload_watermarks set intent = %s::text::jsonb, token = null"
        " where table_name = %s",
        json.dumps(intent),
        fed.name,
    )
    assert fed.offload().rows == 0
    assert_recovered(fed, snapshots=3)


# The source has less than was offloaded.


def test_a_topic_made_anew_stops_the_offload(fed: Bench) -> None:
    fed.offload()
    snapshots = fed.snapshots()
    fed.client.command(f"truncate table {fed.name}")
    fed.insert([trade(offset) for offset in range(5)])
    with pytest.raises(SourceBehindError, match=rf"^{fed.name}: the source ends before \[0, 19\]"):
        fed.offload()
    assert fed.snapshots() == snapshots


def test_a_topic_made_anew_beside_its_old_rows_stops_the_offload(bronze: Bench) -> None:
    bronze.insert([trade(n, kafka_partition=n % 2) for n in range(40)])
    bronze.offload()
    later = START + dt.timedelta(hours=1)
    bronze.insert(
        [trade(n, kafka_partition=1, sequence_number=100 + n, ingestion_timestamp=later)
         for n in range(3)]
    )  # fmt: skip
    snapshots = bronze.snapshots()
    with pytest.raises(
        SourceBehindError, match=r"at \[1, 0\], before \[1, 39\], ClickHouse has another message"
    ):
        bronze.offload()
    assert bronze.snapshots() == snapshots


def test_a_topic_made_anew_that_has_passed_the_token_stops_the_offload(fed: Bench) -> None:
    fed.offload()
    later = START + dt.timedelta(days=9)
    fed.insert(
        [trade(n, sequence_number=100 + n, ingestion_timestamp=later) for n in range(15, 25)]
    )
    with pytest.raises(SourceBehindError, match=r"at \[0, 15\], before \[0, 19\]"):
        fed.offload()


def test_messages_that_are_read_again_after_clickhouse_dropped_them_are_no_strangers(
    fed: Bench,
) -> None:
    fed.client.command(f"alter table {fed.name} add column fee Int32 default 1")
    fed.offload()
    fed.client.command(f"delete from {fed.name} where kafka_offset < 15")
    later = START + dt.timedelta(days=9)
    fed.insert([trade(n, ingestion_timestamp=later) for n in range(5)])
    fed.insert([trade(n, day=n % 2, ingestion_timestamp=later) for n in range(10, 25)])
    assert fed.offload().rows == 5


def test_a_message_that_was_skipped_and_is_read_again_stops_the_offload(bronze: Bench) -> None:
    bronze.insert([trade(n) for n in range(10) if n != 4])
    bronze.offload()
    bronze.insert([trade(n, ingestion_timestamp=START + dt.timedelta(days=1)) for n in range(10)])
    with pytest.raises(SourceBehindError, match=r"at \[0, 4\], before \[0, 9\]"):
        bronze.offload()


def test_an_old_backup_of_one_partition_of_the_log_stops_the_offload(bronze: Bench) -> None:
    bronze.insert([trade(n, kafka_partition=n % 2) for n in range(10)])
    bronze.offload()
    bronze.client.command(
        f"delete from {bronze.name} where kafka_partition = 1 and kafka_offset > 5"
    )
    bronze.insert([trade(10)])
    with pytest.raises(SourceBehindError, match=r"the source ends before \[1, 9\]"):
        bronze.offload()


def test_a_source_that_forgot_its_old_rows_is_not_behind(fed: Bench) -> None:
    fed.offload()
    fed.client.command(f"truncate table {fed.name}")
    assert fed.offload().rows == 0
    fed.insert([trade(offset) for offset in range(20, 25)])
    assert fed.offload().rows == 5


# Two drivers, and files that are not as planned. Single steps, as a driver takes them.


def planned(bench: Bench, epoch: int) -> Intent:
    text = bench.lake_table().state().token
    lower = parse_token(text, bench.table.cursor) if text else None
    new = next_range(bench.client, bench.table, lower)
    assert new is not None
    directory = f"{bench.lake_table().location}/data"
    return plan_batch(
        bench.client,
        bench.table,
        bench.columns,
        new,
        directory=directory,
        attempt=str(epoch),
    )


def commit(bench: Bench, intent: Intent, epoch: int, *, lake: LakeTable | None = None) -> None:
    lake = lake or bench.lake_table()
    lake.remove(intent.path)
    lake.commit(
        bench.table,
        lake.read_files(
            bench.table, unload(bench.client, FileSystem(), bench.table, bench.columns, intent)
        ),
        expected=intent.lower.to_json() if intent.lower else None,
        token=intent.upper.to_json(),
        epoch=epoch,
        batch=intent.batch,
    )


@pytest.mark.parametrize("layer", ["bronze", "gold"])
@pytest.mark.parametrize("committed_before", [False, True])
def test_of_two_drivers_that_race_one_commits_and_the_other_adds_nothing(
    make_bench: Callable[..., Bench], layer: str, committed_before: bool
) -> None:
    bench = make_bench(layer)
    rows = [trade(n) if layer == "bronze" else candle(n, settled=n) for n in range(10)]
    if committed_before:
        bench.insert(rows[:5])
        bench.offload()
    bench.insert(rows)
    first, second = planned(bench, epoch=5), planned(bench, epoch=6)
    slow = bench.lake_table()
    commit(bench, first, epoch=5)
    snapshots = bench.snapshots()
    # Whether it loaded the table before the other's commit or after it.
    for lake in (slow, bench.lake_table()):
        with pytest.raises(CommitConflictError, match="another run committed first"):
            commit(bench, second, epoch=6, lake=lake)
    assert bench.snapshots() == snapshots
    assert bench.lake_rows() == bench.source_rows()


@pytest.mark.parametrize("committed_before", [False, True])
def test_an_older_epoch_cannot_commit_once_it_is_fenced(
    bronze: Bench, committed_before: bool
) -> None:
    if committed_before:
        bronze.insert([trade(n) for n in range(5)])
        bronze.offload()
    bronze.insert([trade(n) for n in range(5, 10)])
    asleep, intent = bronze.lake_table(), planned(bronze, epoch=3)
    bronze.lake_table().fence(4)
    snapshots = bronze.snapshots()
    with pytest.raises(CommitConflictError):
        commit(bronze, intent, epoch=3, lake=asleep)
    assert bronze.snapshots() == snapshots
    commit(bronze, planned(bronze, epoch=4), epoch=4)
    assert bronze.lake_rows() == bronze.source_rows()


def test_a_driver_whose_claim_is_taken_over_commits_nothing(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(engine, "verify", verify)
        verify(*arguments)
        fed.expire_lease()
        assert fed.offload().rows == 10

    monkeypatch.setattr(engine, "verify", hang_meanwhile)
    with pytest.raises(ClaimLostError, match=f"^{fed.name}: the claim was taken over"):
        fed.offload()
    assert_recovered(fed, snapshots=2)


@pytest.mark.parametrize("damage", ["removed", "all removed", "cut", "emptied", "swapped"])
def test_files_that_are_not_as_planned_are_refused(fed: Bench, damage: str) -> None:
    intent = planned(fed, epoch=9)
    unload(fed.client, FileSystem(), fed.table, fed.columns, intent)
    first, second = sorted(Path(intent.path.removeprefix("file:")).glob("*.parquet"))
    content = first.read_bytes()
    match damage:
        case "removed":
            first.unlink()
        case "all removed":
            first.unlink()
            second.unlink()
        case "cut":
            first.write_bytes(content[: len(content) // 2])
        case "emptied":
            first.write_bytes(b"")
        case "swapped":
            first.write_bytes(second.read_bytes())
            second.write_bytes(content)
    with pytest.raises(VerificationError, match=rf"^batch {intent.batch}: .*Nothing was committed"):
        verify(fed.client, FileSystem(), fed.columns, intent)


def test_a_damaged_file_stops_the_run_and_the_next_one_writes_it_anew(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(*arguments: Any) -> Any:
        files = unload(*arguments)
        Path(files[0].location.removeprefix("file:")).unlink()
        return files

    with monkeypatch.context() as patch:
        patch.setattr(engine, "unload", damaging)
        with pytest.raises(VerificationError):
            fed.offload()
    assert len(fed.snapshots()) == 1
    fed.offload()
    assert_recovered(fed, snapshots=2)


def test_rows_that_change_between_plan_and_unload_are_not_committed(gold: Bench) -> None:
    gold.insert([candle(minute) for minute in range(4)])
    intent = planned(gold, epoch=1)
    gold.insert([candle(1, settled=5, close="7")])
    unload(gold.client, FileSystem(), gold.table, gold.columns, intent)
    with pytest.raises(VerificationError, match="the source changed meanwhile"):
        verify(gold.client, FileSystem(), gold.columns, intent)


def test_only_what_lies_below_the_data_of_the_table_is_removed(fed: Bench) -> None:
    for location in ("file:/tmp", fed.lake_table().location, f"{fed.lake_table().location}/data"):
        with pytest.raises(OffloadError, match="is not below the data"):
            fed.lake_table().remove(location)
