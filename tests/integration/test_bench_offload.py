"""A short run of the offload benchmark: every way really moves the rows. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.stack_folder import stack_folder

from k2.bench.offload import ways

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with stack_folder() as path:
        yield path


@pytest.fixture(scope="module")
def output(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the results of one round."""
    ports = {f"K2_{service}_PORT": "0" for service in ("CLICKHOUSE", "POSTGRES")}
    output = tmp_path_factory.mktemp("bench") / "benchmarks"
    command = [str(Path(sys.executable).parent / "k2"), "bench", "offload"]
    subprocess.run(
        [*command, "--rows", "3000", "--large", "7000", "--repeat", "1", "--output", str(output)],
        env={**os.environ, **ports, "K2_STATE": str(state)},
        check=True,
    )
    return output


@pytest.mark.timeout(600)
def test_every_way_moves_all_rows_and_is_measured(output: Path) -> None:
    runs: list[dict[str, Any]] = json.loads((output / "offload.json").read_text())["runs"]
    assert [(run["way"], run["rows"]) for run in runs] == [
        (ways.JDBC, 3000),
        (ways.SCAN, 3000),
        (ways.PYICEBERG, 3000),
        (ways.UNLOAD, 3000),
        (ways.NOTHING_NEW, 0),
        (ways.PLAIN_START, 0),
        (ways.FLOOR, 3000),
        (ways.UNLOAD, 7000),
        (ways.FLOOR, 7000),
    ]
    for run in runs:
        assert 0 < run["transfer_seconds"] <= run["job_seconds"] or run["rows"] == 0
        assert run["cpu_seconds"] > 0
        assert run["peak_mb"] > 100
        assert run["lake_bytes"] > 5 * run["rows"] or run["rows"] == 0


def test_the_page_gets_table_ratios_and_plot(output: Path) -> None:
    page = output.with_name("benchmarks.md").read_text()
    assert "| rows/s, the offload to Spark over JDBC |" in page
    assert (output / "offload.png").exists()


def test_nothing_of_it_is_left(output: Path, state: Path) -> None:
    assert output.exists()
    assert not (state / "offload").exists()
