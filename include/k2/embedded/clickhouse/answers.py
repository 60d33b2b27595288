"""Running a request: its statement on a handle, its answer to a sink."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Final, Protocol

from k2.embedded.clickhouse.bodies import PIECE, Body
from k2.embedded.clickhouse.exceptions import READONLY, query_error
from k2.embedded.clickhouse.statements import (
    InsertHead,
    Statement,
    first_word,
    insert_head,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.embedded.clickhouse.engine import Handle
    from k2.embedded.clickhouse.pipes import Statistics
    from k2.embedded.clickhouse.requests import ExternalTable, QueryRequest
    from k2.embedded.clickhouse.sessions import Sessions

_HEAD_BYTES: Final = 1 << 16


class Sink(Protocol):
    """Where an answer goes: first `begin`, then pieces."""

    def begin(self, statistics: Statistics | None, format_name: str | None) -> None:
        """The query is over and did this, or (None) it still runs; what it answers with."""

    def write(self, piece: bytes) -> None: ...


@dataclass
class _Joined:
    """Bytes that were read already, then the rest of the body."""

    first: bytes
    rest: Body

    def read(self, size: int = PIECE, /) -> bytes:
        first, self.first = self.first, b""
        return first or self.rest.read(size)


def answer(request: QueryRequest, sessions: Sessions, sink: Sink) -> None:
    """Run a request's query and give its answer to `sink`.

    Raises QueryError: before `begin`, where the error can still be the answer, or after it, in
    the middle of a result.
    """
    sql, head = _read_statement(request)
    keyword = first_word(sql)
    if request.method == "GET" and (head is not None or not parse(sql).is_read_only):
        raise query_error(
            READONLY,
            "Cannot execute query in readonly mode. For queries over HTTP, method GET implies "
            "readonly. You should use method POST for modifying queries.",
        )
    with sessions.handle(request, keyword) as handle:
        for table in request.external_tables:
            _create_external(handle, table)
        try:
            if head is None:
                _answer_statement(request, handle, parse(sql), sink)
            else:
                data = _Joined(sql[head.data_offset :], request.body)
                format_name = head.format or request.default_format or "Values"
                sink.begin(handle.insert(head, format_name, data, request.parameters), None)
        finally:
            for table in request.external_tables:
                handle.run(f"DROP TEMPORARY TABLE IF EXISTS `{table.name}`")


def _read_statement(request: QueryRequest) -> tuple[bytes, InsertHead | None]:
    """The statement, whole, or for an INSERT with data its beginning and where the data begins."""
    sql = request.url_query + b"\n" if request.url_query else b""
    wanted = len(sql) + _HEAD_BYTES
    while True:
        ended = False
        pieces = [sql]
        size = len(sql)
        while size < wanted and not ended:
            piece = request.body.read(_HEAD_BYTES)
            pieces.append(piece)
            size += len(piece)
            ended = not piece
        sql = b"".join(pieces)
        is_insert = first_word(sql) == "INSERT"
        head = insert_head(sql) if is_insert else None
        if ended or (head is not None and head.format and head.data_offset < len(sql)):
            return sql, head
        wanted = 2 * size


def _create_external(handle: Handle, table: ExternalTable) -> None:
    handle.run(f"CREATE TEMPORARY TABLE `{table.name}` ({table.columns})")
    head = InsertHead(f"INSERT INTO `{table.name}`", table.format, 0)
    handle.insert(head, table.format, BytesIO(table.data), {})


def _answer_statement(
    request: QueryRequest, handle: Handle, statement: Statement, sink: Sink
) -> None:
    format_name = statement.format or request.default_format or "TabSeparated"
    if not statement.has_result:
        body, statistics = handle.execute(statement.text, format_name, request.parameters)
        sink.begin(statistics, format_name if body else None)
        sink.write(body)
        return
    with handle.stream(statement, format_name, request.parameters) as result:
        with tempfile.SpooledTemporaryFile(max_size=64 * PIECE) as early:
            pieces = iter(result)
            ended = _collect(pieces, early, None if request.wait_end_of_query else PIECE)
            size = early.tell()
            sink.begin(result.statistics if ended else None, format_name)
            if ended and size == 0 and format_name.lower() == "native":
                sink.write(_empty_native_block(handle, statement, request))
            early.seek(0)
            while piece := early.read(PIECE):
                sink.write(piece)
        for piece in pieces:
            sink.write(piece)


def _collect(
    pieces: Iterator[bytes], early: tempfile.SpooledTemporaryFile[bytes], limit: int | None
) -> bool:
    """Hold back the beginning of a result; whether that was all of it."""
    for piece in pieces:
        early.write(piece)
        if limit is not None and early.tell() >= limit:
            return False
    return True


def _empty_native_block(handle: Handle, statement: Statement, request: QueryRequest) -> bytes:
    """A block of no rows with the columns' names and types, which chdb leaves out.

    https://clickhouse.com/docs/interfaces/formats/Native
    """
    if statement.is_query:
        # Described, it is only planned; run again, it would read what it has read.
        described = replace(statement, text=f"DESCRIBE TABLE ({statement.text}\n)", tail="")
        with handle.stream(described, "JSONCompactEachRow", request.parameters) as result:
            rows = [json.loads(line) for line in b"".join(result).splitlines()]
        columns = [(name, kind) for name, kind, *_ in rows]
    else:
        names_and_types = "JSONCompactEachRowWithNamesAndTypes"
        with handle.stream(statement, names_and_types, request.parameters) as result:
            names, types, *_ = (json.loads(line) for line in b"".join(result).splitlines())
        columns = list(zip(names, types, strict=True))
    texts = (_text(name) + _text(kind) for name, kind in columns)
    return _varint(len(columns)) + _varint(0) + b"".join(texts)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _varint(len(encoded)) + encoded
