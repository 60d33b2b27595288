"""Answers on their way to the client: headers, chunks, errors before and amid a result."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.embedded.clickhouse import compression
from k2.embedded.clickhouse.exceptions import REQUIRED_PASSWORD, QueryError

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from k2.embedded.clickhouse.pipes import Statistics

_CONTENT_TYPES: Final = {
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8",
    "csvwithnames": "text/csv; charset=UTF-8",
    "native": "application/octet-stream",
    "rowbinary": "application/octet-stream",
    "arrow": "application/octet-stream",
    "arrowstream": "application/octet-stream",
    "parquet": "application/octet-stream",
}


def _summary(statistics: Statistics) -> str:
    return json.dumps(
        {
            "read_rows": str(statistics.read_rows),
            "read_bytes": str(statistics.read_bytes),
            "written_rows": str(statistics.written_rows),
            "written_bytes": str(statistics.written_bytes),
            "total_rows_to_read": "0",
            "result_rows": str(statistics.result_rows),
            "result_bytes": str(statistics.result_bytes),
            "elapsed_ns": str(round(statistics.seconds * 1e9)),
        }
    )


@dataclass
class Response:
    """One answer to one request, in chunks and, if asked for, compressed."""

    handler: BaseHTTPRequestHandler
    query_id: str
    encoding: str | None = None
    _compressor: compression.Compressor | None = None
    _begun: bool = False
    _tag: str = ""

    def begin(self, statistics: Statistics | None, format_name: str | None) -> None:
        self._begun = True
        handler = self.handler
        handler.send_response(200)
        kind = _CONTENT_TYPES.get((format_name or "").lower(), "text/plain; charset=UTF-8")
        handler.send_header("Content-Type", kind)
        if format_name is not None:
            handler.send_header("X-ClickHouse-Format", format_name)
        if statistics is not None:
            handler.send_header("X-ClickHouse-Summary", _summary(statistics))
        else:
            self._tag = secrets.token_hex(8)
            handler.send_header("X-ClickHouse-Exception-Tag", self._tag)
        if self.encoding is not None and format_name is not None:
            self._compressor = compression.compressor(self.encoding)
            handler.send_header("Content-Encoding", self.encoding)
        handler.send_header("Transfer-Encoding", "chunked")
        self._common_headers()

    def write(self, piece: bytes) -> None:
        if self._compressor is not None:
            piece = self._compressor.compress(piece)
        self._chunk(piece)

    def end(self) -> None:
        """The answer is whole."""
        if self._compressor is not None:
            self._chunk(self._compressor.flush())
        if self.handler.command != "HEAD":
            self.handler.wfile.write(b"0\r\n\r\n")

    def fail(self, error: QueryError) -> None:
        """The query failed: with a status while that is possible, else in the body, marked with
        the tag of the headers, and the connection is cut."""
        if not self._begun:
            self._error_response(error)
            return
        text = f"{error}\n".encode(errors="replace")
        mark, tag = b"\r\n__exception__\r\n", self._tag.encode()
        self.write(mark + tag + b"\r\n" + text + f"{len(text)} {self._tag}".encode() + mark)
        self.end()
        self.handler.close_connection = True

    def _error_response(self, error: QueryError) -> None:
        handler = self.handler
        body = f"{error}\n".encode(errors="replace")
        handler.send_response(error.status)
        handler.send_header("Content-Type", "text/plain; charset=UTF-8")
        handler.send_header("X-ClickHouse-Exception-Code", str(error.code))
        handler.send_header("Content-Length", str(len(body)))
        if error.code == REQUIRED_PASSWORD:
            handler.send_header("WWW-Authenticate", 'Basic realm="ClickHouse server HTTP API"')
        self._common_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def _common_headers(self) -> None:
        headers = self.handler
        headers.send_header("X-ClickHouse-Server-Display-Name", socket.gethostname())
        headers.send_header("X-ClickHouse-Query-Id", self.query_id)
        headers.send_header("X-ClickHouse-Timezone", "UTC")
        headers.end_headers()

    def _chunk(self, piece: bytes) -> None:
        if piece and self.handler.command != "HEAD":
            self.handler.wfile.write(b"%x\r\n" % len(piece))
            self.handler.wfile.write(piece)
            self.handler.wfile.write(b"\r\n")
