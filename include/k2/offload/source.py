"""The table in ClickHouse that is offloaded: its rows once, all their versions, or the new ones.

What is read costs what is new, also where new rows lie scattered among old ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier, quote_string
from k2.offload.cursor import Token, advance, beyond_sql, make_token
from k2.registry import OffsetCursor

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from k2.registry import Table

# A range is narrowed if it has at most so many versions, whose keys have to fit into memory, and if
# the table has at least so many times as much: to read all of it is cheaper otherwise.
NARROWED_VERSIONS = 2_000_000
NARROWED_OF = 10
# When ClickHouse got a row; Bronze and Silver have it.
INGESTION = "ingestion_timestamp"


def source_sql(client: Client, table: Table) -> str:
    """The deduplicated source table, for a from clause."""
    return f"{versions_sql(client, table)} final"


def versions_sql(client: Client, table: Table) -> str:
    """The source table with every version of its rows, for a from clause."""
    return f"{quote_identifier(client.database or '')}.{quote_identifier(table.name)}"


def narrowed_sql(client: Client, table: Table, where: str) -> str:
    """A predicate that takes the same rows of the deduplicated source, and lets it read fewer.

    FINAL merges all rows whose sorting keys lie between those of the rows asked for. New trades lie
    between old ones of the same market, and late ones far back: it would read all of the table. So
    it is told the keys of the new rows, and the ClickHouse partitions that have rows of these keys.
    A range of the sorting key itself, as in a log, needs none of that.
    """
    key, versions = _scattered_key(client, table), versions_sql(client, table)
    if not key:
        return where
    most = min(NARROWED_VERSIONS, count_rows(client, versions, "1") // NARROWED_OF)
    if count_rows(client, versions, where) > most:
        return where
    names = ", ".join(quote_identifier(name) for name in key)
    of_keys = f"({names}) in (select {names} from {versions} where {where})"
    # The last column of the key tells most rows apart: read first, it spares the others.
    last = quote_identifier(key[-1])
    partitions = client.query(
        f"select distinct _partition_id from {versions}"
        f" where {last} in (select {last} from {versions} where {where}) and {of_keys}"
    ).result_rows
    # No partition has an empty name; a list must not be empty.
    listed = ", ".join(quote_string(partition) for (partition,) in [*partitions, ("",)])
    return f"{where} and {of_keys} and _partition_id in ({listed})"


def end_of_narrowed(client: Client, table: Table, lower: Token | None, count: int) -> Token | None:
    """Up to where the `count` versions after a token can be narrowed; None: all, or none of them.

    Of each log partition the same share is taken, but one with few of them is taken whole.
    """
    cursor, versions = table.cursor, versions_sql(client, table)
    if count <= NARROWED_VERSIONS or not isinstance(cursor, OffsetCursor):
        return None
    most = count_rows(client, versions, "1") // NARROWED_OF
    if count > most or not _scattered_key(client, table):
        return None
    beyond = beyond_sql(cursor, lower)
    key = ", ".join(quote_identifier(name) for name in cursor.partition)
    partitions = client.query(
        f"select uniqExact({key}) from {versions} where {beyond}"
    ).result_rows[0][0]
    offset = quote_identifier(cursor.offset)
    few, share = NARROWED_VERSIONS // 2 // partitions, NARROWED_VERSIONS / 2 / count
    ends = client.query(
        f"select {key}, toUInt64(min({offset})) + if(count() <= {few},"
        f" toUInt64(max({offset}) - min({offset})),"
        f" toUInt64((max({offset}) - min({offset})) * {share}))"
        f" from {versions} where {beyond} group by {key}"
    ).result_rows
    return advance(lower, make_token(cursor, ends))


def _scattered_key(client: Client, table: Table) -> tuple[str, ...]:
    """The sorting key, if the rows of a range are scattered over it; else nothing.

    Nothing also where it is not all columns of which each value equals itself.
    """
    ((text, columns),) = client.query(
        "select (select sorting_key from system.tables"
        " where database = {database:String} and name = {table:String}),"
        " groupArray(name) from system.columns"
        " where database = {database:String} and table = {table:String}"
        " and is_in_sorting_key and not match(type, 'Nullable|Float')",
        parameters={"database": client.database, "table": table.name},
    ).result_rows
    key = tuple((text or "").split(", "))
    is_log = key[: len(table.cursor.columns)] == table.cursor.columns
    return key if set(key) <= set(columns) and not is_log else ()


def count_rows(client: Client, source: str, where: str) -> int:
    """The rows of a from clause that a predicate takes."""
    ((count,),) = client.query(f"select count() from {source} where {where}").result_rows
    return int(count)
