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
    from collections.abc import Iterator
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
    """A TCP proxy on a port of its own; once it is cut, nothing comes through any more."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for end in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._open += [near, far]
                if self._is_cut:
                    near.close()
                    far.close()
                    return
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """The server is down for the duration of the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()
