"""Moving the rows through Spark: for a lake that ClickHouse itself cannot write to.

Spark reads ClickHouse in parallel as Arrow, a task for each Iceberg partition and log partition,
and writes the Parquet files. Everything else, the intent, the checksums and the commit, is what
an unload by ClickHouse has.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

from k2.clickhouse import connect, quote_identifier
from k2.errors import OffloadError
from k2.offload.checksum import add_checksums
from k2.offload.checksum_arrow import checksum_arrow
from k2.offload.cursor import compare_sql, range_sql, up_to_sql
from k2.offload.partition import partition_bounds_sql, partition_sql
from k2.offload.schema import Column, Kind, casts_sql
from k2.offload.source import source_sql
from k2.offload.unload import WrittenFile, require_as_planned
from k2.registry import OffsetCursor
from k2.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clickhouse_connect.driver.client import Client
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from k2.offload.plan import Intent
    from k2.offload.storage import Storage
    from k2.registry import Table

PARTITION = "lake_partition"
_SPARK_TYPES = {
    Kind.INTEGER: "int",
    Kind.LONG: "bigint",
    Kind.TIMESTAMP: "timestamp",
}


class ScanError(OffloadError):
    """Spark could not read ClickHouse, write the files or read them back."""


@dataclass
class Slice(InputPartition):
    """What one task reads."""

    query: str


class ClickHouseSource(DataSource):
    """Spark's side of it: queries in, Arrow batches out. The login comes from the environment."""

    @classmethod
    def name(cls) -> str:
        return "k2_clickhouse"

    def schema(self) -> str:
        return str(self.options["ddl"])

    def reader(self, schema: StructType) -> SliceReader:  # noqa: ARG002 - Spark's signature
        count = int(self.options["slices"])
        return SliceReader([self.options[f"slice_{number}"] for number in range(count)])


class SliceReader(DataSourceReader):
    """Reads slices, each in a task of its own, batch by batch."""

    def __init__(self, queries: list[str]) -> None:
        self._queries = queries

    def partitions(self) -> Sequence[InputPartition]:
        return [Slice(query) for query in self._queries]

    def read(self, partition: InputPartition) -> Iterator[Any]:
        assert isinstance(partition, Slice)
        settings = load_settings(os.environ)
        with (
            connect(settings.clickhouse) as client,
            client.query_arrow_stream(partition.query, use_strings=True) as batches,
        ):
            for batch in batches:
                yield from batch.to_batches() if isinstance(batch, pa.Table) else [batch]


def scan(
    spark: SparkSession,
    client: Client,
    storage: Storage,
    table: Table,
    columns: Sequence[Column],
    intent: Intent,
) -> tuple[WrittenFile, ...]:
    """Write the rows of an intent as Parquet files below its path.

    Raises:
        ScanError: a task of Spark failed, and with it the whole scan; or the lake is an object
            store, which Spark writes to through Hadoop only.
    """
    if storage.folder(intent.path) is None:
        raise ScanError(
            f"{table.name}: 'transfer: scan' writes to file systems only; ClickHouse itself writes "
            "to an object store: set 'transfer: unload' in include/tables.yaml"
        )
    queries = list(_slices(client, table, columns, intent))
    if not queries:
        return ()
    spark.dataSource.register(ClickHouseSource)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    # Spark's default is a type that Iceberg does not know.
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    reader = spark.read.format(ClickHouseSource.name()).option("ddl", _ddl(columns))
    reader = reader.option("slices", str(len(queries)))
    for number, query in enumerate(queries):
        reader = reader.option(f"slice_{number}", query)
    with _reported(intent):
        (
            reader.load()
            .write.option("compression", "zstd")
            .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
            .partitionBy(PARTITION)
            .parquet(intent.path)
        )
        uris = spark.read.parquet(intent.path).inputFiles()
    return tuple(
        WrittenFile(_location(uri), uri.rsplit(f"/{PARTITION}=", 1)[1].split("/", 1)[0])
        for uri in uris
    )


def verify_scan(spark: SparkSession, columns: Sequence[Column], intent: Intent) -> None:
    """Read the files back and hold their rows and checksums against the intent.

    Raises:
        VerificationError: other rows are there than planned.
        ScanError: the files cannot be read back.
    """
    if not intent.partitions:
        return

    def sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for name in pc.unique(batch.column(PARTITION)).to_pylist():
                rows = batch.filter(pc.equal(batch.column(PARTITION), name))
                checksum = str(checksum_arrow(rows, columns))
                yield pa.RecordBatch.from_pydict(
                    {"name": [name], "rows": [rows.num_rows], "checksum": [checksum]}
                )

    with _reported(intent):
        frame = spark.read.schema(_ddl(columns)).parquet(intent.path)
        groups = frame.mapInArrow(sums, "name string, rows bigint, checksum string").collect()
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in groups:
        found[row["name"]].append((row["rows"], int(row["checksum"])))
    require_as_planned(
        intent,
        {
            name: (sum(rows for rows, _ in parts), add_checksums(number for _, number in parts))
            for name, parts in found.items()
        },
    )


@contextmanager
def _reported(intent: Intent) -> Iterator[None]:
    """Say in a line what Spark says in a page."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise ScanError(
            f"batch {intent.batch}: Spark stopped: {_reason(error)}. "
            "Nothing was committed: run the offload again"
        ) from error


def _reason(error: PySparkException | Py4JJavaError) -> str:
    """The first cause: of a Python worker's traceback the last line, of all else the first."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while (deeper := cause.getCause()) is not None:
            cause = deeper
        text = str(cause.toString())
    lines = [line for line in text.splitlines() if line.strip()]
    if "Traceback (" in text:
        return [line for line in lines if not line[0].isspace()][-1]
    return lines[0]


def _slices(
    client: Client, table: Table, columns: Sequence[Column], intent: Intent
) -> Iterator[str]:
    """A query for each Iceberg partition and, in a log, each log partition."""
    names = ", ".join(quote_identifier(column.name) for column in columns)
    casts = casts_sql(columns)
    order = ", ".join(quote_identifier(name) for name in table.order)
    for plan in intent.partitions:
        inside = partition_bounds_sql(table.partition, [plan.partition])
        for rows in _ranges(table, intent):
            yield (
                f"select {casts}, {partition_sql(table.partition)} as {PARTITION}"
                f" from (select {names} from {source_sql(client, table)}"
                f" where {inside} and {rows} order by {order})"
            )


def _ranges(table: Table, intent: Intent) -> list[str]:
    if table.commit == "overwrite":
        return [up_to_sql(table.cursor, intent.upper)]
    whole = range_sql(table.cursor, intent.lower, intent.upper)
    if not isinstance(table.cursor, OffsetCursor):
        return [whole]
    return [
        f"{whole} and {compare_sql(table.cursor, position, '<=')}"
        for position in intent.upper.positions
    ]


def _ddl(columns: Sequence[Column]) -> str:
    fields = [f"{_spark_identifier(column.name)} {_spark_type(column)}" for column in columns]
    return ", ".join((*fields, f"{PARTITION} string"))


def _spark_identifier(name: str) -> str:
    """An identifier in backquotes, as Spark reads it."""
    return "`" + name.replace("`", "``") + "`"


def _spark_type(column: Column) -> str:
    return _SPARK_TYPES.get(column.kind, column.lake_type)


def _location(uri: str) -> str:
    """A file of Spark's listing as the lake writes locations."""
    return unquote(uri).replace("file:///", "file:/", 1)
