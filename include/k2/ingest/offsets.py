"""Which offsets of the log are free: K2 itself hands out places that Kafka does not.

The partitions of a topic count from 0. Those that K2 hands out are at the other end, so that
messages of a topic, of archives and of replayed dead letters never meet in Bronze.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Any, Final

from k2.clickhouse import quote_identifier
from k2.offload.cursor import parse_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clickhouse_connect.driver.client import Client
    from psycopg import Connection

    from k2.registry import Registry

# kafka_partition is a UInt16.
REPLAYED: Final = 65_535
ARCHIVES: Final = range(65_500, 65_504)


def partition_of(symbol: str) -> int:
    """The log partition of a market's archives: the same in every process and release."""
    return ARCHIVES[zlib.crc32(symbol.encode()) % len(ARCHIVES)]


def next_offsets(
    client: Client,
    connection: Connection[tuple[Any, ...]],
    registry: Registry,
    database: str,
    exchange: str,
    partitions: Sequence[int] = ARCHIVES,
) -> dict[int, int]:
    """The first free offset of each partition that has any taken.

    Taken is what Bronze and the dead letters hold and, as retention empties both, what has been
    offloaded: below its watermark a trade would never be.

    Args:
        connection: PostgreSQL, where the watermarks are, if anything was offloaded yet.
        partitions: those of which Bronze is asked.

    Raises:
        OffloadError: the watermark of the exchange's bronze table is not a token.
    """
    table = f"bronze_trades_{exchange}"
    taken = _offloaded(connection, registry, table)
    for partition, offset in _highest(client, database, exchange, table, partitions):
        taken[partition] = max(offset, taken.get(partition, offset))
    return {partition: offset + 1 for partition, offset in taken.items()}


def wait_for_inserts(
    client: Client, table: str, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until no insert into a table is running: a killed feed may have left one behind.

    ClickHouse finishes an insert that it has received whole, whether or not its sender lives.
    """
    while client.query(
        "select 1 from system.processes where startsWith(lower(query), 'insert into') "
        "and position(query, {table:String}) > 0 limit 1",
        parameters={"table": table},
    ).result_rows:
        sleep(0.05)


def _highest(
    client: Client, database: str, exchange: str, table: str, partitions: Sequence[int]
) -> list[tuple[int, int]]:
    """Partitions and offsets; of Bronze it reads the ends of the primary key, not the table."""
    schema = quote_identifier(database)
    ends = [
        f"(select kafka_partition, kafka_offset from {schema}.{quote_identifier(table)} "
        f"where kafka_partition = {partition} "
        "order by kafka_partition desc, kafka_offset desc limit 1)"
        for partition in partitions
    ]
    dead = (
        f"(select kafka_partition, max(kafka_offset) as kafka_offset from {schema}.dead_letters "
        "where exchange = {exchange:String} group by kafka_partition)"
    )
    rows = client.query(
        " union all ".join([*ends, dead]),
        parameters={"exchange": exchange},
        settings={"optimize_read_in_order": 1},
    ).result_rows
    return [(int(partition), int(offset)) for partition, offset in rows]


def _offloaded(
    connection: Connection[tuple[Any, ...]], registry: Registry, table: str
) -> dict[int, int]:
    """The highest offset in Iceberg of each partition, as PostgreSQL knows it."""
    if connection.execute("select to_regclass('offload_watermarks')").fetchone() == (None,):
        return {}
    row = connection.execute(
        "select token from offload_watermarks where table_name = %s", (table,)
    ).fetchone()
    if row is None or row[0] is None:
        return {}
    token = parse_token(row[0], registry.table(table).cursor)
    return {int(partition): int(offset) for partition, offset in token.positions}
