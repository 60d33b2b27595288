"""One number for a set of rows, equal on every engine that holds the same rows.

A row's number mixes the values of all its columns, and the rows' numbers are added modulo 2**64.
Order does not matter; a row lost, changed or there twice does. Only operations that ClickHouse,
NumPy and Spark share are used: wrapping 64-bit multiplication and addition, xor, shifts, and
CRC-32 (IEEE 802.3) for text. A null adds nothing, so a column added later leaves the number of
older rows as it was.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2.clickhouse import quote_identifier
from k2.offload.schema import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_MIX = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, odd: as in SplitMix64


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
    mixed = f"(bitXor(({terms}) as row_sum, bitShiftRight(row_sum, 32)) * {_MIX}) as row_mixed"
    return f"sum(bitXor({mixed}, bitShiftRight(row_mixed, 29)))"


def checksum_arrow(batch: pa.RecordBatch | pa.Table, columns: Sequence[Column]) -> int:
    """The checksum of the rows of an Arrow batch."""
    total = np.zeros(batch.num_rows, dtype=np.uint64)
    for column in columns:
        total += _values(batch.column(column.name), column) * np.uint64(_weight(column.name))
    total = (total ^ (total >> np.uint64(32))) * np.uint64(_MIX)
    total ^= total >> np.uint64(29)
    return int(total.sum(dtype=np.uint64))


def add_checksums(checksums: Iterable[int]) -> int:
    """The checksum of the union of disjoint sets of rows."""
    return sum(checksums) & _MASK


def _weight(name: str) -> int:
    """An odd 64-bit weight: a column's own, whatever its position."""
    low, high = zlib.crc32(name.encode()), zlib.crc32(name[::-1].encode() + b"\x01")
    return ((high << 32 | low) * _MIX & _MASK) | 1


def _term_sql(column: Column, *, of_source: bool) -> str:
    value = column.as_file_type if of_source else quote_identifier(column.name)
    if column.nullable:
        number = _number_sql(f"assumeNotNull({value})", column)
        return f"if(isNull({value}), 0, {number} + 1) * {_weight(column.name)}"
    return f"({_number_sql(value, column)} + 1) * {_weight(column.name)}"


def _number_sql(value: str, column: Column) -> str:
    if column.kind is Kind.DECIMAL and column.precision > 18:
        bits = f"reinterpretAsUInt128({value})"
        return f"(toUInt64({bits}) + toUInt64(bitShiftRight({bits}, 64)) * {_MIX})"
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


def _values(array: pa.ChunkedArray | pa.Array, column: Column) -> NDArray[np.uint64]:
    """The column's numbers plus one, zero where the value is null."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    present = np.asarray(pc.is_valid(array)) if array.null_count else None
    numbers = _numbers(array, column) + np.uint64(1)
    return numbers if present is None else np.where(present, numbers, np.uint64(0))


def _numbers(array: pa.Array, column: Column) -> NDArray[np.uint64]:
    match column.kind:
        case Kind.STRING:
            return _text_numbers(array)
        case Kind.DECIMAL:
            return _decimal_numbers(array, column)
        case Kind.FLOAT:
            return _plain(array, pa.float32()).view(np.uint32).astype(np.uint64)
        case Kind.DOUBLE:
            return _plain(array, pa.float64()).view(np.uint64)
        case Kind.TIMESTAMP:
            return _plain(array.cast(pa.timestamp("us", tz="UTC")).view(pa.int64()), pa.int64())
        case Kind.DATE:
            return _plain(array.view(pa.int32()), pa.int64())
        case _:
            return _plain(array, pa.int64())


def _plain(array: pa.Array, to: pa.DataType) -> NDArray[Any]:
    filled = pc.fill_null(array.cast(to), 0) if array.null_count else array.cast(to)
    numbers: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return numbers.view(np.uint64) if to == pa.int64() else numbers


def _text_numbers(array: pa.Array) -> NDArray[np.uint64]:
    encoded = pc.dictionary_encode(array.cast(pa.large_string()))
    sums = np.array(
        [zlib.crc32(text.encode()) for text in encoded.dictionary.to_pylist()] or [0],
        dtype=np.uint64,
    )
    indices: NDArray[np.int64] = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    numbers: NDArray[np.uint64] = sums[indices]
    return numbers


def _decimal_numbers(array: pa.Array, column: Column) -> NDArray[np.uint64]:
    wide = array.cast(pa.decimal128(38, column.scale))
    halves = np.frombuffer(wide.buffers()[1], dtype=np.uint64)
    halves = halves[2 * wide.offset : 2 * (wide.offset + len(wide))]
    low, high = halves[0::2], halves[1::2]
    return low + high * np.uint64(_MIX) if column.precision > 18 else low.copy()
