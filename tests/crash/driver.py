"""Drivers as they run in production: spark-submit, in a process group of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from k2.jobs import offload_command
from k2.registry import REGISTRY_DIRECTORY
from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from k2.registry import Table
    from k2.settings import Settings

_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class RunningDriver:
    """One driver, its log, and the directory in which it says that it waits."""

    process: subprocess.Popen[bytes]
    log: Path
    directory: Path

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def kill_spark(self) -> None:
        """Kill the JVM alone, which the scripts of spark-submit have become."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop every process of the group where it is."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause and the freeze."""
        (self.directory / "go").touch()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Return once it has happened; the driver must not end before it."""
        while not happened():
            assert self.process.poll() is None, f"the driver ended too early:\n{self.output()}"
            time.sleep(_POLL_SECONDS)

    def wait_until_paused(self) -> None:
        self.wait_until((self.directory / "reached").exists)

    def end(self) -> int:
        """Wait for its end; the exit status, negative for a signal."""
        return self.process.wait()

    def wait_until_gone(self) -> None:
        """Return once no process of its session is left, whatever process group it is in.

        Spark's Python workers have a group of their own, which a kill of the driver's misses.
        """
        while any(_is_alive(process, self.process.pid) for process in psutil.process_iter()):
            time.sleep(_POLL_SECONDS)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def clear_away(self) -> None:
        """Nothing of it is left when its case is over, however that ended."""
        with suppress(ProcessLookupError):
            self.kill()
        self.process.wait()


def _is_alive(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


def write_registry(directory: Path, *tables: Table) -> None:
    """A registry with these tables in it."""
    directory.mkdir()
    shutil.copy(REGISTRY_DIRECTORY / "exchanges.yaml", directory)
    entries = [table.model_dump(mode="json", exclude_none=True) for table in tables]
    # JSON is YAML.
    (directory / "tables.yaml").write_text(json.dumps({"tables": entries}))


def start_driver(
    table: str,
    settings: Settings,
    registry: Path,
    directory: Path,
    *,
    java: Mapping[str, str],
    fault: str = "",
) -> RunningDriver:
    """Start an offload. `fault` is that of K2_FAULT; a pause gets its directory added."""
    directory.mkdir()
    log = directory / "log"
    if fault.endswith(":pause"):
        fault = f"{fault}:{directory}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            offload_command(table, cores=1),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                **environment_of(settings),
                **java,
                "PYSPARK_PYTHON": sys.executable,
                # A killed driver cannot clear its scratch files away.
                "SPARK_LOCAL_DIRS": str(directory),
                "K2_REGISTRY": str(registry),
                "K2_FAULT": fault,
            },
            start_new_session=True,
        )
    return RunningDriver(process, log, directory)
