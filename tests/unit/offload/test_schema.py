"""ClickHouse types and their counterparts in Iceberg."""

from __future__ import annotations

import pytest

from k2.errors import OffloadError
from k2.offload.schema import file_structure, parse_column


@pytest.mark.parametrize(
    ("clickhouse_type", "lake_type", "file_type"),
    [
        ("Bool", "boolean", "Bool"),
        ("Int8", "int", "Int32"),
        ("Int16", "int", "Int32"),
        ("Int32", "int", "Int32"),
        ("UInt8", "int", "Int32"),
        ("UInt16", "int", "Int32"),
        ("UInt32", "long", "Int64"),
        ("Int64", "long", "Int64"),
        ("UInt64", "long", "Int64"),
        ("Float32", "float", "Float32"),
        ("Float64", "double", "Float64"),
        ("Date", "date", "Date32"),
        ("Date32", "date", "Date32"),
        ("DateTime", "timestamptz", "DateTime64(6, 'UTC')"),
        ("DateTime('UTC')", "timestamptz", "DateTime64(6, 'UTC')"),
        ("DateTime64(0)", "timestamptz", "DateTime64(6, 'UTC')"),
        ("DateTime64(3, 'Asia/Tokyo')", "timestamptz", "DateTime64(6, 'UTC')"),
        ("DateTime64(6)", "timestamptz", "DateTime64(6, 'UTC')"),
        ("String", "string", "String"),
        ("Enum8('buy' = 1, 'sell' = 2)", "string", "String"),
        ("Enum16('Nullable(x)' = 1)", "string", "String"),
        ("LowCardinality(String)", "string", "String"),
        ("Decimal(9, 4)", "decimal(9,4)", "Decimal(9, 4)"),
        ("Decimal(38, 8)", "decimal(38,8)", "Decimal(38, 8)"),
        ("Nullable(Decimal(18, 8))", "decimal(18,8)", "Nullable(Decimal(18, 8))"),
        ("LowCardinality(Nullable(String))", "string", "Nullable(String)"),
    ],
)
def test_a_type_becomes_one_that_holds_all_its_values(
    clickhouse_type: str, lake_type: str, file_type: str
) -> None:
    column = parse_column("value", clickhouse_type, "what it is")
    assert (column.lake_type, column.file_type) == (lake_type, file_type)
    assert column.nullable == ("Nullable(" in file_type)
    assert column.comment == "what it is"


@pytest.mark.parametrize(
    "clickhouse_type",
    [
        "Int128",
        "UInt128",
        "UInt256",
        "BFloat16",
        "Decimal(39, 8)",
        "DateTime64(7)",
        "DateTime64(9, 'UTC')",
        "Time",
        "FixedString(8)",
        "UUID",
        "IPv4",
        "JSON",
        "Array(String)",
        "Tuple(a String)",
        "Map(String, String)",
        "Nullable(UUID)",
        "LowCardinality(FixedString(3))",
        "AggregateFunction(sum, UInt64)",
        "SimpleAggregateFunction(sum, UInt64)",
        "Strings",
        "",
    ],
)
def test_a_type_without_an_exact_counterpart_is_refused_by_name(clickhouse_type: str) -> None:
    with pytest.raises(OffloadError) as error:
        parse_column("value", clickhouse_type)
    assert str(error.value) == (
        f"column value: ClickHouse type {clickhouse_type} has no exact counterpart in Iceberg; "
        "change its type or list it under 'exclude' in tables.yaml"
    )


def test_odd_names_are_quoted() -> None:
    column = parse_column("it's a `name`", "DateTime64(3)")
    assert column.as_file_type == (r"accurateCast(`it's a \`name\``, 'DateTime64(6, \'UTC\')')")
    assert file_structure([column]) == r"`it's a \`name\`` DateTime64(6, 'UTC')"
