"""The soak in its short form; `make soak` runs it for longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stack_folder import stack_folder

from k2.offload.audit import PartitionAudit, Side, TableAudit
from k2.registry import registry
from k2.soak import Tally, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with stack_folder() as path:
        yield path


def soak(state: Path) -> subprocess.CompletedProcess[str]:
    ports = {f"K2_{service}_PORT": "0" for service in ("CLICKHOUSE", "POSTGRES", "AIRFLOW")}
    command = [str(Path(sys.executable).parent / "k2"), "soak", "--cycles", "1", "--count", "3000"]
    return subprocess.run(
        [*command, "--json"],
        env={**os.environ, **ports, "K2_STATE": str(state)},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(600)
def test_a_cycle_with_faults_loses_nothing_and_a_second_soak_wants_an_empty_state(
    state: Path,
) -> None:
    first = soak(state)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["kills"] > 0
    assert result["offloads"] > result["kills"]
    assert result["rows"] > 2 * result["trades"] == 6000
    assert (result["lost"], result["duplicated"]) == (0, 0)
    second = soak(state)
    assert second.returncode == 1
    assert f"error: {state} holds trades already" in second.stderr


def test_rows_that_iceberg_lacks_or_has_twice_are_counted() -> None:
    tally = Tally(trades={("binance", "BTCUSDT", 1, number) for number in range(10)})
    sides = {"silver_trades": (10, 12), "ohlcv_1m": (5, 4)}
    audits = [
        TableAudit(
            table.name,
            (PartitionAudit(table.name, "2024-11-20", *map(Side, sides.get(table.name, (3, 3)))),),
            waiting_rows=0,
        )
        for table in registry().tables
    ]
    found = result_of(registry(), audits, tally, cycles=1, seconds=1.0)
    # Two rows more than ClickHouse has, and two more than trades were fed.
    assert (found.lost, found.duplicated) == (1, 4)
    assert found.trades == 10
