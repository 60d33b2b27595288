"""Processes of the stack: started in groups of their own, noted down, and stopped with all theirs.

What is noted survives a killed supervisor, so the next start or `make down` finds what it left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

GRACE_SECONDS = 20


def start(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; its output is added to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds the block like Ctrl-C, so that what it started is stopped either way."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def note(directory: Path, process: int) -> None:
    """Remember a process of the stack by id and start time: ids are used again."""
    noted = _noted(directory)
    noted.append([process, psutil.Process(process).create_time()])
    (directory / "processes.json").write_text(json.dumps(noted))


def left_of_noted(directory: Path) -> Iterator[psutil.Process]:
    """The noted processes that are still there, last started first, and what outlived them."""
    for process, created in reversed(_noted(directory)):
        yield from _left_of(int(process), created)


def stop_noted(directory: Path) -> int:
    """Stop the noted processes, last started first, with all that they started; how many."""
    stopped = sum(stop_tree(left) for left in left_of_noted(directory))
    (directory / "processes.json").unlink(missing_ok=True)
    return stopped


def stop_tree(process: psutil.Process) -> int:
    """End a process gently, then what is left of it and of its descendants; how many ended."""
    try:
        family = _alive([process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0
    _each(family[:1], "terminate")
    _wait(family[:1], GRACE_SECONDS)
    _each(family, "terminate")
    alive = _wait(family, GRACE_SECONDS / 4)
    _each(alive, "kill")
    _wait(alive, GRACE_SECONDS / 4)
    return len(family)


def _left_of(process: int, created: float) -> list[psutil.Process]:
    """A noted process, if its id is still its own, and what outlived it in its session."""
    try:
        noted = psutil.Process(process)
        if abs(noted.create_time() - created) >= 1:
            return []
        left = [noted]
    except psutil.NoSuchProcess:
        left = []
    if created < psutil.boot_time():
        return []
    return left + [one for one in psutil.process_iter() if _session(one) == process]


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _wait(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until they have ended; those that have not."""
    deadline = time.monotonic() + seconds
    while True:
        _, there = psutil.wait_procs(processes, timeout=0)
        alive = _alive(there)
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.02)


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    """False also for what has ended and nobody has reaped, as in a container without an init."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _each(processes: Iterable[psutil.Process], action: str) -> None:
    for process in processes:
        try:
            getattr(process, action)()
        except psutil.NoSuchProcess:
            continue


def _noted(directory: Path) -> list[list[float]]:
    path = directory / "processes.json"
    if not path.exists():
        return []
    try:
        noted: list[list[float]] = json.loads(path.read_text())
    except ValueError:
        return []
    return noted
