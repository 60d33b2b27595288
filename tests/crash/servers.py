"""Servers that a case may kill, stop and start again, and a network that it may cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from k2.embedded import clickhouse, postgres

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k2.settings import ClickHouse, Postgres


@dataclass
class ClickHouseServer:
    """A ClickHouse on a directory and a port of its own, which stay the same over its deaths."""

    directory: Path
    settings: ClickHouse
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        log, port = self.directory / "log", self.settings.port
        user, password = self.settings.user, self.settings.password
        self.process = clickhouse.start(self.directory / "data", log, port, user, password)
        clickhouse.wait_until_ready(self.process, port, log)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def restore(self) -> None:
        """It answers again, whatever a case that failed has left."""
        if self.process is None:
            self.start()
        self.go_on()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=60)
            self.process = None


@dataclass
class PostgresServer:
    """A PostgreSQL on a directory and a port of its own."""

    directory: Path
    settings: Postgres

    def start(self) -> None:
        log, port = self.directory / "log", self.settings.port
        postgres.start(self.directory / "data", log, port, self.settings.password)

    def stop(self) -> None:
        postgres.stop(self.directory / "data")


class Network:
    """A TCP proxy on a port of its own; once it is cut, nothing comes through any more.

    With `holds_after`, it stops in the middle: when so many bytes of answers have come through,
    the next ones wait until the network goes on or is cut.
    """

    def __init__(self, target: int, *, holds_after: int | None = None) -> None:
        self._target = target
        self._allowance = holds_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False
        self._held, self._free = threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def holds(self) -> bool:
        """Whether an answer is stuck half-way."""
        return self._held.is_set() and not self._free.is_set()

    def go_on(self) -> None:
        self._free.set()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for end in (self._listener, *self._open):
                _close(end)
        self.go_on()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open += [near, far]
                if self._is_cut:
                    _close(near)
                    _close(far)
                    return
            threading.Thread(target=self._answer, args=(far, near), daemon=True).start()
            threading.Thread(target=_pass_on, args=(near, far), daemon=True).start()

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        _pass_on(server, client, before=self._wait_while_held)

    def _wait_while_held(self, size: int) -> None:
        if self._allowance is None:
            return
        with self._lock:
            self._allowance -= size
            exhausted = self._allowance < 0
        if exhausted:
            self._held.set()
            self._free.wait()


def _pass_on(
    source: socket.socket, target: socket.socket, before: Callable[[int], None] = lambda _: None
) -> None:
    """Until one end is closed; then the other one learns of it."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            before(len(piece))
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """The server is down for the duration of the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()
