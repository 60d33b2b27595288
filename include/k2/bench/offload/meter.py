"""Wall seconds, processor seconds and peak memory of a command together with its servers."""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import psutil

from k2.errors import K2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PERIOD: Final = 0.05
T = TypeVar("T")


class CommandError(K2Error):
    """A measured command failed."""


@dataclass(frozen=True)
class Usage:
    """What a piece of work used: all processes of it, and the servers that worked for it."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


class Meter:
    """Measures work, and the servers that do it; `others` run beside and are left out."""

    def __init__(
        self, servers: Sequence[psutil.Process], others: Sequence[psutil.Process] = ()
    ) -> None:
        self._servers = servers
        self._others = others

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[Usage, str]:
        """Run a command to its end: what it used, and what it printed.

        Raises:
            CommandError: it failed; the message ends with its last line.
        """

        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )

        usage, done = self.measure(work)
        if done.returncode != 0:
            last = (done.stdout.strip().splitlines() or ["it printed nothing"])[-1]
            raise CommandError(f"{' '.join(command[:3])} ... failed: {last}")
        return usage, done.stdout

    def measure(self, work: Callable[[], T]) -> tuple[Usage, T]:
        """Do some work: what it used, and what it returned."""
        over, peak = threading.Event(), _Peak(self._servers, self._others)
        watcher = threading.Thread(target=peak.watch, args=(over,), daemon=True)
        cpu, began = self._cpu_seconds(), time.monotonic()
        watcher.start()
        try:
            result = work()
        finally:
            seconds = time.monotonic() - began
            over.set()
            watcher.join()
        return Usage(seconds, self._cpu_seconds() - cpu, peak.bytes / 1e6), result

    def _cpu_seconds(self) -> float:
        """Of the servers, and of every command that has ended, with all that it started."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [server.cpu_times() for server in self._servers]
        return ended.ru_utime + ended.ru_stime + sum(one.user + one.system for one in times)


class _Peak:
    """The most memory that the servers and the children of this process hold at a time."""

    def __init__(self, servers: Sequence[psutil.Process], others: Sequence[psutil.Process]) -> None:
        self._servers = servers
        self._known = {process.pid for process in (*servers, *others)}
        self.bytes = 0

    def watch(self, over: threading.Event) -> None:
        """Look at once, and again and again until it is over."""
        this = psutil.Process()
        while True:
            started = [one for one in this.children(recursive=True) if one.pid not in self._known]
            held = sum(_resident(process) for process in (*self._servers, *started))
            self.bytes = max(self.bytes, held)
            if over.wait(_PERIOD):
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
