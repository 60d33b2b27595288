"""What the offload benchmark found: a JSON file, a plot, and a section of docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from k2.bench.offload import ways
from k2.bench.page import table, where, write_document, write_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from k2.bench.offload.measure import Measured

JSON_NAME: Final = "offload.json"
PLOT_NAME: Final = "offload.png"
COLUMNS: Final = (
    "way",
    "rows",
    "rows/s",
    "lowest",
    "highest",
    "plan s",
    "job s",
    "CPU s",
    "peak MB",
    "bytes/row",
)
RATIO_COLUMNS: Final = ("ratio of medians", "measured", "target")


def write_report(output: Path, measured: Sequence[Measured], measurement: dict[str, Any]) -> None:
    """Write the runs as JSON and a plot into a directory, and the section of the page beside it."""
    document = {**measurement, "runs": [asdict(one) for one in measured]}
    write_document(output / JSON_NAME, document)
    _plot(measured, output / PLOT_NAME)
    write_section(output, "k2 bench offload", _section(document, measured, output))


def summary(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of COLUMNS for each way and number of rows: medians of its runs."""
    keys = dict.fromkeys((one.way, one.rows) for one in measured)
    return [_row([one for one in measured if (one.way, one.rows) == key]) for key in keys]


def ratios(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of RATIO_COLUMNS for each comparison of two ways, or of two numbers of rows."""
    counts = sorted({one.rows for one in measured if one.rows})
    few, many = counts[0], counts[-1]

    def ratio(
        value: Callable[[Measured], float], mine: tuple[str, int], other: tuple[str, int]
    ) -> str:
        medians = [
            median(value(one) for one in measured if (one.way, one.rows) == key)
            for key in (mine, other)
        ]
        return f"{medians[0] / medians[1]:.2f}"

    own, own_many = (ways.UNLOAD, few), (ways.UNLOAD, many)
    return [
        [
            "rows/s, the offload to Spark over JDBC",
            ratio(_rate, own, (ways.JDBC, few)),
            "at least 10",
        ],
        [
            "the same, its plan included",
            ratio(_rate_with_plan, own, (ways.JDBC, few)),
            "",
        ],
        [
            "rows/s, the offload to PyIceberg",
            ratio(_rate, own, (ways.PYICEBERG, few)),
            "at least 2.5",
        ],
        [
            f"rows/s, the offload to the files alone, {many:,} rows",
            ratio(_rate, own_many, (ways.FLOOR, many)),
            "at least 0.8",
        ],
        [
            f"rows/s, {many:,} rows to {few:,}",
            ratio(_rate, own_many, own),
            "at least 0.85",
        ],
        [
            f"most MB of all processes, {many:,} rows",
            f"{max(one.peak_mb for one in measured if (one.way, one.rows) == own_many):,.0f}",
            "at most 2500",
        ],
        [
            "bytes a row, the offload to what Spark writes",
            ratio(lambda one: one.lake_bytes, own, (ways.JDBC, few)),
            "at most 1",
        ],
        [
            "seconds, a job with nothing new to a plain spark-submit",
            ratio(lambda one: one.job_seconds, (ways.NOTHING_NEW, 0), (ways.PLAIN_START, 0)),
            "at most 0.5",
        ],
    ]


def _rate(one: Measured) -> float:
    return one.rows / one.transfer_seconds


def _rate_with_plan(one: Measured) -> float:
    return one.rows / (one.plan_seconds + one.transfer_seconds)


def _row(runs: Sequence[Measured]) -> list[Any]:
    rows = runs[0].rows
    rates = [_rate(one) for one in runs] if rows else []
    return [
        runs[0].way,
        rows,
        *(round(choose(rates)) if rates else None for choose in (median, min, max)),
        round(median(one.plan_seconds for one in runs), 2),
        round(median(one.job_seconds for one in runs), 2),
        round(median(one.cpu_seconds for one in runs), 1),
        round(median(one.peak_mb for one in runs)),
        round(runs[0].lake_bytes / rows, 1) if rows else None,
    ]


def _section(document: dict[str, Any], measured: Sequence[Measured], output: Path) -> Iterator[str]:
    yield "## Offload"
    yield ""
    yield "The same simulated trades of Binance out of ClickHouse into an empty Iceberg table, one"
    yield "way after the other, repeated; medians. *rows/s* is the transfer: reading, writing,"
    yield "verifying and committing; *plan s* is what the offload alone does before that, counting"
    yield "and summing what it will write. *job s* is from the start of the process to its end;"
    yield "processor time and memory (the most at a time) are those of all processes, ClickHouse"
    yield "included."
    yield ""
    yield where(document)
    yield ""
    yield from table(COLUMNS, summary(measured))
    yield ""
    yield from table(RATIO_COLUMNS, ratios(measured))
    yield ""
    yield f"![Rows a second of each way]({output.name}/{PLOT_NAME})"


def _plot(measured: Sequence[Measured], path: Path) -> None:
    rows = [row for row in summary(measured) if row[2] is not None]
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(rows) + 1))
    try:
        labels = [f"{row[0]}, {row[1] / 1e6:.1f}M rows" for row in rows]
        medians = [row[2] / 1e6 for row in rows]
        spread = [
            [(row[2] - row[3]) / 1e6 for row in rows],
            [(row[4] - row[2]) / 1e6 for row in rows],
        ]
        axes.barh(labels, medians, xerr=spread, capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel("million rows a second (median, lowest to highest)")
        axes.grid(visible=True, axis="x", alpha=0.2)
        figure.tight_layout()
        figure.savefig(path, dpi=100)
    finally:
        plt.close(figure)
