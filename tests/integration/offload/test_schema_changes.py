"""A source whose columns change: what is new is added to Iceberg, what is lost stops the table."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from k2.offload.audit import audit_table
from k2.offload.lake import CommitConflictError
from k2.offload.schema import SchemaMismatchError
from k2.registry import TimestampCursor

from .rows import candle, silver_trade, trade
from .test_protocol import Death, assert_recovered, commit, die_after, die_before, planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench


def add_column(bench: Bench, column: str) -> None:
    bench.client.command(f"alter table {bench.name} add column {column}")


def values(bench: Bench, column: str) -> list[Any]:
    """A column's values in Iceberg, as PyIceberg reads them, in the order of the log."""
    rows = bench.iceberg().scan().to_arrow().sort_by("kafka_offset")
    found: list[Any] = rows[column].to_pylist()
    return found


@pytest.fixture
def fed(bronze: Bench) -> Bench:
    """A bronze table with ten offloaded trades."""
    bronze.insert([trade(offset) for offset in range(10)])
    bronze.offload()
    return bronze


@pytest.mark.parametrize(
    ("column", "value", "iceberg_type"),
    [
        ("fee Decimal(18, 8) default 7", Decimal("0.5"), "decimal(18, 8)"),
        ("fee Nullable(Decimal(38, 8))", Decimal("0.5"), "decimal(38, 8)"),
        ("fee String", "é", "string"),
        ("fee LowCardinality(Nullable(String))", "é", "string"),
        ("fee UInt64", 5, "long"),
        ("fee Bool default true", False, "boolean"),
        ("fee Float64", 0.1, "double"),
    ],
)
def test_a_new_column_is_added_and_null_for_old_rows(
    fed: Bench, column: str, value: Any, iceberg_type: str
) -> None:
    add_column(fed, f"{column} comment 'What the exchange takes' first")
    fed.insert([trade(offset, fee=value) for offset in range(10, 13)])
    assert fed.offload().rows == 3
    assert values(fed, "fee") == [None] * 10 + [value] * 3
    added = fed.iceberg().schema().fields[-1]
    assert (added.name, str(added.field_type)) == ("fee", iceberg_type)
    assert (added.required, added.doc) == (False, "What the exchange takes")


@pytest.mark.parametrize("default", ["", "default 7"])
def test_a_new_column_is_in_the_audit_and_leaves_old_rows_equal(fed: Bench, default: str) -> None:
    add_column(fed, f"fee Decimal(18, 8) {default}")
    assert fed.offload().rows == 0
    assert audit_table(fed.settings, fed.table).equal
    fed.insert([trade(offset, fee=Decimal(3)) for offset in range(10, 13)])
    fed.offload()
    assert audit_table(fed.settings, fed.table).equal
    # Of a new row it counts.
    fed.client.command(
        f"alter table {fed.name} update fee = 4 where kafka_offset = 11 settings mutations_sync = 1"
    )
    assert not audit_table(fed.settings, fed.table).equal


def test_each_column_counts_from_when_it_came(fed: Bench) -> None:
    add_column(fed, "fee Int32 default 1")
    fed.insert([trade(10)])
    fed.offload()
    add_column(fed, "maker Bool default true")
    add_column(fed, "venue String default 'x'")
    fed.insert([trade(11)])
    fed.offload()
    assert values(fed, "fee") == [None] * 10 + [1, 1]
    assert values(fed, "maker") == [None] * 11 + [True]
    assert values(fed, "venue") == [None] * 11 + ["x"]
    assert audit_table(fed.settings, fed.table).equal


def test_a_column_added_before_the_first_offload_is_there_from_the_start(bronze: Bench) -> None:
    bronze.insert([trade(0)])
    add_column(bronze, "fee Int32 default 1")
    bronze.offload()
    assert values(bronze, "fee") == [1]
    assert audit_table(bronze.settings, bronze.table).equal


def test_a_new_column_of_silver_is_null_up_to_the_token_of_each_exchange(silver: Bench) -> None:
    silver.insert([silver_trade(number, offset=number) for number in range(5)])
    silver.offload()
    add_column(silver, "fee Int32 default 1")
    silver.insert([silver_trade(9, offset=0, exchange="kraken"), silver_trade(6, offset=6)])
    silver.offload()
    rows = silver.iceberg().scan().to_arrow().to_pylist()
    assert sorted((row["trade_id"], row["fee"]) for row in rows) == [
        *((number, None) for number in range(5)),
        (6, 1),
        (9, 1),
    ]
    assert audit_table(silver.settings, silver.table).equal


def test_a_new_column_of_a_table_read_by_time(make_bench: Callable[..., Bench]) -> None:
    cursor = TimestampCursor(
        kind="timestamp", column="exchange_timestamp", tie_breakers=("sequence_number",)
    )
    bench = make_bench("bronze", cursor=cursor)
    bench.insert([trade(offset) for offset in range(5)])
    bench.offload()
    add_column(bench, "fee Int32 default 1")
    bench.insert([trade(5)])
    bench.offload()
    assert values(bench, "fee") == [None] * 5 + [1]
    assert audit_table(bench.settings, bench.table).equal


def test_partitions_that_are_replaced_get_a_new_column_and_others_stay_null(gold: Bench) -> None:
    gold.insert([candle(minute, day=day) for day in range(3) for minute in range(2)])
    gold.offload()
    add_column(gold, "fee Int32 default 1")
    assert gold.offload().rows == 0
    assert audit_table(gold.settings, gold.table).equal
    gold.insert([candle(0, day=1, settled=1)])
    gold.offload()
    rows = gold.iceberg().scan().to_arrow().sort_by("window_start")
    assert rows["fee"].to_pylist() == [None, None, 1, 1, None, None]
    assert audit_table(gold.settings, gold.table).equal


