"""Tokens: how far a table has been offloaded, and the SQL of "the rows between two tokens".

A token lives in Iceberg (snapshot summary and table property) and, as its copy, in PostgreSQL.
Ranges are half-open, (lower, upper]: the row at the token is already in the lake.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2.clickhouse import quote_identifier, quote_string
from k2.errors import OffloadError
from k2.registry import Cursor, OffsetCursor, TimestampCursor, VersionCursor

if TYPE_CHECKING:
    from collections.abc import Sequence

Position = tuple[str | int, ...]


@dataclass(frozen=True)
class Token:
    """A point up to which a table is in the lake.

    `positions` of a kafka_offset cursor: one per log partition, its key columns and then the
    highest offset. Of a timestamp cursor: one, the time in microseconds since 1970 (UTC) and then
    the tie-breakers. Of a version cursor: one, the time in microseconds.
    """

    kind: str
    positions: tuple[Position, ...]

    def to_json(self) -> str:
        """The canonical text: equal tokens have equal texts."""
        document = {"cursor": self.kind, "positions": [list(p) for p in self.positions]}
        return json.dumps(document, separators=(",", ":"), sort_keys=True)

    def describe(self) -> str:
        """In short, for people: the sum of the offsets, or the time (UTC)."""
        if self.kind == "kafka_offset":
            total = sum(int(position[-1]) + 1 for position in self.positions)
            return f"offset {total:,} over {len(self.positions)} partitions"
        time = dt.datetime.fromtimestamp(int(self.positions[0][0]) / 1_000_000, dt.UTC)
        return f"{time:%Y-%m-%d %H:%M:%S}"


def parse_token(text: str, cursor: Cursor) -> Token:
    """The token of a text.

    Raises:
        OffloadError: the text is not a token of this kind of cursor.
    """
    try:
        document = json.loads(text)
        token = Token(
            kind=document["cursor"],
            positions=tuple(sorted(tuple(position) for position in document["positions"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OffloadError(f"not a token: {text[:200]}") from error
    counted = isinstance(cursor, OffsetCursor) or len(token.positions) == 1
    fits = counted and all(_is_position(position, cursor) for position in token.positions)
    if token.kind != cursor.kind or not fits:
        raise OffloadError(f"a token of another cursor than {cursor.kind}: {text[:200]}")
    return token


def make_token(cursor: Cursor, positions: Sequence[Sequence[Any]]) -> Token:
    """A token of query rows whose columns are those of `position_columns`."""
    return Token(cursor.kind, tuple(sorted(tuple(position) for position in positions)))


def advance(lower: Token | None, newer: Token) -> Token:
    """The token after rows up to `newer`: log partitions without new rows keep their offset."""
    if lower is None or newer.kind != "kafka_offset":
        return newer
    offsets = {position[:-1]: position for position in (*lower.positions, *newer.positions)}
    return Token(newer.kind, tuple(sorted(offsets.values())))


def covered_by_both(left: Token, right: Token) -> Token:
    """The token of the rows that are up to both tokens."""
    if left.kind != "kafka_offset":
        return min(left, right, key=lambda token: token.positions)
    offsets = {position[:-1]: position for position in left.positions}
    shared = [
        min(position, offsets[position[:-1]])
        for position in right.positions
        if position[:-1] in offsets
    ]
    return Token(left.kind, tuple(sorted(shared)))


def newest_sql(cursor: Cursor, source: str, lower: Token | None) -> str:
    """The query of the newest positions beyond a token; no row when nothing is new."""
    where = f"where {beyond_sql(cursor, lower)}"
    match cursor:
        case OffsetCursor():
            key = ", ".join(quote_identifier(name) for name in cursor.partition)
            highest = f"max({quote_identifier(cursor.offset)})"
            return f"select {key}, {highest} from {source} {where} group by {key}"
        case TimestampCursor():
            settled = (
                f"{quote_identifier(cursor.column)}"
                f" <= now64(6, 'UTC') - toIntervalSecond({cursor.safety_lag_seconds})"
            )
            order = ", ".join(f"{quote_identifier(name)} desc" for name in cursor.columns)
            return (
                f"select {_position_sql(cursor)} from {source} {where} and {settled}"
                f" order by {order} limit 1"
            )
        case VersionCursor():
            time = _microseconds(cursor.column)
            return f"select max({time}) from {source} {where} having count() > 0"


def cut_sql(
    cursor: OffsetCursor | TimestampCursor, source: str, where: str, rows: int, limit: int
) -> str:
    """The query of the positions that end a batch of about `limit` of a range's `rows` rows."""
    if isinstance(cursor, TimestampCursor):
        order = ", ".join(quote_identifier(name) for name in cursor.columns)
        return (
            f"select {_position_sql(cursor)} from {source} where {where}"
            f" order by {order} limit 1 offset {limit - 1}"
        )
    key = ", ".join(quote_identifier(name) for name in cursor.partition)
    offset = quote_identifier(cursor.offset)
    share = -(-rows // limit)
    return (
        f"select {key}, min({offset}) + intDiv(max({offset}) - min({offset}), {share})"
        f" from {source} where {where} group by {key}"
    )


def compare_sql(cursor: Cursor, position: Position, operator: str) -> str:
    """The predicate that compares a row's own position with one of a token."""
    match cursor:
        case OffsetCursor():
            offset = quote_identifier(cursor.offset)
            return f"({_key_sql(cursor, position)} and {offset} {operator} {position[-1]})"
        case TimestampCursor():
            columns = ", ".join(quote_identifier(name) for name in cursor.columns)
            ties = "".join(f", {_literal(value)}" for value in position[1:])
            return f"(tuple({columns}) {operator} tuple({_time_literal(position[0])}{ties}))"
        case VersionCursor():
            return f"({quote_identifier(cursor.column)} {operator} {_time_literal(position[0])})"


def beyond_sql(cursor: Cursor, lower: Token | None) -> str:
    """The predicate of the rows after a token; of all rows when there is no token."""
    if lower is None or not lower.positions:
        return "1"
    after = " or ".join(compare_sql(cursor, position, ">") for position in lower.positions)
    if isinstance(cursor, OffsetCursor):
        known = " or ".join(f"({_key_sql(cursor, position)})" for position in lower.positions)
        return f"({after} or not ({known}))"
    return after


def up_to_sql(cursor: Cursor, upper: Token) -> str:
    """The predicate of the rows up to and including a token."""
    parts = [compare_sql(cursor, position, "<=") for position in upper.positions]
    return f"({' or '.join(parts) or '0'})"


def range_sql(cursor: Cursor, lower: Token | None, upper: Token) -> str:
    """The predicate of the half-open range (lower, upper]."""
    return f"{beyond_sql(cursor, lower)} and {up_to_sql(cursor, upper)}"


def _is_position(position: Position, cursor: Cursor) -> bool:
    """Whether a position has a value for each column, and a number where SQL gets a number."""
    if len(position) != len(cursor.columns):
        return False
    number = position[-1] if isinstance(cursor, OffsetCursor) else position[0]
    return type(number) is int and all(type(part) in (str, int) for part in position)


def _key_sql(cursor: OffsetCursor, position: Position) -> str:
    return " and ".join(
        f"{quote_identifier(name)} = {_literal(value)}"
        for name, value in zip(cursor.partition, position, strict=False)
    )


def _position_sql(cursor: TimestampCursor) -> str:
    ties = "".join(f", {quote_identifier(name)}" for name in cursor.tie_breakers)
    return f"{_microseconds(cursor.column)}{ties}"


def _microseconds(column: str) -> str:
    return f"toUnixTimestamp64Micro(toDateTime64({quote_identifier(column)}, 6, 'UTC'))"


def _time_literal(microseconds: str | int) -> str:
    return f"fromUnixTimestamp64Micro({int(microseconds)}, 'UTC')"


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else quote_string(value)
