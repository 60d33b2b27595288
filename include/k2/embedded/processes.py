"""Processes of the stack: started in groups of their own, noted down, and stopped with all theirs.

What is noted survives a killed supervisor, so the next start or `make down` finds what it left.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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


def note(directory: Path, process: int) -> None:
    """Remember a process of the stack by id and start time: ids are used again."""
    noted = _noted(directory)
    noted.append([process, psutil.Process(process).create_time()])
    (directory / "processes.json").write_text(json.dumps(noted))


def stop_noted(directory: Path) -> int:
    """Stop the noted processes, last started first, with all their descendants; how many."""
    stopped = 0
    for process, created in reversed(_noted(directory)):
        try:
            found = psutil.Process(int(process))
        except psutil.NoSuchProcess:
            continue
        if abs(found.create_time() - created) < 1:
            stopped += stop_tree(found)
    (directory / "processes.json").unlink(missing_ok=True)
    return stopped


def stop_tree(process: psutil.Process) -> int:
    """End a process gently, then what is left of it and of its descendants; how many ended."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    _each(family[:1], "terminate")
    psutil.wait_procs(family[:1], timeout=GRACE_SECONDS)
    _each(family, "terminate")
    _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS / 4)
    _each(alive, "kill")
    psutil.wait_procs(alive, timeout=GRACE_SECONDS / 4)
    return len(family)


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
