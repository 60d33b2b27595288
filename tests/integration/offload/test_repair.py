"""An Iceberg table that was rolled back or replaced: a clear error, and two ways out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from k2.errors import OffloadError
from k2.offload import engine, repair
from k2.offload.audit import audit_table
from k2.offload.catalog import open_catalog
from k2.offload.claim import ClaimHeldError, claim
from k2.offload.lake import CommitConflictError
from k2.offload.lineage import BATCH, TOKEN, LakeChangedError
from k2.offload.repair import RepairError
from k2.offload.unload import verify
from k2.settings import environment_of

from .compaction import compact
from .rows import candle, trade
from .test_protocol import Death, die_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """A bronze table with three committed batches of ten trades."""
    for first in (0, 10, 20):
        feed(bronze, first)
    return bronze


def feed(bench: Bench, first: int) -> None:
    bench.insert([trade(offset) for offset in range(first, first + 10)])
    bench.offload()


def roll_back(bench: Bench, snapshot: int) -> None:
    bench.iceberg().manage_snapshots().set_current_snapshot(snapshot).commit()


def expire(bench: Bench, *snapshots: int) -> None:
    lake = bench.lake_table()._table
    expiry = lake.expireSnapshots()
    for snapshot in snapshots:
        expiry = expiry.expireSnapshotId(snapshot)
    expiry.commit()


def set_properties(bench: Bench, **changes: str | None) -> None:
    with bench.iceberg().transaction() as transaction:
        for name, value in changes.items():
            key = f"k2.{name}"
            if value is None:
                transaction.remove_properties(key)
            else:
                transaction.set_properties({key: value})


def replace(bench: Bench) -> None:
    open_catalog(bench.settings).drop_table(bench.iceberg().name())
    bench.create_lake_table()


def assert_equal(bench: Bench) -> None:
    """Every row once; PostgreSQL and Iceberg agree; nothing is left to do or to repair."""
    assert bench.lake_rows() == bench.source_rows()
    assert audit_table(bench.settings, bench.table).equal
    assert bench.watermark()["token"] == bench.iceberg().properties[TOKEN]
    assert bench.watermark()["table_uuid"] == str(bench.iceberg().metadata.table_uuid)
    assert bench.offload().rows == 0
    assert repair.examine(bench.settings, bench.table).advice == ["nothing to repair"]
    assert bench.lake_table().state() == repair.lake_state(bench.iceberg())


def assert_refused(bench: Bench, reason: str) -> None:
    """The offload stops with a reason and both commands, and changes nothing."""
    before = bench.iceberg().metadata
    for _ in range(2):
        with pytest.raises(LakeChangedError, match=reason) as stopped:
            bench.offload()
        assert f"'k2 repair {bench.name} --restore-lake'" in str(stopped.value)
        assert f"'k2 repair {bench.name} --accept-lake'" in str(stopped.value)
    assert bench.iceberg().metadata == before
    found, *ways = repair.examine(bench.settings, bench.table).advice
    assert str(stopped.value).startswith(found)
    assert [way.split("'")[1].split()[-1] for way in ways] == ["--restore-lake", "--accept-lake"]
    assert bench.iceberg().metadata == before
    assert bench.lake_table().state() == repair.lake_state(bench.iceberg())


# Rolled back.


def test_a_table_rolled_back_behind_its_token_stops_the_offload(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[1])
    assert_refused(
        fed,
        f"^{fed.name}: the Iceberg table was rolled back: K2 has offloaded it up to offset 30 over"
        " 1 partitions, its current snapshot stands at offset 20 over 1 partitions",
    )


def test_a_table_rolled_back_is_found_without_postgresql(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[0])
    fed.sql("delete from offload_watermarks where table_name = %s", fed.name)
    fed.sql("delete from offload_batches where table_name = %s", fed.name)
    assert_refused(fed, "rolled back")


def test_restoring_brings_the_snapshot_of_the_token_back(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[0])
    fed.insert([trade(30)])
    done = repair.restore_lake(fed.settings, fed.table)
    assert done == (
        f"{fed.name} is back at offset 30 over 1 partitions, snapshot {fed.snapshots()[2]}"
    )
    assert fed.offload().rows == 1
    assert_equal(fed)


def test_accepting_offloads_what_comes_after_the_current_snapshot_again(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[0])
    done = repair.accept_lake(fed.settings, fed.table)
    assert done == f"{fed.name} goes on from offset 10 over 1 partitions"
    assert fed.offload().rows == 20
    assert_equal(fed)


def test_a_rollback_of_gold_is_repaired_as_well(gold: Bench) -> None:
    for settled in range(3):
        gold.insert([candle(settled, day=settled, settled=settled), candle(9, settled=settled)])
        gold.offload()
    roll_back(gold, gold.snapshots()[0])
    assert_refused(gold, "rolled back")
    repair.accept_lake(gold.settings, gold.table)
    gold.offload()
    assert_equal(gold)


def test_a_rollback_below_the_arrival_of_a_column_is_accepted(fed: Bench) -> None:
    fed.client.command(f"alter table {fed.name} add column fee Int32 default 1")
    feed(fed, 30)
    roll_back(fed, fed.snapshots()[0])
    repair.accept_lake(fed.settings, fed.table)
    assert fed.offload().rows == 30
    fees = fed.iceberg().scan().to_arrow().sort_by("kafka_offset")["fee"].to_pylist()
    assert fees == [None] * 10 + [1] * 30
    assert audit_table(fed.settings, fed.table).equal


def test_a_rollback_that_compaction_followed_is_found(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[1])
    compact(fed)
    assert_refused(fed, "its current snapshot stands at offset 20")
    repair.accept_lake(fed.settings, fed.table)
    fed.offload()
    assert_equal(fed)


def test_a_rollback_whose_snapshots_expired_is_found_as_long_as_the_token_is_there(
    fed: Bench,
) -> None:
    first, second, third = fed.snapshots()
    roll_back(fed, second)
    compact(fed)
    expire(fed, first, second)
    assert third in fed.snapshots()
    assert_refused(fed, "rolled back")
    with pytest.raises(RepairError, match=r"has expired, so rows could come twice"):
        repair.accept_lake(fed.settings, fed.table)
    repair.restore_lake(fed.settings, fed.table)
    assert_equal(fed)


def test_what_has_expired_cannot_be_restored(fed: Bench) -> None:
    snapshots = fed.snapshots()
    roll_back(fed, snapshots[0])
    expire(fed, snapshots[2])
    assert_refused(fed, "rolled back")
    with pytest.raises(RepairError, match=r"no snapshot carries offset 30 over 1 partitions any m"):
        repair.restore_lake(fed.settings, fed.table)
    repair.accept_lake(fed.settings, fed.table)
    fed.offload()
    assert_equal(fed)


def test_a_rollback_while_an_offload_goes_on_stops_its_commit(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roll_back_meanwhile(*arguments: Any) -> None:
        verify(*arguments)
        roll_back(fed, fed.snapshots()[1])

    fed.insert([trade(30)])
    with monkeypatch.context() as patch:
        patch.setattr(engine, "verify", roll_back_meanwhile)
        with pytest.raises(CommitConflictError, match="or the table was rolled back"):
            fed.offload()
    assert len(fed.snapshots()) == 3
    assert_refused(fed, "rolled back")
    repair.restore_lake(fed.settings, fed.table)
    assert fed.offload().rows == 1
    assert_equal(fed)


def test_a_rollback_of_a_batch_that_was_never_recorded(fed: Bench) -> None:
    fed.insert([trade(offset) for offset in range(30, 35)])
    with pytest.raises(Death):
        fed.offload(die_after("commit"))
    roll_back(fed, fed.snapshots()[2])
    assert_refused(fed, "rolled back")
    repair.accept_lake(fed.settings, fed.table)
    assert fed.offload().rows == 5
    assert_equal(fed)


# Replaced, or without its token.


def test_a_table_made_anew_stops_the_offload(fed: Bench) -> None:
    replace(fed)
    assert_refused(fed, "the Iceberg table was replaced: K2 wrote to the one with UUID ")
    with pytest.raises(RepairError, match="this is not the table that K2 wrote to"):
        repair.restore_lake(fed.settings, fed.table)
    repair.accept_lake(fed.settings, fed.table)
    assert fed.offload().rows == 30
    assert_equal(fed)


def test_a_table_made_anew_is_found_from_the_history_when_the_watermark_is_lost(
    fed: Bench,
) -> None:
    replace(fed)
    fed.sql("delete from offload_watermarks where table_name = %s", fed.name)
    assert_refused(fed, "has lost its token, and no snapshot of it was offloaded")
    repair.accept_lake(fed.settings, fed.table)
    assert fed.offload().rows == 30
    assert_equal(fed)


def test_the_old_table_can_be_registered_again(fed: Bench) -> None:
    catalog, name, metadata = open_catalog(fed.settings), fed.iceberg().name(), fed.iceberg()
    replace(fed)
    assert_refused(fed, "was replaced")
    catalog.drop_table(name)
    catalog.register_table(name, metadata.metadata_location)
    fed.insert([trade(30)])
    assert fed.offload().rows == 1
    assert_equal(fed)


def test_contents_replaced_under_the_same_uuid_are_found(fed: Bench) -> None:
    # What Spark's "create or replace table" does.
    uuid, lake = fed.iceberg().metadata.table_uuid, fed.lake_table()
    builder = lake._catalog.buildTable(lake._identifier, lake._table.schema())
    builder.withPartitionSpec(lake._table.spec()).replaceTransaction().commitTransaction()
    assert fed.iceberg().metadata.table_uuid == uuid
    assert fed.lake_rows() == []
    assert_refused(fed, "rolled back: .* its current snapshot stands at no offload")
    repair.accept_lake(fed.settings, fed.table)
    assert fed.offload().rows == 30
    assert_equal(fed)


@pytest.mark.parametrize("way", [repair.accept_lake, repair.restore_lake])
@pytest.mark.parametrize("postgresql", ["whole", "lost"])
def test_a_token_that_was_removed_by_hand_comes_back_either_way(
    fed: Bench, way: Callable[..., str], postgresql: str
) -> None:
    set_properties(fed, token=None)
    if postgresql == "lost":
        fed.sql("delete from offload_watermarks where table_name = %s", fed.name)
    assert_refused(fed, "has lost its token; its current snapshot stands at offset 30")
    way(fed.settings, fed.table)
    assert_equal(fed)


def test_a_token_that_was_changed_by_hand_is_taken_from_the_snapshot(fed: Bench) -> None:
    set_properties(fed, token="nonsense")
    assert_refused(fed, "an unreadable token")
    repair.accept_lake(fed.settings, fed.table)
    assert_equal(fed)


def test_a_token_that_is_gone_with_its_snapshots_is_given_back_by_postgresql(fed: Bench) -> None:
    compact(fed)
    expire(fed, *fed.snapshots()[:3])
    set_properties(fed, token=None)
    assert_refused(fed, "has lost its token")
    with pytest.raises(RepairError, match="has expired"):
        repair.accept_lake(fed.settings, fed.table)
    repair.restore_lake(fed.settings, fed.table)
    assert_equal(fed)


# What is no fault.


def test_expiry_and_compaction_leave_the_token_valid(fed: Bench) -> None:
    expire(fed, *fed.snapshots()[:2])
    assert_equal(fed)
    compact(fed)
    assert_equal(fed)
    compact(fed)
    # The snapshot of the token is gone, a later one descends from it.
    expire(fed, *fed.snapshots()[:2])
    (left,) = fed.iceberg().snapshots()
    assert left.summary is not None
    assert BATCH not in left.summary.additional_properties
    assert_equal(fed)
    feed(fed, 30)
    assert_equal(fed)


def test_a_rollback_to_where_the_token_is_takes_nothing_away(fed: Bench) -> None:
    compact(fed)
    roll_back(fed, fed.snapshots()[2])
    feed(fed, 30)
    assert_equal(fed)


def test_other_commits_without_rows_leave_the_token_valid(fed: Bench) -> None:
    with fed.iceberg().transaction() as transaction:
        transaction.set_properties({"comment": "trades"})
    with fed.iceberg().update_schema() as update:
        update.update_column("price", doc="Quote currency")
    fed.iceberg().manage_snapshots().create_tag(fed.snapshots()[0], "first").commit()
    feed(fed, 30)
    assert_equal(fed)


def test_a_deployment_from_before_uuids_were_recorded_goes_on(fed: Bench) -> None:
    fed.sql("update offload_watermarks set table_uuid = null where table_name = %s", fed.name)
    feed(fed, 30)
    assert_equal(fed)


# Repairing.


@pytest.mark.parametrize("way", [repair.accept_lake, repair.restore_lake])
def test_a_sound_table_is_left_alone(fed: Bench, way: Callable[..., str]) -> None:
    before = fed.iceberg().metadata
    assert way(fed.settings, fed.table) == "nothing to repair"
    assert fed.iceberg().metadata == before


@pytest.mark.parametrize("way", [repair.accept_lake, repair.restore_lake])
def test_a_table_that_is_being_offloaded_is_not_repaired(
    fed: Bench, way: Callable[..., str]
) -> None:
    roll_back(fed, fed.snapshots()[0])
    with claim(fed.settings.postgres, fed.name), pytest.raises(ClaimHeldError):
        way(fed.settings, fed.table)
    assert_refused(fed, "rolled back")


@pytest.mark.parametrize("way", [repair.accept_lake, repair.restore_lake])
@pytest.mark.parametrize("damage", ["rolled back", "replaced"])
def test_a_repair_that_died_before_postgresql_knew_is_finished(
    fed: Bench, monkeypatch: pytest.MonkeyPatch, way: Callable[..., str], damage: str
) -> None:
    if damage == "replaced":
        replace(fed)
        way = repair.accept_lake
    else:
        roll_back(fed, fed.snapshots()[0])

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr("k2.offload.claim.Claim.set_token", die)
        with pytest.raises(Death):
            way(fed.settings, fed.table)
    way(fed.settings, fed.table)
    fed.offload()
    assert_equal(fed)


def test_a_driver_that_slept_through_a_repair_commits_nothing(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repaired_meanwhile(*arguments: Any) -> None:
        verify(*arguments)
        roll_back(fed, fed.snapshots()[1])
        fed.expire_lease()
        repair.restore_lake(fed.settings, fed.table)

    fed.insert([trade(30)])
    with monkeypatch.context() as patch:
        patch.setattr(engine, "verify", repaired_meanwhile)
        with pytest.raises(OffloadError):
            fed.offload()
    assert len(fed.snapshots()) == 3
    fed.offload()
    assert_equal(fed)


def test_a_look_shows_both_sides_and_both_ways(fed: Bench) -> None:
    roll_back(fed, fed.snapshots()[1])
    shown = repair.examine(fed.settings, fed.table)
    uuid = str(fed.iceberg().metadata.table_uuid)
    assert shown.rows == [
        ("token", "offset 30 over 1 partitions", "offset 30 over 1 partitions"),
        ("current snapshot stands at", "offset 20 over 1 partitions", "-"),
        ("current snapshot", str(fed.snapshots()[1]), "-"),
        ("table UUID", uuid, uuid),
    ]
    assert [line.split("'")[1] for line in shown.advice[1:]] == [
        f"k2 repair {fed.name} --restore-lake",
        f"k2 repair {fed.name} --accept-lake",
    ]


def test_the_command_shows_and_repairs(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("gold")
    bench.client.command(f"rename table {bench.name} to ohlcv_1d")
    bench = bench.with_table(name="ohlcv_1d")
    bench.create_lake_table()
    for settled in range(2):
        bench.insert([candle(settled, settled=settled)])
        bench.offload()
    roll_back(bench, bench.snapshots()[0])

    def k2(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "k2.cli", "repair", "ohlcv_1d", *arguments],
            env={**os.environ, **environment_of(bench.settings)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    shown = k2()
    assert shown.returncode == 0
    assert "current snapshot stands at" in shown.stdout
    assert "'k2 repair ohlcv_1d --restore-lake' sets it back" in shown.stderr
    assert "'k2 repair ohlcv_1d --accept-lake' takes it as it is" in shown.stderr
    assert k2("--restore-lake").stderr.startswith("ohlcv_1d is back at 2024-12-20 00:00:01, snaps")
    assert k2().stderr == "nothing to repair\n"
    assert_equal(bench)
