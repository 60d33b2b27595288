"""Stopping a process with all that it started: real processes, real children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from k2.embedded import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Starts a child that starts a child, tells the ids of all, and sleeps. With "deaf" all of them
# ignore a gentle stop; with "apart" the children are in sessions of their own.
FAMILY = """
import os, signal, subprocess, sys, time
depth, how = int(sys.argv[1]), sys.argv[2]
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "gentle":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.write(1, b"bye ") == 0))
print(os.getpid(), flush=True)
if depth:
    command = [sys.executable, "-c", sys.argv[3], str(depth - 1), how, sys.argv[3]]
    subprocess.Popen(command, start_new_session=how == "apart")
time.sleep(600)
"""
Family = tuple[subprocess.Popen[bytes], list[psutil.Process]]


@pytest.fixture
def start_family(tmp_path: Path) -> Iterator[Callable[[str], Family]]:
    """Start a process, its child and its grandchild; whatever is left of them is killed."""
    started: list[psutil.Process] = []

    def start(how: str = "gentle") -> Family:
        log = tmp_path / f"family-{len(started)}.log"
        command = [sys.executable, "-c", FAMILY, "2", how, FAMILY]
        parent = processes.start(command, log=log, environment=os.environ, directory=tmp_path)
        while len(log.read_text().split()) < 3:
            assert parent.poll() is None
            time.sleep(0.01)
        family = [psutil.Process(int(number)) for number in log.read_text().split()]
        started.extend(family)
        return parent, family

    yield start
    for process in started:
        if process.is_running():
            process.kill()


def alive(family: list[psutil.Process]) -> list[int]:
    return [
        process.pid
        for process in family
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.4)


@pytest.mark.parametrize("how", ["gentle", "apart", "deaf"])
def test_nothing_is_left_of_a_family(
    start_family: Callable[[str], Family], impatient: None, how: str
) -> None:
    parent, family = start_family(how)
    assert processes.stop_tree(psutil.Process(parent.pid)) == 3
    assert alive(family) == []


def test_who_can_is_stopped_gently(start_family: Callable[[str], Family], tmp_path: Path) -> None:
    parent, _ = start_family("gentle")
    processes.stop_tree(psutil.Process(parent.pid))
    (log,) = tmp_path.glob("family-*.log")
    assert log.read_text().split()[3:] == ["bye"] * 3


def test_a_process_that_is_gone_is_no_error(start_family: Callable[[], Family]) -> None:
    parent, _ = start_family()
    process = psutil.Process(parent.pid)
    processes.stop_tree(process)
    parent.wait()
    assert processes.stop_tree(process) == 0


def test_what_is_noted_is_stopped_by_another_process_and_forgotten(
    start_family: Callable[[], Family], tmp_path: Path
) -> None:
    families = [start_family(), start_family()]
    for parent, _ in families:
        processes.note(tmp_path, parent.pid)
    script = (
        "import sys; from pathlib import Path; from k2.embedded.processes import stop_noted\n"
        "print(stop_noted(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("6\n", "")
    assert [alive(family) for _, family in families] == [[], []]
    assert processes.stop_noted(tmp_path) == 0


def test_children_of_a_noted_process_that_was_killed_are_stopped(
    start_family: Callable[[], Family], tmp_path: Path
) -> None:
    parent, family = start_family()
    processes.note(tmp_path, parent.pid)
    parent.kill()
    parent.wait()
    assert len(alive(family)) == 2
    assert processes.stop_noted(tmp_path) == 2
    assert alive(family) == []


def test_an_id_that_another_process_has_by_now_is_left_alone(
    start_family: Callable[[], Family], tmp_path: Path
) -> None:
    parent, family = start_family()
    earlier = family[0].create_time() - 100
    (tmp_path / "processes.json").write_text(json.dumps([[parent.pid, earlier]]))
    assert processes.stop_noted(tmp_path) == 0
    assert len(alive(family)) == 3


@pytest.mark.parametrize("text", ["", "{", "[[1"])
def test_a_note_that_was_cut_off_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / "processes.json").write_text(text)
    assert processes.stop_noted(tmp_path) == 0


def test_output_and_errors_are_added_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    for word in ("first", "second"):
        command = ["sh", "-c", f"echo {word}; echo {word} error >&2"]
        processes.start(command, log=log, environment=os.environ, directory=tmp_path).wait()
    lines = log.read_text().splitlines()
    assert lines == ["first", "first error", "second", "second error"]
