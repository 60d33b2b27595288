"""What the HTTP interface in front of the embedded engine costs: against the engine in process.

The same statements on the same data: over HTTP, from a server as the stack has it, and in process,
from one that loads the engine itself. One after the other, as only one process can have the data.
"""

from __future__ import annotations

import http.client
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

from k2.bench.children import child
from k2.bench.page import table, where, write_document, write_section
from k2.embedded import clickhouse
from k2.embedded.state import HOST, USER, free_port
from k2.errors import K2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

IN_PROCESS: Final = "in process"
OVER_HTTP: Final = "over HTTP"
SMALL: Final = "select one row by its key"
INSERT: Final = "insert, Native"
FORMATS: Final = ("Native", "ArrowStream")
JSON_NAME: Final = "server.json"
COLUMNS: Final = (
    "statement",
    "rows",
    "MB",
    "in process ms",
    "lowest",
    "highest",
    "over HTTP ms",
    "lowest",
    "highest",
    "ratio",
)
_SMALL_QUERIES: Final = 200
_PIECE: Final = 1 << 20
_COLUMNS: Final = """
    id UInt64,
    timestamp DateTime64(3, 'UTC'),
    symbol LowCardinality(String),
    side LowCardinality(String),
    price Decimal(18, 8),
    quantity Decimal(18, 8)
"""
_FILL: Final = """
    insert into trades
    select
        number,
        fromUnixTimestamp64Milli(toInt64(1767225600000 + number * 10), 'UTC'),
        concat('M', toString(cityHash64(number) % 20), 'USDT'),
        if(cityHash64(number) % 2 = 0, 'buy', 'sell'),
        toDecimal64(100 + cityHash64(number) % 1000 / 100, 8),
        toDecimal64(1 + cityHash64(number, 1) % 500 / 100, 8)
    from numbers({rows})
"""


class ServerError(K2Error):
    """The engine refused a statement of the measurement, or its process ended."""


@dataclass(frozen=True)
class Measured:
    """One statement on one way: rows and bytes that it moved, and wall seconds."""

    statement: str
    way: str
    rows: int
    size: int
    seconds: float


class _Way(Protocol):
    """How a statement reaches the engine; both give the bytes that went over."""

    def query(self, sql: str, format_name: str) -> int: ...
    def insert(self, name: str, file: Path) -> int: ...


def measure(
    directory: Path, *, rows: int, repeat: int, say: Callable[[str], None]
) -> Iterator[Measured]:
    """Measure every statement on both ways, `repeat` times in turn, on a table of so many rows.

    Args:
        directory: an empty folder, for the engine's data.

    Raises:
        StackError: the server does not start.
        ServerError: a statement failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "trades.native"
    with _server(directory) as way:
        for name in ("trades", "copies"):
            way.run(f"create table {name} ({_COLUMNS}) engine = MergeTree order by id")
        say(f"{rows:,} rows are made ...")
        way.run(_FILL.format(rows=rows))
        with file.open("wb") as saved:
            way.answer("select * from trades format Native", saved.write)
    for number in range(1, repeat + 1):
        say(f"round {number} of {repeat}, {rows:,} rows")
        with _server(directory) as way:
            yield from _measure(way, OVER_HTTP, rows, file)
        with child(_measure_in_process, directory, rows, file) as process:
            try:
                yield from process.reports.recv()
            except EOFError as error:
                raise ServerError("the engine in process failed; see above") from error


def summary(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of COLUMNS for each statement: medians of its runs."""
    return [
        _figures([one for one in measured if one.statement == statement])
        for statement in dict.fromkeys(one.statement for one in measured)
    ]


def write_report(output: Path, measured: Sequence[Measured], measurement: dict[str, Any]) -> None:
    """Write the runs as JSON into a directory, and the section of the page beside it."""
    document = {**measurement, "runs": [asdict(one) for one in measured]}
    write_document(output / JSON_NAME, document)
    write_section(output, "k2 bench server", _section(document, measured))


