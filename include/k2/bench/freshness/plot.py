"""The plot of the freshness benchmark: latency, parts and processor time over time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes


_PLACES: Final = 60


def plot(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a column of three diagrams for each run, as its document has it."""
    figure, grid = plt.subplots(
        3, len(runs), figsize=(7 * len(runs), 9), sharex="col", squeeze=False
    )
    try:
        for column, run in enumerate(runs):
            latency, parts, cores = (grid[row][column] for row in range(3))
            latency.set_title(f"{run['rate']} trades/s")
            _draw_latency(latency, run)
            _draw_parts(parts, run)
            _draw_cores(cores, run)
            cores.set_xlabel("seconds")
            for axes in (latency, parts, cores):
                _finish(axes, run)
        figure.tight_layout()
        figure.savefig(path, dpi=100)
    finally:
        plt.close(figure)


def _draw_latency(axes: Axes, run: dict[str, Any]) -> None:
    series = run["series"]
    for name in ("maximum", "p99", "p50"):
        axes.plot(series["second"], series[name], label=name, linewidth=0.8)
    axes.axhline(500, color="grey", linestyle=":", linewidth=0.8)
    axes.set_ylabel("milliseconds until visible")


def _draw_parts(axes: Axes, run: dict[str, Any]) -> None:
    samples = run["samples"]
    for table, parts in samples["parts"].items():
        axes.plot(samples["second"], parts, label=table, linewidth=0.8)
    axes.set_ylabel("active parts")


def _draw_cores(axes: Axes, run: dict[str, Any]) -> None:
    samples = run["samples"]
    seconds = samples["second"]
    # Some looks at a time: processor time is counted in coarse steps.
    step = max(1, len(seconds) // _PLACES)
    for name, used in samples["cpu_seconds"].items():
        known = [(at, value) for at, value in zip(seconds, used, strict=True) if value is not None]
        pairs = [
            (end, (after - before) / (end - begin))
            for (begin, before), (end, after) in pairwise(known[::step])
        ]
        axes.plot(*zip(*pairs, strict=True), label=name, linewidth=0.8)
    axes.set_ylabel("cores busy")


def _finish(axes: Axes, run: dict[str, Any]) -> None:
    for settling in run["settlings"]:
        axes.axvspan(settling["began"], settling["ended"], color="grey", alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, run["plan"]["seconds"])
    axes.grid(visible=True, alpha=0.2)
    axes.legend(loc="upper right", fontsize=7)
