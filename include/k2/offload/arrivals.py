"""Did other messages arrive at places of the log that were offloaded before?

A topic that was made anew counts from zero again. While the table still has the rows of the old
one, the new messages hide among them, below the token, and would never be offloaded. They give
themselves away: they arrived after the row of the token. So does a message that was delivered
again; Iceberg tells the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier
from k2.offload.checksum import checksum_sql
from k2.offload.cursor import compare_sql
from k2.offload.plan import SourceBehindError
from k2.offload.source import INGESTION, source_sql, versions_sql
from k2.registry import Layer, OffsetCursor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clickhouse_connect.driver.client import Client
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table as IcebergTable

    from k2.offload.cursor import Position, Token
    from k2.offload.schema import Column
    from k2.registry import Table

# Of the latest arrivals below the token, so many places are compared with Iceberg.
COMPARED = 100


def require_no_strangers(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    token: Token,
    open_lake: Callable[[], IcebergTable],
) -> None:
    """Raise SourceBehindError when the log has another message where one was offloaded.

    Only Bronze is a log. ClickHouse reads the parts that got rows since the row of the token;
    Iceberg is opened only if there are any below the token. Of a log partition whose row at the
    token is gone nothing is known.
    """
    if table.layer is not Layer.BRONZE or not isinstance(table.cursor, OffsetCursor):
        return
    for position in token.positions:
        places = _late_places(client, table, position)
        stranger = _stranger(client, table, columns, position, places, open_lake)
        if stranger is not None:
            raise SourceBehindError(
                f"{table.name}: at {[*position[:-1], stranger]}, before {list(position)}, "
                "ClickHouse has another message than the lake; the topic was made anew, or a "
                "message that was skipped before was read again. See 'Source behind' in "
                "docs/runbook.md"
            )


def _late_places(client: Client, table: Table, position: Position) -> list[int]:
    """The offsets up to a token's at which rows arrived after its own; the latest, if many."""
    rows = versions_sql(client, table)
    at_token = compare_sql(table.cursor, position, "=")
    late = (
        f"{compare_sql(table.cursor, position, '<=')} and {INGESTION} >"
        f" (select minOrNull({INGESTION}) from {rows} where {at_token})"
    )
    if not client.query(f"select 1 from {rows} where {late} limit 1").result_rows:
        return []
    offset = quote_identifier(table.cursor.columns[-1])
    places = client.query(
        f"select {offset} from {source_sql(client, table)} where {late} group by {offset}"
        f" order by max({INGESTION}) desc limit {COMPARED}"
    ).result_rows
    return [place for (place,) in places]


def _stranger(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    position: Position,
    offsets: Sequence[int],
    open_lake: Callable[[], IcebergTable],
) -> int | None:
    """The lowest of some offsets of a log partition at which Iceberg has other rows."""
    if not offsets or not isinstance(table.cursor, OffsetCursor):
        return None
    # PyIceberg and Arrow take a second to import and are needed only here.
    import pyarrow.compute as pc
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, In

    from k2.offload.audit import absent_sql
    from k2.offload.checksum_arrow import checksum_arrow
    from k2.offload.kept import kept_bound, kept_from, kept_sql

    lake = open_lake()
    since = kept_from(lake.properties)
    absent = absent_sql(client, table, columns, lake)
    # A message that is delivered again arrives at another time.
    compared = [column for column in columns if column.name != INGESTION]
    name = table.cursor.offset
    listed = ", ".join(str(offset) for offset in offsets)
    key = compare_sql(table.cursor, position, "<=")
    here = client.query(
        f"select {quote_identifier(name)} as place,"
        f" {checksum_sql(compared, of_source=True, absent=absent)}"
        f" from {source_sql(client, table)}"
        f" where {key} and {quote_identifier(name)} in ({listed})"
        f" and {kept_sql(table.partition, since)} group by place order by place"
    ).result_rows
    # Pydantic's plugin of mypy does not see the initialisers that these classes have.
    conditions: list[BooleanExpression] = [In(name, offsets)]  # type: ignore[misc,call-arg]
    for column, value in zip(table.cursor.partition, position, strict=False):
        conditions.append(EqualTo(column, value))  # type: ignore[misc,call-arg]
    if since is not None:
        conditions.append(GreaterThanOrEqual(table.partition.column, kept_bound(since)))  # type: ignore[misc,call-arg]
    rows = lake.scan(
        row_filter=And(*conditions),
        selected_fields=tuple(column.name for column in columns),
    ).to_arrow()
    for offset, checksum in here:
        there = rows.filter(pc.equal(rows[name], offset))
        if checksum_arrow(there.combine_chunks(), compared) != checksum:
            return int(offset)
    return None
