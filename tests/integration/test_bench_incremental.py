"""Short runs of the benchmarks of new rows and of the server. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.stack_folder import stack_folder

from k2.bench.incremental.measure import STEPS, TABLES
from k2.bench.server import FORMATS, IN_PROCESS, INSERT, OVER_HTTP, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with stack_folder() as path:
        yield path


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "benchmarks"


def bench(name: str, *options: str, output: Path, state: Path) -> Any:
    """Run a benchmark; what it wrote as JSON."""
    command = [str(Path(sys.executable).parent / "k2"), "bench", name, *options]
    subprocess.run(
        [*command, "--repeat", "1", "--output", str(output)],
        env={**os.environ, "K2_STATE": str(state)},
        check=True,
    )
    return json.loads((output / f"{name}.json").read_text())


@pytest.mark.timeout(600)
def test_every_table_is_offloaded_incrementally(output: Path, state: Path) -> None:
    sizes = ("--table-trades", "20000", "--new-trades", "1000")
    offloads = bench("incremental", *sizes, output=output, state=state)["offloads"]
    assert [(one["table_trades"], one["table"]) for one in offloads] == [
        (20_000, name) for name in TABLES
    ]
    for one in offloads:
        assert 0 < one["rows"] < one["table_rows"]
        assert one["rows_read"] > 0
        assert set(one["steps"]) == set(STEPS)
        assert 0 < sum(one["steps"].values()) < one["run_seconds"] < one["job_seconds"]
        assert one["peak_mb"] > 100
    bronze, silver, _ = (one["rows"] for one in offloads)
    assert (bronze, silver) == (1_010, 1_000), "one in a hundred came twice"
    assert "| silver_trades |" in output.with_name("benchmarks.md").read_text()
    assert not (state / "incremental").exists()


def test_every_statement_is_measured_on_both_ways(output: Path, state: Path) -> None:
    runs = bench("server", "--rows", "10000", output=output, state=state)["runs"]
    statements = (SMALL, *(f"select, {name}" for name in FORMATS), INSERT)
    assert [(run["way"], run["statement"]) for run in runs] == [
        (way, statement) for way in (OVER_HTTP, IN_PROCESS) for statement in statements
    ]
    assert all(run["size"] > 0 and run["seconds"] > 0 for run in runs)
    assert "## Embedded server" in output.with_name("benchmarks.md").read_text()
    assert not (state / "server").exists()
