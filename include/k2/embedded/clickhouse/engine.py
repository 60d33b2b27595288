"""The engine: handles on chdb, each with its own settings, database and temporary tables.

chdb runs one ClickHouse per process and data directory. SET and USE stay on a handle, so a handle
serves one request or one session. It releases the interpreter lock while it works.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from k2.embedded.clickhouse.exceptions import ABORTED, query_error
from k2.embedded.clickhouse.pipes import Result, Statistics, Workers, checked, feed
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from k2.embedded.clickhouse.bodies import Body
    from k2.embedded.clickhouse.statements import InsertHead, Statement


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


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
        return bytes(checked(self._connection.query, sql, format_name).bytes())

    def execute(
        self, sql: str, format_name: str, parameters: Mapping[str, str]
    ) -> tuple[bytes, Statistics]:
        """Run a statement that changes something: what it answers, and what it did."""
        result = checked(self._connection.query, sql, format_name, params=dict(parameters))
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
        """
        self.apply({f"param_{name}": value for name, value in parameters.items()}, None)
        result = feed(
            self._workers,
            lambda path: self._connection.query(head.from_file(path, format_name), "TabSeparated"),
            data,
        )
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

    def __init__(
        self, data: Path, configuration: Path | None = None, max_queries: int = 32
    ) -> None:
        self._lock = _lock(data)
        # The server's time zone is that of the process, read when the library is loaded.
        os.environ["TZ"] = "UTC"
        time.tzset()
        from chdb import _chdb

        engine: Any = _chdb
        # The folder that BACKUP may write to: File('NAME') is a folder in it.
        options = f"implicit_select=0&backups.allowed_path={data.resolve().with_name('backups')}"
        if configuration is not None:
            options += f"&config-file={configuration}"
        self._connect: Callable[[], Any] = lambda: engine.connect(f"{data}?{options}")
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
        return Handle(checked(self._connect), self)

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
