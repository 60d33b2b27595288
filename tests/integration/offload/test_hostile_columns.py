"""Columns of any name are offloaded: names are quoted for each engine as it reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile import HOSTILE

from k2.clickhouse import quote_identifier, quote_string
from k2.offload.schema import parse_column

from .conftest import COLUMNS
from .rows import trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench


def test_columns_of_any_name_are_offloaded(make_bench: Callable[..., Bench]) -> None:
    more = ", ".join(
        f"{quote_identifier(name)} String default {quote_string(name)}" for name in HOSTILE
    )
    bench = make_bench("bronze", columns=f"{COLUMNS['bronze']}, {more}")
    bench.insert([trade(number) for number in range(3)])
    assert bench.offload().rows == 3
    for row in bench.iceberg().scan().to_arrow().to_pylist():
        assert {name: row[name] for name in HOSTILE} == {name: name for name in HOSTILE}


def test_spark_reads_a_column_of_any_name_as_one(jvm: Any) -> None:
    from k2.offload.scan import PARTITION, _ddl

    names = [*HOSTILE, "a.b", "a b"]
    schema = jvm.jvm.org.apache.spark.sql.types.StructType.fromDDL(
        _ddl([parse_column(name, "String") for name in names])
    )
    assert list(schema.fieldNames()) == [*names, PARTITION]
