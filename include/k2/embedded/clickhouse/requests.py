"""From an HTTP request to a query: https://clickhouse.com/docs/interfaces/http."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import parse_qsl, urlsplit

from python_multipart import multipart
from python_multipart.exceptions import FormParserError

from k2.embedded.clickhouse.bodies import (
    Body,
    BodyFile,
    ChunkedBody,
    DecodedBody,
    SizedBody,
)
from k2.embedded.clickhouse.exceptions import (
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    query_error,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

# URL parameters that steer the interface; all others are settings of the query.
_INTERFACE_PARAMETERS: Final = frozenset(
    {
        "buffer_size",
        "cancel_http_readonly_queries_on_client_close",
        "client_protocol_version",
        "close_session",
        "compress",
        "database",
        "decompress",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "http_zlib_compression_level",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "stacktrace",
        "user",
        "wait_end_of_query",
    }
)
_EXTERNAL_PARTS: Final = ("format", "structure", "types")
_FALSE: Final = frozenset({"", "0", "false"})


@dataclass(frozen=True)
class Credentials:
    """Who asks; an empty user where nobody says."""

    user: str
    password: str


@dataclass(frozen=True)
class ExternalTable:
    """A table sent along with a query, `columns` as in CREATE TABLE."""

    name: str
    columns: str
    format: str
    data: bytes


@dataclass(frozen=True)
class SessionChoice:
    """The session a request belongs to; `timeout` in seconds."""

    id: str
    timeout: float
    must_exist: bool
    close_after: bool


@dataclass(frozen=True)
class QueryRequest:
    """One request, read up to its body.

    The query is `url_query`, a line break, and `body`, as ClickHouse joins them.
    """

    url_query: bytes
    body: Body
    method: str
    query_id: str
    database: str | None
    default_format: str | None
    session: SessionChoice | None
    accept_encoding: str
    wait_end_of_query: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    external_tables: tuple[ExternalTable, ...] = ()


def credentials(headers: Message, parameters: Mapping[str, str]) -> Credentials:
    """The first of: X-ClickHouse-User and -Key, basic authentication, user and password in
    the URL. Raises QueryError for an Authorization header that cannot be read."""
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        return Credentials(
            headers.get("X-ClickHouse-User", ""), headers.get("X-ClickHouse-Key", "")
        )
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise query_error(BAD_ARGUMENTS, "The Authorization header cannot be read.") from None
        return Credentials(user, password)
    return Credentials(parameters.get("user", ""), parameters.get("password", ""))


def url_parameters(target: str) -> dict[str, str]:
    """The parameters behind the question mark of a request's target; the last of a name wins."""
    return dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))


def open_body(headers: Message, source: BinaryIO) -> Body:
    """The undecoded body of a request. Raises QueryError for a bad Content-Length."""
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return ChunkedBody(source)
    length = headers.get("Content-Length", "0")
    if not length.isdigit():
        raise query_error(BAD_ARGUMENTS, f"Content-Length {length!r} is not a number.")
    return SizedBody(source, int(length))


def read_request(
    method: str, headers: Message, parameters: dict[str, str], body: Body, query_id: str
) -> QueryRequest:
    """The query a request asks for. `parameters` are those of the URL, `body` is undecoded.

    Raises QueryError for what cannot be read.
    """
    for name in ("compress", "decompress"):
        if parameters.get(name, "0") not in _FALSE:
            raise query_error(
                NOT_IMPLEMENTED,
                f"{name}=1 (ClickHouse's own block compression) is not served here: "
                "use Accept-Encoding and Content-Encoding.",
            )
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        body = DecodedBody(body, encoding)
    external: tuple[ExternalTable, ...] = ()
    if headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        fields, files = _read_form(headers, body)
        parameters = parameters | fields
        external = tuple(_external_table(name, data, parameters) for name, data in files.items())
        body = SizedBody(cast("BinaryIO", None), 0)
    described = {f"{table.name}_{part}" for table in external for part in _EXTERNAL_PARTS}
    others = {
        name: value
        for name, value in parameters.items()
        if name not in _INTERFACE_PARAMETERS and name not in described
    }
    compressed = parameters.get("enable_http_compression", "0") not in _FALSE
    return QueryRequest(
        url_query=parameters.get("query", "").encode(errors="surrogateescape"),
        body=body,
        method=method,
        query_id=parameters.get("query_id") or query_id,
        database=parameters.get("database") or headers.get("X-ClickHouse-Database", "") or None,
        default_format=parameters.get("default_format")
        or headers.get("X-ClickHouse-Format", "")
        or None,
        session=_session(parameters),
        accept_encoding=headers.get("Accept-Encoding", "") if compressed else "",
        wait_end_of_query=parameters.get("wait_end_of_query", "0") not in _FALSE,
        settings={n: v for n, v in others.items() if not n.startswith("param_")},
        parameters={
            n.removeprefix("param_"): v for n, v in others.items() if n.startswith("param_")
        },
        external_tables=external,
    )


def _session(parameters: Mapping[str, str]) -> SessionChoice | None:
    if not parameters.get("session_id"):
        return None
    timeout = parameters.get("session_timeout") or "60"
    if not timeout.isdigit():
        raise query_error(BAD_ARGUMENTS, f"session_timeout {timeout!r} is not a number.")
    return SessionChoice(
        parameters["session_id"],
        float(timeout),
        parameters.get("session_check", "0") not in _FALSE,
        parameters.get("close_session", "0") not in _FALSE,
    )


def _read_form(headers: Message, body: Body) -> tuple[dict[str, str], dict[str, bytearray]]:
    fields: dict[str, str] = {}
    files: dict[str, bytearray] = {}

    def on_field(part: Any) -> None:
        name = (part.field_name or b"").decode()
        fields[name] = (part.value or b"").decode(errors="surrogateescape")

    def on_file(part: Any) -> None:
        part.file_object.seek(0)
        files[(part.field_name or b"").decode()] = bytearray(part.file_object.read())

    form_headers = {"Content-Type": headers["Content-Type"].encode()}
    try:
        multipart.parse_form(form_headers, cast("Any", BodyFile(body)), on_field, on_file)
    except FormParserError as error:
        raise query_error(BAD_ARGUMENTS, f"The form cannot be read: {error}.") from None
    return fields, files


def _external_table(name: str, data: bytearray, parameters: Mapping[str, str]) -> ExternalTable:
    columns = parameters.get(f"{name}_structure", "")
    if not columns and (types := parameters.get(f"{name}_types")):
        columns = ", ".join(f"_{n} {kind}" for n, kind in enumerate(types.split(","), start=1))
    if not columns:
        raise query_error(
            BAD_ARGUMENTS, f"External table {name!r} needs {name}_structure or {name}_types."
        )
    return ExternalTable(
        name, columns, parameters.get(f"{name}_format", "TabSeparated"), bytes(data)
    )
