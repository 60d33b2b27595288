"""The same checksum of rows as Arrow: those that PyIceberg or Spark has read.

Apart from `checksum`, because a job with nothing new needs neither NumPy nor Arrow.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2.offload.checksum import MIX, weight
from k2.offload.schema import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def checksum_arrow(batch: pa.RecordBatch | pa.Table, columns: Sequence[Column]) -> int:
    """The checksum of the rows of an Arrow batch."""
    total = np.zeros(batch.num_rows, dtype=np.uint64)
    for column in columns:
        total += _values(batch.column(column.name), column) * np.uint64(weight(column.name))
    total = (total ^ (total >> np.uint64(32))) * np.uint64(MIX)
    total ^= total >> np.uint64(29)
    return int(total.sum(dtype=np.uint64))


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
    return low + high * np.uint64(MIX) if column.precision > 18 else low.copy()
