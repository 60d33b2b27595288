"""What the benchmark of the DAG makes of its runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from k2.bench.dag.measure import K2, PLAIN
from k2.bench.dag.pair import Pair
from k2.bench.dag.parsing import Parsing, ParsingError, measure_parsing
from k2.bench.dag.report import Results, spent, summary, targets, write_report
from k2.bench.dag.spans import DagRun, Task, breakdown, covered, median_run

if TYPE_CHECKING:
    from pathlib import Path

TASKS = (
    Task("bronze.dbt", "", 1.0, 4.0),
    Task("bronze.offload", "one", 5.0, 9.0),
    Task("bronze.offload", "two", 6.0, 8.0),
    Task("bronze.offload", "three", 8.5, 10.0),
    Task("retention", "one", 11.0, 11.5),
)


def run(way: str, seconds: float, tasks: tuple[Task, ...] = TASKS) -> DagRun:
    return DagRun(way, 7_000, seconds, tasks)


RESULTS = Results(
    runs=[
        run(PLAIN.name, 40.0, TASKS[:4]),
        run(K2.name, 13.0),
        run(PLAIN.name, 20.0, TASKS[:4]),
        run(K2.name, 12.0),
        run(PLAIN.name, 30.0, TASKS[:4]),
        run(K2.name, 30.0),
    ],
    pairs=[Pair(4_000, 6.0, 9.0, 4.0, 8.0), Pair(4_000, 9.0, 9.0, 5.0, 8.0)],
    parsing=Parsing(sdk=1.0, parser=0.25, files=0.125),
)


def test_tasks_that_run_at_the_same_time_are_counted_once() -> None:
    assert covered(TASKS[1:4]) == 5.0
    assert covered(reversed(TASKS)) == 8.5
    assert covered(()) == 0.0


def test_the_seconds_of_a_run_are_those_of_its_kinds_of_tasks_and_those_between() -> None:
    found = breakdown(run(K2.name, 12.0))
    assert found == {"dbt": 3.0, "offload": 5.0, "retention": 0.5, "between tasks": 3.5}
    assert sum(found.values()) == 12.0


def test_the_median_run_is_one_that_was() -> None:
    runs = [run(K2.name, seconds) for seconds in (9.0, 3.0, 5.0, 4.0)]
    assert median_run(runs).seconds == 4.0
    assert median_run(runs[:3]).seconds == 5.0


def test_a_way_is_the_median_of_its_runs_with_lowest_and_highest() -> None:
    assert summary(RESULTS) == [
        [PLAIN.name, 7_000, 3, 30.0, 20.0, 40.0],
        [K2.name, 7_000, 3, 13.0, 12.0, 30.0],
    ]


def test_what_only_k2_does_is_empty_for_the_plain_run() -> None:
    assert spent(RESULTS) == [
        ["dbt", 3.0, 3.0],
        ["offload", 5.0, 5.0],
        ["retention", 0.5, None],
        ["between tasks", 4.5, 22.0],
    ]


def test_targets_compare_medians() -> None:
    values = [value for _, value, _ in targets(RESULTS)]
    assert values == ["13.0", "0.43", "1.65", "1.12", "1.00", "0.12"]


def test_the_report_is_a_section_a_plot_and_the_runs(tmp_path: Path) -> None:
    head = {
        "measured_at": "2026-05-04 03:02 UTC",
        "command": "k2 bench dag",
        "machine": dict.fromkeys(("cpu", "cores", "memory_gb", "system", "load_before"), "some"),
    }
    write_report(tmp_path / "benchmarks", RESULTS, head)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| K2 | 7000 | 3 | 13.0 | 12.0 | 30.0 |" in page
    assert "![When each task ran](benchmarks/dag.png)" in page
    assert (tmp_path / "benchmarks" / "dag.png").stat().st_size > 10_000
    document = json.loads((tmp_path / "benchmarks" / "dag.json").read_text())
    assert [len(document[name]) for name in ("runs", "pairs", "parsing")] == [6, 2, 3]
    assert document["runs"][1]["tasks"][0]["ended"] == 4.0


def test_parsing_is_measured_on_the_projects_own_files() -> None:
    parsing = measure_parsing(repeat=1)
    assert min(parsing.sdk, parsing.parser, parsing.files) > 0


def test_a_file_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\nimport no_such_module\n")
    with pytest.raises(ParsingError, match="no_such_module"):
        measure_parsing(tmp_path, repeat=1)