# Deaths and races around the change.


@pytest.mark.parametrize("changed", ["before the run", "after the death"])
def test_an_unfinished_batch_is_taken_again_with_the_new_column(fed: Bench, changed: str) -> None:
    if changed == "before the run":
        add_column(fed, "fee Int32 default 1")
    fed.insert([trade(offset) for offset in range(10, 15)])
    with pytest.raises(Death):
        fed.offload(die_before("commit"))
    if changed == "after the death":
        add_column(fed, "fee Int32 default 1")
    fed.insert([trade(offset) for offset in range(15, 17)])
    assert [fed.offload().rows, fed.offload().rows] == [7, 0]
    assert values(fed, "fee") == [None] * 10 + [1] * 7
    assert audit_table(fed.settings, fed.table).equal


def test_a_batch_that_was_committed_before_the_column_came_has_it_null(fed: Bench) -> None:
    fed.insert([trade(offset) for offset in range(10, 15)])
    with pytest.raises(Death):
        fed.offload(die_after("commit"))
    add_column(fed, "fee Int32 default 1")
    fed.insert([trade(15)])
    fed.offload()
    assert values(fed, "fee") == [None] * 15 + [1]
    assert audit_table(fed.settings, fed.table).equal


def test_death_around_the_schema_change_is_recovered(fed: Bench) -> None:
    add_column(fed, "fee Nullable(Int32)")
    fed.insert([trade(10, fee=3)])
    for step in (die_before("add_columns"), die_after("add_columns")):
        with pytest.raises(Death):
            fed.offload(step)
    fed.offload()
    assert_recovered(fed, snapshots=2)
    assert audit_table(fed.settings, fed.table).equal


def test_a_driver_from_before_the_change_cannot_commit_without_the_column(fed: Bench) -> None:
    fed.insert([trade(10)])
    asleep, intent = fed.lake_table(), planned(fed, epoch=1)
    add_column(fed, "fee Int32 default 1")
    fed.offload()
    with pytest.raises(CommitConflictError):
        commit(fed, intent, epoch=1, lake=asleep)
    assert values(fed, "fee") == [None] * 10 + [1]


def test_a_commit_that_comes_between_makes_the_change_fail_and_a_rerun_does_it(
    fed: Bench,
) -> None:
    add_column(fed, "fee Int32 default 1")
    slow = fed.lake_table()
    (column,) = (column for column in fed.columns if column.name == "fee")
    original = slow._jvm.org.apache.iceberg.types.Types.fromPrimitiveString

    class Meddling:
        """Iceberg's types; asking for one lets another program commit."""

        def __getattr__(self, name: str) -> Any:
            return self

        def fromPrimitiveString(self, text: str) -> Any:  # noqa: N802 - Iceberg's name
            with fed.iceberg().transaction() as transaction:
                transaction.set_properties({"comment": "by another program"})
            return original(text)

    slow._jvm = Meddling()
    with pytest.raises(CommitConflictError, match="another program committed"):
        slow.add_columns([column], epoch=99)
    assert "fee" not in fed.lake_table().column_types
    fed.insert([trade(10)])
    fed.offload()
    assert values(fed, "fee") == [None] * 10 + [1]


def test_the_name_mapping_has_the_new_column(fed: Bench) -> None:
    add_column(fed, "fee Int32")
    fed.offload()
    mapping = json.loads(fed.iceberg().properties["schema.name-mapping.default"])
    assert mapping[-1] == {
        "field-id": fed.iceberg().schema().find_field("fee").field_id,
        "names": ["fee"],
    }


# What stops a table, and no other.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "drop column price",
            r"column price is missing in ClickHouse and decimal\(18,8\) in Iceberg; add it to",
        ),
        (
            "rename column price to rate",
            r"column price is missing in ClickHouse and decimal\(18,8\) in Iceberg; add it to",
        ),
        (
            "modify column price Decimal(38, 8)",
            r"column price is decimal\(38,8\) in ClickHouse \(Decimal\(38, 8\)\) and"
            r" decimal\(18,8\) in Iceberg; give it its old type",
        ),
        (
            "modify column symbol FixedString(9)",
            r"column symbol: ClickHouse type FixedString\(9\) has no exact counterpart in Iceberg",
        ),
    ],
)
def test_a_removed_or_retyped_column_stops_its_table_and_no_other(
    fed: Bench, make_bench: Callable[..., Bench], change: str, reason: str
) -> None:
    other = make_bench("bronze")
    fed.client.command(f"alter table {fed.name} add column fee Int32, {change}")
    for bench in (fed, other):
        row = trade(20)
        del row["price"], row["symbol"]
        bench.insert([row])
    before = fed.snapshots(), fed.iceberg().schema(), fed.watermark()["token"]
    with pytest.raises(Exception, match=reason) as stopped:
        fed.offload()
    if "no exact" not in reason:
        assert stopped.type is SchemaMismatchError
        assert str(stopped.value).startswith(f"{fed.name}: ")
    assert (fed.snapshots(), fed.iceberg().schema(), fed.watermark()["token"]) == before
    assert other.offload().rows == 1


def test_a_column_given_back_lets_the_table_go_on(fed: Bench) -> None:
    fed.client.command(f"alter table {fed.name} rename column price to rate")
    with pytest.raises(SchemaMismatchError):
        fed.offload()
    fed.client.command(f"alter table {fed.name} rename column rate to price")
    fed.insert([trade(10)])
    assert fed.offload().rows == 1
    assert fed.lake_rows() == fed.source_rows()
