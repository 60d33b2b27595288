"""dbt as the DAG runs it: inside a process that runs nothing else."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from k2.settings import environment_of

if TYPE_CHECKING:
    from .conftest import Warehouse

RUN = "import sys; from k2.transform import run_dbt_here; run_dbt_here(sys.argv[1:])"
NOON = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)


def run_here(warehouse: Warehouse, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env={
            **os.environ,
            **environment_of(warehouse.settings),
            "DBT_TARGET_PATH": str(warehouse.state / "target"),
            "DBT_LOG_PATH": str(warehouse.state / "logs"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_builds_what_it_is_told_and_says_so(warehouse: Warehouse) -> None:
    done = run_here(warehouse, "seed")
    assert done.returncode == 0, done.stderr
    assert "OK loaded seed file" in done.stdout
    assert warehouse.query("select count() > 0 from asset_aliases") == [(True,)]


def test_a_failed_test_is_named_in_the_last_line(warehouse: Warehouse) -> None:
    row = (NOON, 1, "BTCUSDT", "neither", 1, 1, 1, NOON, 1, 0)
    warehouse.feed("binance", [row])
    done = run_here(warehouse, "test", "--select", "source:bronze.bronze_trades_binance")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("k2.transform.TransformError: dbt test ")
    assert "source_accepted_values_bronze_bronze_trades_binance_side" in last


def test_a_command_that_dbt_does_not_know_is_an_error_of_one_line(warehouse: Warehouse) -> None:
    done = run_here(warehouse, "build", "--no-such-option")
    assert done.returncode == 1
    assert "No such option" in done.stderr.strip().splitlines()[-1]
