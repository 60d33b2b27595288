"""Starting the server as a process of its own, and waiting until it answers."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from k2.embedded.clickhouse.settings import HOST, PASSWORD_VARIABLE
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def start(
    data: Path,
    log: Path,
    port: int,
    user: str,
    password: str,
    *,
    configuration: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.Popen[bytes]:
    """Start a server on `data`, listening on 127.0.0.1:`port`; what it prints is added to `log`.

    It runs in a process group of its own, so that an interrupt of the caller does not reach it:
    stop it with SIGTERM. Use `wait_until_ready` next.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "k2.embedded.clickhouse"]
    command += ["--data", str(data), "--port", str(port), "--user", user]
    if configuration is not None:
        command += ["--configuration", str(configuration)]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**environment, PASSWORD_VARIABLE: password},
            start_new_session=True,
        )


def wait_until_ready(
    process: subprocess.Popen[bytes],
    port: int,
    log: Path,
    timeout: float = 60.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the server answers.

    Raises StackError with the server's own last line where it ended, or did not answer within
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not _answers(port):
        if process.poll() is not None:
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            reason = lines[-1] if lines else f"exit status {process.returncode}"
            raise StackError(f"ClickHouse did not start: {reason}")
        if time.monotonic() > deadline:
            raise StackError(f"ClickHouse did not answer within {timeout:.0f} s: see {log}.")
        sleep(0.05)
    if process.poll() is not None:
        raise StackError(f"Port {port} is in use by another server: choose another.")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5.0)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().read() == b"Ok.\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
