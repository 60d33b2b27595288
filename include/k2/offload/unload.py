"""Moving the rows: ClickHouse writes a batch as Parquet, one file for each Iceberg partition.

Nothing that is written here belongs to the table until it is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clickhouse_connect.driver.exceptions import DatabaseError

from k2.clickhouse import quote_identifier, quote_string
from k2.errors import OffloadError
from k2.offload.checksum import checksum_sql
from k2.offload.faults import fault
from k2.offload.partition import partition_bounds_sql, partition_sql
from k2.offload.schema import casts_sql, file_structure
from k2.offload.source import FINAL_SETTINGS, source_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from k2.offload.plan import Intent, PartitionPlan
    from k2.offload.schema import Column
    from k2.offload.storage import Storage
    from k2.registry import Table

# Open Parquet writers are what an unload holds in memory: one for each partition of a statement.
PARTITIONS_AT_ONCE = 8

PARQUET_SETTINGS = {
    "output_format_parquet_string_as_string": 1,
    "output_format_parquet_compression_method": "zstd",
    # 3 takes a tenth more of the time, for three thousandths of the bytes.
    "output_format_compression_level": 2,
    # Larger dictionaries are built and thrown away: another tenth, and no byte saved.
    "output_format_parquet_max_dictionary_size": 512 * 1024,
    # Iceberg readers do not use them, and they cost a second pass over the values.
    "output_format_parquet_write_bloom_filter": 0,
    "output_format_parquet_row_group_size": 1_000_000,
}
READ_SETTINGS = {
    # Fewer, larger blocks of what is only summed.
    "input_format_parquet_max_block_size": 262_144,
    # Values are held against the intent, which says more than the checksums of their pages.
    "input_format_parquet_verify_checksums": 0,
}


class VerificationError(OffloadError):
    """The files hold other rows than the intent says; nothing was committed."""


@dataclass(frozen=True)
class WrittenFile:
    """A Parquet file of a batch, and the Iceberg partition that it belongs to."""

    location: str
    partition: str


def unload(
    client: Client, storage: Storage, table: Table, columns: Sequence[Column], intent: Intent
) -> tuple[WrittenFile, ...]:
    """Write the rows of an intent as Parquet files below its path."""
    names = ", ".join(quote_identifier(column.name) for column in columns)
    order = ", ".join(quote_identifier(name) for name in table.order)
    files = storage.parquet_sql(f"{intent.path}/{{_partition_id}}.parquet")
    for group in _groups(intent.partitions):
        inside = partition_bounds_sql(table.partition, [plan.partition for plan in group])
        # The casts stand outside: inside, they would hide the columns that prune the range.
        client.command(
            f"insert into function {files}"
            f" partition by {partition_sql(table.partition)}"
            f" select {casts_sql(columns)} from (select {names} from {source_sql(client, table)}"
            f" where {inside} and {intent.rows_where} order by {order})",
            settings={**PARQUET_SETTINGS, **FINAL_SETTINGS, **storage.query_settings},
        )
        fault("unloading")
    return tuple(
        WrittenFile(f"{intent.path}/{plan.partition}.parquet", plan.partition)
        for plan in intent.partitions
    )


def cancel_unload(client: Client, intent: Intent) -> None:
    """Stop the statements that still write below an intent's path.

    ClickHouse goes on with an unload whose driver has died, and would write files again that were
    just removed.
    """
    attempt = quote_string(f"/{intent.path.rsplit('/', 1)[1]}/")
    client.command(
        f"kill query where position(query, {attempt}) > 0 and query not ilike 'kill query%' sync"
    )


def verify(client: Client, storage: Storage, columns: Sequence[Column], intent: Intent) -> None:
    """Read the files back and hold their rows and checksums against the intent.

    Raises:
        VerificationError: a file is missing, or has other rows than planned.
    """
    if not intent.partitions:
        return
    require_as_planned(intent, _read_back(client, storage, columns, intent))


def require_as_planned(intent: Intent, found: Mapping[str, tuple[int, int]]) -> None:
    """Raise VerificationError unless each partition was found with its planned rows and sum."""
    planned = {plan.partition: (plan.rows, plan.checksum) for plan in intent.partitions}
    wrong = sorted(name for name in found.keys() | planned if found.get(name) != planned.get(name))
    if wrong:
        name = wrong[0]
        raise VerificationError(
            f"batch {intent.batch}: partition {name} was planned with "
            f"{_described(planned.get(name))} and written with {_described(found.get(name))}; "
            "the source changed meanwhile, or the files are damaged. Nothing was committed: "
            "run the offload again"
        )


def _read_back(
    client: Client, storage: Storage, columns: Sequence[Column], intent: Intent
) -> dict[str, tuple[int, int]]:
    """Rows and checksum of each file as it lies in the lake, by partition."""
    files = storage.parquet_sql(f"{intent.path}/*.parquet", quote_string(file_structure(columns)))
    try:
        rows = client.query(
            "select replaceOne(_file, '.parquet', '') as lake_partition, count(),"
            f" {checksum_sql(columns, of_source=False)}"
            f" from {files} group by lake_partition",
            settings={**READ_SETTINGS, **storage.query_settings},
        ).result_rows
    except DatabaseError as error:
        raise VerificationError(
            f"batch {intent.batch}: its files cannot be read back: {str(error).splitlines()[0]}. "
            "Nothing was committed: run the offload again"
        ) from error
    return {name: (count, checksum) for name, count, checksum in rows}


def _described(rows_and_checksum: tuple[int, int] | None) -> str:
    if rows_and_checksum is None:
        return "no rows"
    rows, checksum = rows_and_checksum
    return f"{rows} rows (checksum {checksum})"


def _groups(partitions: Sequence[PartitionPlan]) -> Iterator[Sequence[PartitionPlan]]:
    for start in range(0, len(partitions), PARTITIONS_AT_ONCE):
        yield partitions[start : start + PARTITIONS_AT_ONCE]
