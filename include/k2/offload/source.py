"""The table in ClickHouse that is offloaded: its rows once, all their versions, or the new ones.

What is read costs what is new, also where new rows lie scattered among old ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
# Other versions of a row have its sorting key: FINAL may choose by it before it merges.
FINAL_SETTINGS = {"optimize_move_to_prewhere_if_final": 1}
# When ClickHouse got a row; Bronze and Silver have it.
INGESTION = "ingestion_timestamp"


def source_sql(client: Client, table: Table) -> str:
    """The deduplicated source table, for a from clause."""
    return f"{versions_sql(client, table)} final"


def versions_sql(client: Client, table: Table) -> str:
    """The source table with every version of its rows, for a from clause."""
    return f"{quote_identifier(client.database or '')}.{quote_identifier(table.name)}"


@dataclass(frozen=True)
class Versions:
    """Versions of rows: how many there are, and the ClickHouse partitions that they lie in."""

    count: int
    partitions: tuple[str, ...]


def find_versions(client: Client, table: Table, where: str) -> Versions:
    """The versions that a predicate takes."""
    ((count, partitions),) = client.query(
        "select count(), groupUniqArray(_partition_id)"
        f" from {versions_sql(client, table)} where {where}"
    ).result_rows
    return Versions(count, tuple(partitions))


@dataclass(frozen=True)
class Narrowing:
    """The columns of the keys of some rows, and the ClickHouse partitions with rows of these keys.

    Without columns: anything.
    """

    versions: str = ""
    key: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()

    def sql(self, where: str) -> str:
        """A predicate that takes the same of these rows from the deduplicated source, reading less.

        `where` takes all of them or some.
        """
        if not self.key:
            return where
        inside = f"{where} and {self.in_partitions}"
        return f"{inside} and {self.of_keys(inside)}"

    @property
    def in_partitions(self) -> str:
        """The predicate of the partitions."""
        return f"_partition_id in ({', '.join(quote_string(name) for name in self.partitions)})"

    def of_keys(self, where: str) -> str:
        """The predicate of the versions whose keys are those of other versions."""
        last, key = self.key[-1], ", ".join(self.key)
        # The last column tells most keys apart: read first, it spares the others.
        return (
            f"{last} in (select {last} from {self.versions} where {where})"
            f" and ({key}) in (select {key} from {self.versions} where {where})"
        )


def narrow(client: Client, table: Table, where: str, found: Versions) -> Narrowing:
    """What FINAL needs to know of the rows that a predicate takes, to read only what it must.

    FINAL merges all rows whose sorting keys lie between those of the rows asked for. New trades lie
    between old ones of the same market, and late ones far back: it would read all of the table. So
    it is told the keys of the new rows, and the ClickHouse partitions that have rows of these keys.
    A range of the sorting key itself, as in a log, needs none of that.

    `found` has all versions that the predicate takes, and maybe others.
    """
    names, versions = _scattered_key(client, table), versions_sql(client, table)
    most = min(NARROWED_VERSIONS, count_rows(client, versions, "1") // NARROWED_OF)
    if not names or not 0 < found.count <= most:
        return Narrowing()
    new = Narrowing(versions, tuple(quote_identifier(name) for name in names), found.partitions)
    # The whole key has an index, so that other partitions are searched where its rows would be.
    others = client.query(
        f"select distinct _partition_id from {versions} where not {new.in_partitions}"
        f" and {new.of_keys(f'{where} and {new.in_partitions}')}"
    ).result_rows
    return replace(new, partitions=(*new.partitions, *(name for (name,) in others)))


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
