"""The embedded stack's engines: started, killed, started again, refused when already running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.stack_folder import stack_folder

from k2.clickhouse import connect
from k2.embedded.stack import running_engines, stop
from k2.embedded.state import running_owner
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RUN = """
import signal, sys
from pathlib import Path
from k2.embedded.stack import running_engines
with running_engines(Path(sys.argv[1]), lambda line: None):
    print("running", flush=True)
    signal.pause()
"""


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for service in ("CLICKHOUSE", "POSTGRES", "AIRFLOW"):
        monkeypatch.setenv(f"K2_{service}_PORT", "0")
    with stack_folder() as path:
        yield path
        stop(path)


@pytest.fixture
def supervisor(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _RUN, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    yield process
    process.kill()
    process.wait()


def test_a_killed_stack_is_cleared_away_by_the_next_start_and_keeps_its_rows(
    directory: Path, supervisor: subprocess.Popen[str]
) -> None:
    supervisor.kill()
    supervisor.wait()
    said: list[str] = []
    with running_engines(directory, said.append) as stack:
        assert "an earlier, killed run had left" in said[0]
        with connect(stack.settings.clickhouse, database="default") as client:
            client.command("create table kept (x UInt8) engine = MergeTree order by x")
            client.command("insert into kept values (7)")
    with (
        running_engines(directory, said.append) as stack,
        connect(stack.settings.clickhouse, database="default") as client,
    ):
        assert client.query("select x from kept").result_rows == [(7,)]


def test_down_from_elsewhere_ends_every_process(
    directory: Path, supervisor: subprocess.Popen[str]
) -> None:
    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert children
    assert stop(directory)
    supervisor.wait(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert running_owner(directory) is None


def test_down_without_a_stack_does_nothing(directory: Path) -> None:
    assert not stop(directory)


@pytest.mark.usefixtures("supervisor")
def test_a_second_stack_on_the_same_folder_is_refused(directory: Path) -> None:
    with (
        pytest.raises(StackError, match=r"a stack is already running on .*; stop it with"),
        running_engines(directory, lambda _: None),
    ):
        pass


def test_an_interrupt_ends_the_engines(directory: Path, supervisor: subprocess.Popen[str]) -> None:
    os.kill(supervisor.pid, signal.SIGINT)
    supervisor.wait(timeout=30)
    assert running_owner(directory) is None
    assert not (directory / "processes.json").exists()
