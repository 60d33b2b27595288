"""A driver dies or waits where it is told to, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k2.errors import SettingsError
from k2.offload.faults import POINTS, Fault, arm, fault, parse_fault

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os
from k2.offload import faults
faults.arm(os.environ)
faults.fault("planned")
print("planned", flush=True)
faults.fault("committed")
print("committed", flush=True)
"""


def run(text: str) -> subprocess.CompletedProcess[str]:
    """A program that passes two points, in a process group of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"K2_FAULT": text} if text else {},
        capture_output=True,
        text=True,
        start_new_session=True,
    )


def test_without_a_fault_every_point_is_passed() -> None:
    arm({})
    for point in POINTS:
        fault(point)
    assert run("").stdout == "planned\ncommitted\n"


def test_a_kill_ends_the_process_at_its_point() -> None:
    done = run("committed:kill")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "planned\n")


def test_a_pause_says_that_it_is_reached_and_ends_when_told(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert run(f"committed:pause:{tmp_path}").stdout == "planned\ncommitted\n"
    assert (tmp_path / "reached").exists()


def test_a_pause_lasts_until_it_is_told_to_end(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={"K2_FAULT": f"committed:pause:{tmp_path}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "planned\n"
        assert process.poll() is None
        (tmp_path / "go").touch()
        assert process.stdout.readline() == "committed\n"


@pytest.mark.parametrize("text", ["nowhere:kill", ":kill", "kill", "Committed:kill"])
def test_an_unknown_point_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^K2_FAULT is .*; it must begin with one of claimed"):
        arm({"K2_FAULT": text})


@pytest.mark.parametrize("action", ["", ":", ":stop", ":kill:", ":pause", ":pause:", ":pause:/no"])
def test_an_unknown_action_is_refused(action: str) -> None:
    with pytest.raises(SettingsError, match="after the point comes ':kill' or ':pause:'"):
        parse_fault(f"committed{action}")


def test_a_fault_is_read_as_written(tmp_path: Path) -> None:
    assert parse_fault("swapping:kill") == Fault("swapping", None)
    assert parse_fault(f"swapping:pause:{tmp_path}") == Fault("swapping", tmp_path)


def test_faults_import_nothing_heavy() -> None:
    program = "import sys, k2.offload.faults; print('k2.offload.engine' in sys.modules)"
    program += "; print(bool({'pyspark', 'psycopg', 'clickhouse_connect'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\nFalse\n"