def _measure(way: _Way, name: str, rows: int, file: Path) -> list[Measured]:
    """Every statement once; the small one many times, of which the median counts."""
    one_row = f"select * from trades where id = {rows // 2}"
    times, size = [], way.query(one_row, "Native")
    for _ in range(_SMALL_QUERIES):
        began = time.perf_counter()
        way.query(one_row, "Native")
        times.append(time.perf_counter() - began)
    measured = [Measured(SMALL, name, 1, size, median(times))]
    for format_name in FORMATS:
        began = time.perf_counter()
        size = way.query("select * from trades", format_name)
        seconds = time.perf_counter() - began
        measured.append(Measured(f"select, {format_name}", name, rows, size, seconds))
    began = time.perf_counter()
    size = way.insert("copies", file)
    measured.append(Measured(INSERT, name, rows, size, time.perf_counter() - began))
    way.query("truncate table copies", "Native")
    return measured


class _Http:
    """Over HTTP, on one connection, without compression."""

    def __init__(self, port: int, password: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, blocksize=_PIECE)
        self._login = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": password}

    def query(self, sql: str, format_name: str) -> int:
        return self.answer(sql, lambda _piece: None, default_format=format_name)

    def insert(self, name: str, file: Path) -> int:
        size = file.stat().st_size
        with file.open("rb") as rows:
            self._request({"query": f"insert into {name} format Native"}, rows, size)
        return size

    def run(self, sql: str) -> None:
        """Run a statement without a result."""
        self.answer(sql, lambda _piece: None)

    def answer(self, sql: str, take: Callable[[bytes], object], **parameters: str) -> int:
        """Run a statement, give away its answer piece by piece; the bytes of it."""
        return self._request(parameters, sql.encode(), len(sql.encode()), take)

    def _request(
        self,
        parameters: dict[str, str],
        body: Any,
        size: int,
        take: Callable[[bytes], object] = lambda _piece: None,
    ) -> int:
        headers = {**self._login, "Content-Length": str(size)}
        self._connection.request("POST", f"/?{urlencode(parameters)}", body, headers)
        response, received = self._connection.getresponse(), 0
        if response.status != http.client.OK:
            raise ServerError(response.read().decode().splitlines()[0])
        while piece := response.read(_PIECE):
            take(piece)
            received += len(piece)
        return received


class _InProcess:
    """The engine itself, the result as bytes."""

    def __init__(self, directory: Path) -> None:
        from chdb import _chdb

        engine: Any = _chdb
        self._connection = engine.connect(f"{_data(directory)}?implicit_select=0")

    def query(self, sql: str, format_name: str) -> int:
        return len(bytes(self._connection.query(sql, format_name).bytes()))

    def insert(self, name: str, file: Path) -> int:
        self._connection.query(f"insert into {name} from infile '{file}' format Native", "Native")
        return file.stat().st_size

    def close(self) -> None:
        """Give the data back."""
        self._connection.close()


def _measure_in_process(directory: Path, rows: int, file: Path, reports: Connection) -> None:
    way = _InProcess(directory)
    reports.send(_measure(way, IN_PROCESS, rows, file))
    way.close()


@contextmanager
def _server(directory: Path) -> Iterator[_Http]:
    """The server on the data, for the duration of the block."""
    port, password, log = free_port(), secrets.token_urlsafe(24), directory / "clickhouse.log"
    process = clickhouse.start(_data(directory), log, port, USER, password)
    try:
        clickhouse.wait_until_ready(process, port, log)
        yield _Http(port, password)
    finally:
        process.terminate()
        process.wait()


def _data(directory: Path) -> Path:
    return directory / "clickhouse"


def _figures(runs: Sequence[Measured]) -> list[Any]:
    milliseconds = {
        way: [one.seconds * 1000 for one in runs if one.way == way]
        for way in (IN_PROCESS, OVER_HTTP)
    }
    figures = [
        round(choose(milliseconds[way]), 2)
        for way in (IN_PROCESS, OVER_HTTP)
        for choose in (median, min, max)
    ]
    ratio = median(milliseconds[OVER_HTTP]) / median(milliseconds[IN_PROCESS])
    size = round(runs[0].size / 1e6, 1)
    return [runs[0].statement, runs[0].rows, size, *figures, f"{ratio:.2f}"]


def _section(document: dict[str, Any], measured: Sequence[Measured]) -> Iterator[str]:
    yield "## Embedded server"
    yield ""
    yield "The same statements over the HTTP interface of the embedded ClickHouse, without"
    yield "compression, and to its engine in process, in turn, repeated; medians. A result is read"
    yield "to its end: over HTTP in pieces, in process as one piece of memory."
    yield ""
    yield where(document)
    yield ""
    yield from table(COLUMNS, summary(measured))
