"""Column types on both sides of the offload: what ClickHouse has and what Iceberg keeps.

Every type is mapped so that no value changes: unsigned integers widen, times become microseconds
in UTC (the Iceberg specification has no milliseconds). A type without an exact counterpart is
refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier, quote_string
from k2.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from k2.registry import Table


class SchemaMismatchError(OffloadError):
    """A column that the Iceberg table has was removed from the source, or has another type."""


class Kind(StrEnum):
    """The kinds of value that K2 keeps in Iceberg."""

    BOOLEAN = "boolean"
    INTEGER = "int"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    DATE = "date"
    TIMESTAMP = "timestamptz"
    STRING = "string"
    DECIMAL = "decimal"


@dataclass(frozen=True)
class Column:
    """One column: its ClickHouse type, and the kind of value it is in the lake."""

    name: str
    clickhouse_type: str
    kind: Kind
    nullable: bool
    comment: str = ""
    precision: int = 0
    scale: int = 0

    @property
    def lake_type(self) -> str:
        """The Iceberg type, as the Iceberg specification writes it."""
        if self.kind is Kind.DECIMAL:
            return f"decimal({self.precision},{self.scale})"
        return self.kind.value

    @property
    def file_type(self) -> str:
        """The ClickHouse type as which a Parquet file of the lake is read back."""
        types = {
            Kind.BOOLEAN: "Bool",
            Kind.INTEGER: "Int32",
            Kind.LONG: "Int64",
            Kind.FLOAT: "Float32",
            Kind.DOUBLE: "Float64",
            Kind.DATE: "Date32",
            Kind.TIMESTAMP: "DateTime64(6, 'UTC')",
            Kind.STRING: "String",
            Kind.DECIMAL: f"Decimal({self.precision}, {self.scale})",
        }
        return f"Nullable({types[self.kind]})" if self.nullable else types[self.kind]

    @property
    def as_file_type(self) -> str:
        """The SQL expression that turns the source's value into the file's; it never wraps."""
        return f"accurateCast({quote_identifier(self.name)}, {quote_string(self.file_type)})"


_INTEGERS = {
    "Int8": Kind.INTEGER,
    "Int16": Kind.INTEGER,
    "Int32": Kind.INTEGER,
    "UInt8": Kind.INTEGER,
    "UInt16": Kind.INTEGER,
    "UInt32": Kind.LONG,
    "Int64": Kind.LONG,
    "UInt64": Kind.LONG,
}
_PLAIN = {
    **_INTEGERS,
    "Bool": Kind.BOOLEAN,
    "Float32": Kind.FLOAT,
    "Float64": Kind.DOUBLE,
    "Date": Kind.DATE,
    "Date32": Kind.DATE,
    "String": Kind.STRING,
}
_WRAPPED = re.compile(r"^(Nullable|LowCardinality)\((.*)\)$")
_DECIMAL = re.compile(r"^Decimal\((\d+), (\d+)\)$")
_TIME = re.compile(r"^DateTime(64\(([0-6])(, '[^']+')?\)|\('[^']+'\))?$")


def parse_column(name: str, clickhouse_type: str, comment: str = "") -> Column:
    """The column of a ClickHouse type.

    Raises:
        OffloadError: the type has no exact counterpart in Iceberg.
    """
    inner, nullable = clickhouse_type, False
    while wrapped := _WRAPPED.match(inner):
        nullable = nullable or wrapped.group(1) == "Nullable"
        inner = wrapped.group(2)
    if decimal := _DECIMAL.match(inner):
        precision, scale = int(decimal.group(1)), int(decimal.group(2))
        if precision <= 38:
            return Column(name, clickhouse_type, Kind.DECIMAL, nullable, comment, precision, scale)
    kind = _PLAIN.get(inner)
    if kind is None and _TIME.match(inner):
        kind = Kind.TIMESTAMP
    if kind is None and inner.startswith(("Enum8(", "Enum16(")):
        kind = Kind.STRING
    if kind is None:
        raise OffloadError(
            f"column {name}: ClickHouse type {clickhouse_type} has no exact counterpart in "
            "Iceberg; change its type or list it under 'exclude' in tables.yaml"
        )
    return Column(name, clickhouse_type, kind, nullable, comment)


def source_columns(client: Client, table: Table) -> tuple[Column, ...]:
    """The columns of a source table that are offloaded, in table order.

    Raises:
        OffloadError: the table does not exist, or a column's type is refused.
        RegistryError: the table lacks a column that its registry entry names.
    """
    rows = client.query(
        "select name, type, comment from system.columns"
        " where database = {database:String} and table = {table:String} order by position",
        parameters={"database": client.database, "table": table.name},
    ).result_rows
    if not rows:
        raise OffloadError(
            f"{table.name}: no such table in ClickHouse database {client.database}; "
            "create it with 'k2 init'"
        )
    table.require_columns(name for name, _, _ in rows)
    return tuple(
        parse_column(name, clickhouse_type, comment)
        for name, clickhouse_type, comment in rows
        if name not in table.exclude
    )


def new_columns(
    table: Table, columns: Sequence[Column], lake_types: Mapping[str, str]
) -> tuple[Column, ...]:
    """The source's columns that the Iceberg table lacks; `lake_types` are its types by name.

    Raises:
        SchemaMismatchError: a column was removed from the source or has another type there.
    """
    source = {column.name: column for column in columns}
    for name, lake_type in lake_types.items():
        column = source.get(name)
        if column is None:
            raise SchemaMismatchError(
                f"{table.name}: column {name} is missing in ClickHouse and {lake_type} in Iceberg; "
                "add it to ClickHouse again or drop it from Iceberg, see 'Schema mismatch' in "
                "docs/runbook.md"
            )
        if column.lake_type != lake_type:
            raise SchemaMismatchError(
                f"{table.name}: column {name} is {column.lake_type} in ClickHouse "
                f"({column.clickhouse_type}) and {lake_type} in Iceberg; give it its old type and "
                "the new one another name, see 'Schema mismatch' in docs/runbook.md"
            )
    return tuple(column for column in columns if column.name not in lake_types)


def casts_sql(columns: Iterable[Column]) -> str:
    """The select list that turns columns of the source into those of a file."""
    return ", ".join(
        f"{column.as_file_type} as {quote_identifier(column.name)}" for column in columns
    )


def file_structure(columns: Iterable[Column]) -> str:
    """The structure argument with which ClickHouse reads a Parquet file of the lake."""
    return ", ".join(f"{quote_identifier(column.name)} {column.file_type}" for column in columns)
