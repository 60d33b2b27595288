"""What the benchmark of the DAG found: a JSON file, a plot, and a section of docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from k2.bench.dag.measure import K2, PLAIN
from k2.bench.dag.spans import DagRun, breakdown, median_run
from k2.bench.page import table, where, write_document, write_section

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k2.bench.dag.pair import Pair
    from k2.bench.dag.parsing import Parsing

JSON_NAME: Final = "dag.json"
PLOT_NAME: Final = "dag.png"
RUN_COLUMNS: Final = ("way", "rows in Iceberg", "runs", "seconds", "lowest", "highest")
SPENT_COLUMNS: Final = ("seconds of the median run in", K2.name, PLAIN.name)
TARGET_COLUMNS: Final = ("measured", "value", "target")
_COLORS: Final = {"dbt": "tab:orange", "offload": "tab:blue", "audit": "tab:green"}


@dataclass(frozen=True)
class Results:
    """All that was measured."""

    runs: Sequence[DagRun]
    pairs: Sequence[Pair]
    parsing: Parsing

    def of(self, way: str) -> list[DagRun]:
        """The runs of one way."""
        return [run for run in self.runs if run.way == way]


def write_report(output: Path, results: Results, measurement: dict[str, Any]) -> None:
    """Write the runs as JSON and a plot into a directory, and the section of the page beside it."""
    document = {
        **measurement,
        "runs": [asdict(run) for run in results.runs],
        "pairs": [asdict(pair) for pair in results.pairs],
        "parsing": asdict(results.parsing),
    }
    write_document(output / JSON_NAME, document)
    _plot(results, output / PLOT_NAME)
    write_section(output, "k2 bench dag", _section(document, results, output))


def summary(results: Results) -> list[list[Any]]:
    """A row of RUN_COLUMNS for each way."""
    return [
        [
            way,
            runs[0].rows,
            len(runs),
            *(round(choose(run.seconds for run in runs), 1) for choose in (median, min, max)),
        ]
        for way in dict.fromkeys(run.way for run in results.runs)
        for runs in [results.of(way)]
    ]


def spent(results: Results) -> list[list[Any]]:
    """A row of SPENT_COLUMNS for each kind of task, and for the time between tasks."""
    own, other = (breakdown(median_run(results.of(way.name))) for way in (K2, PLAIN))
    return [
        [kind, *(round(side[kind], 1) if kind in side else None for side in (own, other))]
        for kind in own
    ]


def targets(results: Results) -> list[list[str]]:
    """A row of TARGET_COLUMNS for each aim."""
    own, other = (median(run.seconds for run in results.of(way.name)) for way in (K2, PLAIN))
    at_once = median(pair.ratio for pair in results.pairs)
    parsing = results.parsing
    return [
        ["seconds of K2's run", f"{own:.1f}", "at most 45"],
        ["K2's seconds to those of the plain run", f"{own / other:.2f}", "at most 0.6"],
        ["two tables: seconds in turn to seconds at once", f"{at_once:.2f}", "at least 1.6"],
        [
            "seconds to parse every DAG file, the import of Airflow's SDK included",
            f"{parsing.sdk + parsing.files:.2f}",
            "at most 0.5",
        ],
        ["of these, the import of Airflow's SDK alone", f"{parsing.sdk:.2f}", "-"],
        ["of these, the DAG files and all else that they import", f"{parsing.files:.2f}", "-"],
    ]


def _section(document: dict[str, Any], results: Results, output: Path) -> Iterator[str]:
    yield "## The DAG"
    yield ""
    yield "One run of the medallion by Airflow's scheduler, from its start to its end, with many"
    yield "simulated trades new: nine tables brought to Iceberg. The plain run has the same dbt"
    yield "commands, the same order and as many jobs at a time, but Spark as it comes, over JDBC,"
    yield "and neither audit nor retention; in K2's run they are included. Each run has a fresh"
    yield "stack, in which a run with nothing new went before."
    yield ""
    yield where(document)
    yield ""
    yield from table(RUN_COLUMNS, summary(results))
    yield ""
    yield from table(SPENT_COLUMNS, spent(results))
    yield ""
    yield f"Two tables of together {results.pairs[0].rows:,} rows, offloaded in turn and at once"
    yield "without Airflow, and what parsing costs in a fresh interpreter:"
    yield ""
    yield from table(TARGET_COLUMNS, targets(results))
    yield ""
    yield f"![When each task ran]({output.name}/{PLOT_NAME})"


def _plot(results: Results, path: Path) -> None:
    runs = [median_run(results.of(way.name)) for way in (K2, PLAIN)]
    figure, panels = plt.subplots(
        len(runs),
        1,
        sharex=True,
        figsize=(9, 0.22 * sum(len(run.tasks) for run in runs) + 1.5),
        height_ratios=[len(run.tasks) for run in runs],
        layout="constrained",
    )
    try:
        for run, axes in zip(runs, panels, strict=True):
            tasks = sorted(run.tasks, key=lambda task: task.began)
            axes.barh(
                [f"{task.name} {task.label}".rstrip() for task in tasks],
                [task.ended - task.began for task in tasks],
                left=[task.began for task in tasks],
                color=[_COLORS.get(task.kind, "tab:gray") for task in tasks],
            )
            axes.invert_yaxis()
            axes.tick_params(axis="y", labelsize=7)
            axes.set_title(f"{run.way}: {run.seconds:.0f} s", fontsize=10)
            axes.grid(visible=True, axis="x", alpha=0.2)
        panels[-1].set_xlabel("seconds since the run began")
        figure.savefig(path, dpi=100)
    finally:
        plt.close(figure)
