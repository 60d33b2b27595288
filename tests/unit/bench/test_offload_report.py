"""What the offload benchmark makes of its runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from k2.bench.offload import ways
from k2.bench.offload.measure import Measured
from k2.bench.offload.report import COLUMNS, ratios, summary, write_report

if TYPE_CHECKING:
    from pathlib import Path


def run(way: str, rows: int, seconds: float, size: int = 0) -> Measured:
    plan = seconds / 4 if way == ways.UNLOAD else 0
    return Measured(way, rows, plan, seconds, seconds + 2, 1.0, 100.0, size)


RUNS = [
    run(ways.JDBC, 100, 10, 2200),
    run(ways.SCAN, 100, 8, 2000),
    run(ways.PYICEBERG, 100, 2, 2400),
    run(ways.UNLOAD, 100, 1, 2000),
    run(ways.UNLOAD, 100, 3, 2000),
    run(ways.UNLOAD, 100, 0.5, 2000),
    run(ways.NOTHING_NEW, 0, 1),
    run(ways.PLAIN_START, 0, 4),
    run(ways.UNLOAD, 400, 5, 8000),
    run(ways.FLOOR, 400, 4, 8000),
]


def test_a_way_is_the_median_of_its_runs_with_lowest_and_highest() -> None:
    (offload,) = [
        dict(zip(COLUMNS, row, strict=True))
        for row in summary(RUNS)
        if row[:2] == [ways.UNLOAD, 100]
    ]
    assert (offload["rows/s"], offload["lowest"], offload["highest"]) == (100, 33, 200)
    assert (offload["plan s"], offload["job s"], offload["bytes/row"]) == (0.25, 3, 20)


def test_ratios_compare_medians() -> None:
    measured = [row[1] for row in ratios(RUNS)]
    assert measured == ["10.00", "8.00", "2.00", "0.80", "0.80", "100", "0.91", "0.50"]


def test_the_report_is_a_section_a_plot_and_the_runs(tmp_path: Path) -> None:
    head = {
        "measured_at": "2026-05-04 03:02 UTC",
        "command": "k2 bench offload --rows 100",
        "machine": dict.fromkeys(("cpu", "cores", "memory_gb", "system", "load_before"), "some"),
    }
    write_report(tmp_path / "benchmarks", RUNS, head)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| unload and commit | 100 | 100 | 33 | 200 |" in page
    assert "![Rows a second of each way](benchmarks/offload.png)" in page
    assert (tmp_path / "benchmarks" / "offload.png").stat().st_size > 10_000
    runs = json.loads((tmp_path / "benchmarks" / "offload.json").read_text())["runs"]
    assert len(runs) == len(RUNS)
