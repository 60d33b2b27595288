"""The engine: handles on chdb, each with its own settings, database and temporary tables.

chdb runs one ClickHouse per process and data directory. SET and USE stay on a handle, so a handle
serves one request or one session. It releases the interpreter lock while it works.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from k2.embedded.clickhouse.bodies import PIECE, Body
from k2.embedded.clickhouse.exceptions import ABORTED, from_engine, query_error
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from k2.embedded.clickhouse.statements import InsertHead, Statement

_PIPE_BYTES: Final = 1 << 20
_CANCEL_SECONDS: Final = 0.1
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", None)


@dataclass(frozen=True)
class Statistics:
    """What a query did, in rows, bytes and seconds."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    seconds: float = 0.0


class Workers(Protocol):
    """What a running query needs of the engine."""

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Run in a thread of the engine's."""

    def cancel(self, path: str, /) -> bool:
        """Cancel the query that reads or writes this path; whether it ran."""


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


class Result:
    """The result of a running query, in pieces as the engine makes them.

    The engine writes to a pipe, as one stream in the query's format: memory stays bounded, and
    formats with a header or a footer come out whole. Iterate, then read `statistics`; leaving the
    `with` early cancels the query.
    """

    def __init__(self, workers: Workers, run: Callable[[str], Any]) -> None:
        self._read_end, write_end = _pipe()
        self._path = f"/dev/fd/{write_end}"

        def work() -> Any:
            try:
                return run(self._path)
            finally:
                os.close(write_end)

        self.statistics = Statistics()
        self._abandoned = True
        self._workers = workers
        self._work = workers.submit(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read_end)
        # A broken pipe does not stop the engine, and a query may not be listed yet: ask again.
        while self._abandoned and not self._work.done():
            self._workers.cancel(self._path)
            wait([self._work], _CANCEL_SECONDS)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces. Raises QueryError at the end where the query failed."""
        size = 0
        while piece := os.read(self._read_end, PIECE):
            size += len(piece)
            yield piece
        self._abandoned = False
        result = _checked(self._work.result)
        self.statistics = Statistics(
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            result_rows=result.rows_read(),
            result_bytes=size,
            seconds=result.elapsed(),
        )


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    if _F_SETPIPE_SZ is not None:
        fcntl.fcntl(write_end, _F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


def _write(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


def _checked(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        raise from_engine(error) from None


class Handle:
    """One handle: not for two threads at once."""

    def __init__(self, connection: Any, workers: Workers) -> None:
        self._connection = connection
        self._workers = workers

    def apply(self, settings: Mapping[str, str], database: str | None) -> None:
        """Let settings and the database hold for what comes next on this handle."""
        if database is not None:
            self.run(f"USE {_quote_name(database)}")
        if settings:
            pairs = (f"{_quote_name(name)} = {_quote(value)}" for name, value in settings.items())
            self.run("SET " + ", ".join(pairs))

    def reset(self, settings: Mapping[str, str | None]) -> None:
        """Give settings back the values they had; None is the default."""
        for name, value in settings.items():
            self.run(f"SET {_quote_name(name)} = {'DEFAULT' if value is None else _quote(value)}")

    def changed_settings(self) -> dict[str, str]:
        """The settings that are not at their default."""
        lines = self.run(
            "SELECT name, hex(value) FROM system.settings WHERE changed", "TabSeparated"
        ).decode()
        pairs = (line.split("\t") for line in lines.splitlines())
        return {name: bytes.fromhex(value).decode() for name, value in pairs}

    def run(self, sql: str, format_name: str = "TabSeparated") -> bytes:
        """Run a statement whose result is small. Raises QueryError."""
        return bytes(_checked(self._connection.query, sql, format_name).bytes())

    def execute(
        self, sql: str, format_name: str, parameters: Mapping[str, str]
    ) -> tuple[bytes, Statistics]:
        """Run a statement that changes something: what it answers, and what it did."""
        result = _checked(self._connection.query, sql, format_name, params=dict(parameters))
        return bytes(result.bytes()), Statistics(
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
            seconds=result.elapsed(),
        )

    def stream(
        self, statement: Statement, format_name: str, parameters: Mapping[str, str]
    ) -> Result:
        """Start a query; its result comes in pieces."""
        return Result(
            self._workers,
            lambda path: self._connection.query(
                statement.into(path, format_name), "TabSeparated", params=dict(parameters)
            ),
        )

    def insert(
        self, head: InsertHead, format_name: str, data: Body, parameters: Mapping[str, str]
    ) -> Statistics:
        """Insert the rows of `data` piece by piece. Raises QueryError; rows of blocks that were
        complete before the error stay, as in ClickHouse.

        The rows go through a pipe, as chdb's own piecewise insert says nothing of an error in a
        view or a constraint.
        """
        self.apply({f"param_{name}": value for name, value in parameters.items()}, None)
        read_end, write_end = _pipe()
        path = f"/dev/fd/{read_end}"
        statement = head.from_file(path, format_name)
        work = self._workers.submit(lambda: self._connection.query(statement, "TabSeparated"))
        # An engine that gives up early leaves a broken pipe, which ends the writing.
        work.add_done_callback(lambda _: os.close(read_end))
        try:
            with suppress(BrokenPipeError):
                while piece := data.read():
                    _write(write_end, piece)
        except BaseException:
            # The end of the pipe would be the end of the data: no, the query ends first.
            while not (work.done() or self._workers.cancel(path)):
                wait([work], _CANCEL_SECONDS)
            raise
        finally:
            os.close(write_end)
            wait([work])
        result = _checked(work.result)
        return Statistics(
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
            seconds=result.elapsed(),
        )

    def close(self) -> None:
        """Give the handle back."""
        self._connection.close()


class Engine:
    """The one engine of this process, on one data directory.

    At most `max_queries` run at a time, more wait. Raises StackError where another process holds
    the directory or the engine cannot load it.
    """

    def __init__(self, data: Path, max_queries: int = 32) -> None:
        self._lock = _lock(data)
        # The server's time zone is that of the process, read when the library is loaded.
        os.environ["TZ"] = "UTC"
        time.tzset()
        from chdb import _chdb

        engine: Any = _chdb
        self._connect: Callable[[], Any] = lambda: engine.connect(f"{data}?implicit_select=0")
        try:
            self._root = self._connect()
        except RuntimeError as error:
            raise StackError(f"ClickHouse cannot open {data}: {error}") from None
        self._threads = ThreadPoolExecutor(max_queries, thread_name_prefix="query")
        self._slots = threading.BoundedSemaphore(max_queries)
        self._idle = threading.Condition()
        self._running = 0
        self._closing = False

    def open_handle(self) -> Handle:
        """A fresh handle, at the defaults."""
        return Handle(_checked(self._connect), self)

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Run in a thread of the engine's."""
        return self._threads.submit(work)

    def cancel(self, path: str, /) -> bool:
        """Cancel the query that reads or writes this path; whether it ran."""
        return self._kill(f"position(query, concat('FILE ', {_quote(_quote(path))})) > 0")

    def _kill(self, condition: str) -> bool:
        handle = self.open_handle()
        try:
            killed = handle.run(
                f"KILL QUERY WHERE {condition} AND query NOT ILIKE 'KILL QUERY%' ASYNC"
            )
            return killed != b""
        finally:
            handle.close()

    def __enter__(self) -> Self:
        """Around each query: waits for a slot. Raises QueryError once the engine closes."""
        self._slots.acquire()
        with self._idle:
            if self._closing:
                self._slots.release()
                raise query_error(ABORTED, "The server is shutting down.")
            self._running += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._idle:
            self._running -= 1
            self._idle.notify_all()
        self._slots.release()

    def close(self, grace: float) -> None:
        """Let running queries end for `grace` seconds, cancel the rest, close the engine."""
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: self._running == 0, grace)
            if self._running:
                self._kill("1")
                self._idle.wait_for(lambda: self._running == 0, grace)
        self._root.close()
        self._lock.close()


def _lock(data: Path) -> Any:
    data.mkdir(parents=True, exist_ok=True)
    lock = (data / "server.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StackError(
            f"Another ClickHouse server works on {data}: stop it first, "
            "or choose another directory."
        ) from None
    return lock
