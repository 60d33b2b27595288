"""The audit finds a partition that differs, and names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from k2.offload import audit as audit_module
from k2.offload.audit import AuditError, audit_table, require_equal

from .rows import candle, silver_trade, trade

if TYPE_CHECKING:
    from k2.offload.audit import TableAudit

    from .conftest import Bench


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """Three days of ten trades each, offloaded."""
    bronze.insert([trade(offset, day=offset % 3) for offset in range(30)])
    bronze.offload()
    return bronze


def audit(bench: Bench, *, only_new: bool = False) -> TableAudit:
    return audit_table(bench.settings, bench.table, only_new=only_new)


def differing(found: TableAudit) -> list[str]:
    return [partition.partition for partition in found.differences()]


def test_equal_sides_are_equal(fed: Bench) -> None:
    found = audit(fed)
    assert (found.equal, found.clickhouse_rows, found.iceberg_rows) == (True, 30, 30)
    assert [one.partition for one in found.partitions] == ["2024-11-20", "2024-11-21", "2024-11-22"]
    require_equal([found])


def test_empty_sides_are_equal(bronze: Bench) -> None:
    assert audit(bronze).equal


def test_rows_that_wait_for_their_offload_are_counted_and_no_difference(fed: Bench) -> None:
    fed.insert([trade(offset, day=1) for offset in range(30, 34)])
    found = audit(fed)
    assert (found.equal, found.clickhouse_rows, found.waiting_rows) == (True, 30, 4)


def test_a_candle_corrected_since_its_offload_waits_and_is_no_difference(gold: Bench) -> None:
    gold.insert([candle(minute, day=day) for day in range(2) for minute in range(3)])
    gold.offload()
    gold.insert([candle(1, settled=1, close="7")])
    found = audit(gold)
    assert [(one.partition, one.waiting) for one in found.partitions] == [
        ("2024-11-20", True),
        ("2024-11-21", False),
    ]
    assert (found.equal, found.waiting_rows) == (True, 1)
    gold.offload()
    found = audit(gold)
    assert (found.equal, found.waiting_rows) == (True, 0)


def test_a_row_missing_from_a_file_is_found(fed: Bench) -> None:
    path = Path(fed.committed_files()["2024-11-21"][0].removeprefix("file:"))
    rows = pq.ParquetFile(path).read()
    pq.write_table(rows.slice(1), path)
    found = audit(fed)
    assert differing(found) == ["2024-11-21"]
    with pytest.raises(
        AuditError,
        match=rf"^1 partition\(s\) differ: {fed.name} 2024-11-21: ClickHouse 10 rows, Iceberg 9 r",
    ):
        require_equal([found])


def test_a_file_registered_twice_is_found(fed: Bench) -> None:
    (path,) = fed.committed_files()["2024-11-22"]
    fed.iceberg().add_files([path], check_duplicate_files=False)
    found = audit(fed)
    assert differing(found) == ["2024-11-22"]
    with pytest.raises(AuditError, match="2024-11-22: ClickHouse 10 rows, Iceberg 20 rows"):
        require_equal([found])


def test_a_deleted_partition_of_the_lake_is_found(fed: Bench) -> None:
    fed.iceberg().delete("exchange_timestamp < '2024-11-21T00:00:00+00:00'")
    with pytest.raises(AuditError, match="2024-11-20: ClickHouse 10 rows, Iceberg 0 rows"):
        require_equal([audit(fed)])


def test_a_partition_that_only_the_lake_has_is_found(fed: Bench) -> None:
    fed.client.command(f"delete from {fed.name} where toDate(exchange_timestamp) = '2024-11-20'")
    with pytest.raises(AuditError, match="2024-11-20: ClickHouse 0 rows, Iceberg 10 rows"):
        require_equal([audit(fed)])


def test_a_value_changed_in_clickhouse_is_found(fed: Bench) -> None:
    fed.client.command(
        f"alter table {fed.name} update price = price + 0.00000001 where kafka_offset = 4"
        " settings mutations_sync = 1"
    )
    with pytest.raises(
        AuditError, match="2024-11-21: ClickHouse 10 rows, Iceberg 10 rows, checksums differ"
    ):
        require_equal([audit(fed)])


def test_a_late_trade_below_the_watermark_is_found(silver: Bench) -> None:
    silver.insert([silver_trade(number, offset=number + 5) for number in range(4)])
    silver.offload()
    silver.insert([silver_trade(9, offset=2)])
    assert silver.offload().rows == 0
    with pytest.raises(AuditError, match="ClickHouse 5 rows, Iceberg 4 rows"):
        require_equal([audit(silver)])


def test_only_new_takes_just_the_partitions_written_since_they_were_found_equal(fed: Bench) -> None:
    assert len(audit(fed, only_new=True).partitions) == 3
    assert audit(fed, only_new=True).partitions == ()
    fed.insert([trade(offset, day=1) for offset in range(30, 34)])
    assert audit(fed, only_new=True).partitions == ()
    fed.offload()
    found = audit(fed, only_new=True)
    assert [(one.partition, one.iceberg.rows) for one in found.partitions] == [("2024-11-21", 14)]


def test_a_partition_that_differs_is_audited_again_until_it_is_equal(fed: Bench) -> None:
    path = Path(fed.committed_files()["2024-11-21"][0].removeprefix("file:"))
    content = path.read_bytes()
    pq.write_table(pq.ParquetFile(path).read().slice(1), path)
    for _ in range(2):
        assert "2024-11-21" in differing(audit(fed, only_new=True))
    path.write_bytes(content)
    assert audit(fed, only_new=True).equal
    assert audit(fed, only_new=True).partitions == ()


def test_a_batch_that_is_committed_during_an_audit_is_audited_by_the_next_one(
    fed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = audit_module._compare

    def meanwhile(*arguments: object) -> TableAudit:
        result = compare(*arguments)
        fed.insert([trade(offset, day=1) for offset in range(30, 34)])
        fed.offload()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "_compare", meanwhile)
        audit(fed)
    assert [one.partition for one in audit(fed, only_new=True).partitions] == ["2024-11-21"]
