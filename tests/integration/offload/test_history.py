"""What is kept of runs and audits for monitoring: totals, ends, open differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from k2.errors import OffloadError
from k2.offload import watermark
from k2.offload.audit import audit_table
from k2.offload.claim import offload_claim
from k2.offload.history import AuditState, TableHistory, read_audits, read_histories, read_last_run

from .rows import trade
from .test_protocol import Death, die_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench


def history(bench: Bench) -> TableHistory:
    with watermark.connect(bench.settings.postgres) as connection:
        return read_histories(connection)[bench.name]


def audits(bench: Bench) -> AuditState:
    with watermark.connect(bench.settings.postgres) as connection:
        return read_audits(connection)[bench.name]


def test_totals_grow_with_each_batch_and_with_none_when_there_is_nothing_new(
    bronze: Bench,
) -> None:
    for first in (0, 10):
        bronze.insert([trade(offset) for offset in range(first, first + 10)])
        bronze.offload()
    bronze.offload()
    totals = history(bronze).totals
    assert (totals.batches, totals.rows, totals.successes, totals.failures) == (2, 20, 3, 0)
    recorded = bronze.history()
    assert totals.bytes == sum(batch["byte_count"] for batch in recorded)
    assert totals.seconds > 0
    last = history(bronze).last_batch
    assert last is not None
    assert (last.name, last.rows) == (recorded[-1]["batch"], 10)


def last_run(bench: Bench) -> tuple[dict[str, Any], ...]:
    with watermark.connect(bench.settings.postgres) as connection:
        return read_last_run(connection, bench.name)


def test_the_newest_run_is_told_batch_by_batch_with_the_seconds_of_each_step(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("bronze", max_batch_rows=10)
    bench.insert([trade(offset) for offset in range(20)])
    bench.offload()
    batches = last_run(bench)
    assert [batch["rows"] for batch in batches] == [10, 10]
    assert [batch["batch"] for batch in batches] == [row["batch"] for row in bench.history()]
    for batch in batches:
        steps = batch["step_seconds"]
        assert set(steps) == {"planned", "unloaded", "verified", "committed"}
        assert min(steps.values()) >= 0
        assert (batch["files"], batch["bytes"] > 0) == (1, True)
    assert json.loads(json.dumps(batches)) == list(batches)
    bench.offload()
    assert last_run(bench) == ()


def test_a_batch_that_is_recorded_by_the_next_run_counts_once(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(10)])
    with pytest.raises(Death):
        bronze.offload(die_after("commit"))
    assert history(bronze).totals.batches == 0
    for _ in range(2):
        bronze.offload()
        assert [batch["step_seconds"] for batch in last_run(bronze)] in ([None], [])
    totals = history(bronze).totals
    assert (totals.batches, totals.rows, totals.successes, totals.failures) == (1, 10, 2, 1)


def test_a_run_that_stops_is_counted_and_its_error_is_the_one_that_is_seen(bronze: Bench) -> None:
    bronze.offload()
    with (
        pytest.raises(OffloadError, match="the disk is full"),
        offload_claim(bronze.settings.postgres, bronze.name),
    ):
        raise OffloadError("the disk is full")
    totals = history(bronze).totals
    assert (totals.successes, totals.failures) == (1, 1)
    assert totals.failed_at is not None
    assert totals.succeeded_at is not None
    assert totals.failed_at > totals.succeeded_at


def test_totals_of_a_history_from_before_them_are_taken_from_it(bronze: Bench) -> None:
    for first in (0, 10):
        bronze.insert([trade(offset) for offset in range(first, first + 10)])
        bronze.offload()
    before = history(bronze).totals
    bronze.sql("alter table offload_totals rename to offload_totals_kept")
    try:
        with watermark.connect(bronze.settings.postgres) as connection:
            watermark.migrate(connection)
        migrated = history(bronze).totals
    finally:
        bronze.sql("drop table offload_totals")
        bronze.sql("alter table offload_totals_kept rename to offload_totals")
    assert (migrated.batches, migrated.rows, migrated.bytes) == (2, 20, before.bytes)
    assert migrated.seconds == pytest.approx(before.seconds)


def test_a_difference_stands_until_its_partition_is_found_equal(bronze: Bench) -> None:
    bronze.insert([trade(offset, day=offset % 2) for offset in range(20)])
    bronze.offload()
    assert audits(bronze) == AuditState(None, 0)
    audit_table(bronze.settings, bronze.table)
    path = Path(bronze.committed_files()["2024-11-21"][0].removeprefix("file:"))
    whole = path.read_bytes()
    pq.write_table(pq.ParquetFile(path).read().slice(1), path)
    audit_table(bronze.settings, bronze.table)
    assert audits(bronze).differences == 1
    # Nothing new was written, so this looks at no partition.
    audit_table(bronze.settings, bronze.table, only_new=True)
    assert audits(bronze).differences == 1
    path.write_bytes(whole)
    audit_table(bronze.settings, bronze.table)
    after = audits(bronze)
    assert after.differences == 0
    assert after.audited_at is not None


def test_a_difference_ends_when_its_partition_is_gone_from_both_sides(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(10)])
    bronze.offload()
    audit_table(bronze.settings, bronze.table)
    bronze.sql("insert into audit_differences values (%s, '2024-01-01', now(), 1, 0)", bronze.name)
    assert audits(bronze).differences == 1
    audit_table(bronze.settings, bronze.table)
    assert audits(bronze).differences == 0
