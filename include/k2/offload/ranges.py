"""The range of a batch: up to where it goes, and the predicate of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier
from k2.offload.cursor import (
    Token,
    advance,
    cut_sql,
    make_token,
    newest_sql,
    range_sql,
)
from k2.offload.source import (
    FINAL_SETTINGS,
    Narrowing,
    Versions,
    end_of_narrowed,
    find_versions,
    narrow,
    source_sql,
    versions_sql,
)
from k2.registry import VersionCursor

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from k2.registry import Table

# A batch may have so many times `max_batch_rows`: offsets are cut evenly, not the rows at them.
_ABOUT = 1.25


@dataclass(frozen=True)
class Range:
    """The new rows of (lower, upper]; `where` takes them out of the deduplicated source."""

    lower: Token | None
    upper: Token
    where: str


def next_range(client: Client, table: Table, lower: Token | None) -> Range | None:
    """The range of the next batch after a token, or None when nothing is new.

    A range of more than `max_batch_rows` is cut; what is left is the next batch.
    """
    cursor, source, versions = table.cursor, source_sql(client, table), versions_sql(client, table)
    if isinstance(cursor, VersionCursor):
        # Corrected rows are written as whole partitions; their number is bounded by the unload.
        newest = _newest(client, table, source, lower)
        return Range(lower, newest, range_sql(cursor, lower, newest)) if newest else None
    newest, start, end = None, lower, None
    while newest is None:
        # Nothing but trades that came before: a token ends at a row that stays.
        start = end or start
        # Looked at before their partitions are: what arrives from now on is the next batch's.
        seen = _newest(client, table, versions, start)
        if seen is None:
            return None
        end, found = _cut(client, table, start, seen)
        where = range_sql(cursor, start, end or seen)
        narrowing = narrow(client, table, where, found)
        newest = _newest(client, table, _positions(table, source, narrowing.sql(where)), start)
        if newest is None and end is None:
            return None
    upper = advance(lower, newest)
    if start != lower:
        narrowing = _narrow_between(client, table, lower, upper)
    return _make_range(table, lower, upper, narrowing)


def range_between(client: Client, table: Table, lower: Token | None, upper: Token) -> Range:
    """The range between two tokens, as that of a batch that is taken again."""
    return _make_range(table, lower, upper, _narrow_between(client, table, lower, upper))


def _make_range(table: Table, lower: Token | None, upper: Token, narrowing: Narrowing) -> Range:
    return Range(lower, upper, narrowing.sql(range_sql(table.cursor, lower, upper)))


def _narrow_between(client: Client, table: Table, lower: Token | None, upper: Token) -> Narrowing:
    where = range_sql(table.cursor, lower, upper)
    return narrow(client, table, where, find_versions(client, table, where))


def _cut(
    client: Client, table: Table, lower: Token | None, newest: Token
) -> tuple[Token | None, Versions]:
    """Where a batch ends, None if it takes all up to the newest; and the versions that it has.

    Versions are counted, not rows: FINAL would merge all of a backlog anew for every batch of it.
    """
    cursor, versions = table.cursor, versions_sql(client, table)
    assert not isinstance(cursor, VersionCursor)
    found = find_versions(client, table, range_sql(cursor, lower, newest))
    end = end_of_narrowed(client, table, lower, found.count)
    if end is not None:
        return end, find_versions(client, table, range_sql(cursor, lower, end))
    while found.count > table.max_batch_rows * _ABOUT:
        where = range_sql(cursor, lower, end or newest)
        cut = cut_sql(cursor, versions, where, found.count, table.max_batch_rows)
        earlier = advance(lower, make_token(cursor, client.query(cut).result_rows))
        if earlier == end:
            break
        end = earlier
        found = find_versions(client, table, range_sql(cursor, lower, end))
    return end, found


def _positions(table: Table, source: str, where: str) -> str:
    """Only the columns that the newest positions need, of the rows that a predicate takes."""
    names = ", ".join(quote_identifier(name) for name in table.cursor.columns)
    return f"(select {names} from {source} where {where})"


def _newest(client: Client, table: Table, source: str, lower: Token | None) -> Token | None:
    """The newest positions of a from clause beyond a token, or None."""
    query = newest_sql(table.cursor, source, lower)
    positions = client.query(query, settings=FINAL_SETTINGS).result_rows
    return make_token(table.cursor, positions) if positions else None
