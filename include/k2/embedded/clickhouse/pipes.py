"""Data into and out of a running query, through pipes: memory stays bounded.

The engine opens `/dev/fd/N` as a file, so a query that reads or writes one says in its own text
which pipe it works on; by that it is found when it has to be cancelled.
"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from k2.embedded.clickhouse.bodies import PIECE, Body
from k2.embedded.clickhouse.exceptions import from_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        result = checked(self._work.result)
        self.statistics = Statistics(
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            result_rows=result.rows_read(),
            result_bytes=size,
            seconds=result.elapsed(),
        )


def feed(workers: Workers, run: Callable[[str], Any], data: Body) -> Any:
    """Run a query that reads a path, and write `data` there piece by piece; the query's result.

    Rows go this way because chdb's own piecewise insert says nothing of an error in a view or a
    constraint. Raises QueryError where the query fails.
    """
    read_end, write_end = _pipe()
    path = f"/dev/fd/{read_end}"
    work = workers.submit(lambda: run(path))
    # An engine that gives up early leaves a broken pipe, which ends the writing.
    work.add_done_callback(lambda _: os.close(read_end))
    try:
        with suppress(BrokenPipeError):
            while piece := data.read():
                _write(write_end, piece)
    except BaseException:
        # The end of the pipe would be the end of the data: no, the query ends first.
        while not (work.done() or workers.cancel(path)):
            wait([work], _CANCEL_SECONDS)
        raise
    finally:
        os.close(write_end)
        wait([work])
    return checked(work.result)


def checked(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the engine; its errors are QueryErrors."""
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        raise from_engine(error) from None


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    if _F_SETPIPE_SZ is not None:
        fcntl.fcntl(write_end, _F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


def _write(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]
