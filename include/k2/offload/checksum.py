"""One number for a set of rows, equal on every engine that holds the same rows.

A row's number mixes the values of all its columns, and the rows' numbers are added modulo 2**64.
Order does not matter; a row lost, changed or there twice does. Only operations that ClickHouse,
NumPy and Spark share are used: wrapping 64-bit multiplication and addition, xor, shifts, and
CRC-32 (IEEE 802.3) for text. A null adds nothing, so a column added later leaves the number of
older rows as it was.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from k2.clickhouse import quote_identifier
from k2.offload.schema import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MASK: Final = (1 << 64) - 1
MIX: Final = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, odd: as in SplitMix64


def checksum_sql(
    columns: Iterable[Column], *, of_source: bool, absent: Mapping[str, str] | None = None
) -> str:
    """The ClickHouse expression of the checksum, UInt64.

    `of_source` takes the columns of the source table and casts them as the unload does; otherwise
    the columns are those of a file of the lake. `absent` has, by column, the predicate of the rows
    for which the column counts as null, whatever its value is.
    """
    absent = absent or {}
    terms = " + ".join(
        f"if({absent[column.name]}, 0, {_term_sql(column, of_source=of_source)})"
        if column.name in absent
        else _term_sql(column, of_source=of_source)
        for column in columns
    )
    mixed = f"(bitXor(({terms}) as row_sum, bitShiftRight(row_sum, 32)) * {MIX}) as row_mixed"
    return f"sum(bitXor({mixed}, bitShiftRight(row_mixed, 29)))"


def add_checksums(checksums: Iterable[int]) -> int:
    """The checksum of the union of disjoint sets of rows."""
    return sum(checksums) & _MASK


def weight(name: str) -> int:
    """An odd 64-bit weight: a column's own, whatever its position."""
    low, high = zlib.crc32(name.encode()), zlib.crc32(name[::-1].encode() + b"\x01")
    return ((high << 32 | low) * MIX & _MASK) | 1


def _term_sql(column: Column, *, of_source: bool) -> str:
    value = column.as_file_type if of_source else quote_identifier(column.name)
    if column.nullable:
        number = _number_sql(f"assumeNotNull({value})", column)
        return f"if(isNull({value}), 0, {number} + 1) * {weight(column.name)}"
    return f"({_number_sql(value, column)} + 1) * {weight(column.name)}"


def _number_sql(value: str, column: Column) -> str:
    if column.kind is Kind.DECIMAL and column.precision > 18:
        bits = f"reinterpretAsUInt128({value})"
        return f"(toUInt64({bits}) + toUInt64(bitShiftRight({bits}, 64)) * {MIX})"
    match column.kind:
        case Kind.TIMESTAMP:
            return f"toUInt64(toUnixTimestamp64Micro({value}))"
        case Kind.STRING:
            return f"toUInt64(CRC32({value}))"
        case Kind.DECIMAL if column.precision > 9:
            return f"toUInt64(reinterpretAsInt64({value}))"
        case Kind.DECIMAL:
            return f"toUInt64(reinterpretAsInt32({value}))"
        case Kind.DOUBLE:
            return f"reinterpretAsUInt64({value})"
        case Kind.FLOAT:
            return f"toUInt64(reinterpretAsUInt32({value}))"
        case Kind.DATE:
            return f"toUInt64(toInt32({value}))"
        case _:
            return f"toUInt64({value})"
