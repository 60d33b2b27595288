"""What the incremental benchmark found: a JSON file, and a section of docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from k2.bench.incremental.measure import STEPS
from k2.bench.page import table, where, write_document, write_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from k2.bench.incremental.measure import Measured

JSON_NAME: Final = "incremental.json"
TARGET: Final = "at most 1.2"
COLUMNS: Final = (
    "table",
    "trades before",
    "rows before",
    "rows written",
    "rows read",
    "run s",
    "lowest",
    "highest",
    "job s",
    "CPU s",
    "peak MB",
)
STEP_COLUMNS: Final = ("table", "trades before", "look", *STEPS)
RATIO_COLUMNS: Final = (
    "ratio of medians, largest to smallest",
    "run",
    "job",
    "rows read",
    "target",
)


def write_report(output: Path, measured: Sequence[Measured], measurement: dict[str, Any]) -> None:
    """Write the offloads as JSON into a directory, and the section of the page beside it."""
    document = {**measurement, "offloads": [asdict(one) for one in measured]}
    write_document(output / JSON_NAME, document)
    write_section(output, "k2 bench incremental", _section(document, measured))


def summary(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of COLUMNS for each table and size: medians of its offloads."""
    return [_figures(runs) for runs in _groups(measured)]


def steps(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of STEP_COLUMNS for each table and size: medians of seconds.

    To look is all that the steps do not log: recovery, what is new, and recording.
    """
    return [
        [
            runs[0].table,
            runs[0].table_trades,
            *(
                round(median(seconds), 2)
                for seconds in (
                    [one.run_seconds - sum(one.steps.values()) for one in runs],
                    *([one.steps[step] for one in runs] for step in STEPS),
                )
            ),
        ]
        for runs in _groups(measured)
    ]


def ratios(measured: Sequence[Measured]) -> list[list[Any]]:
    """A row of RATIO_COLUMNS for each table."""
    sizes = sorted({one.table_trades for one in measured})

    def ratio(name: str, value: Callable[[Measured], float]) -> str:
        small, large = (
            median(value(one) for one in measured if (one.table, one.table_trades) == (name, size))
            for size in (sizes[0], sizes[-1])
        )
        return f"{large / small:.2f}"

    return [
        [
            name,
            ratio(name, lambda one: one.run_seconds),
            ratio(name, lambda one: one.job_seconds),
            ratio(name, lambda one: one.rows_read),
            TARGET,
        ]
        for name in dict.fromkeys(one.table for one in measured)
    ]


def _groups(measured: Sequence[Measured]) -> Iterable[list[Measured]]:
    """The offloads of each table and size, tables in the order of their layers."""
    names = list(dict.fromkeys(one.table for one in measured))
    keys = sorted({(names.index(one.table), one.table_trades) for one in measured})
    for number, trades in keys:
        yield [one for one in measured if (one.table, one.table_trades) == (names[number], trades)]


def _figures(runs: Sequence[Measured]) -> list[Any]:
    seconds = [one.run_seconds for one in runs]
    return [
        runs[0].table,
        runs[0].table_trades,
        runs[0].table_rows,
        round(median(one.rows for one in runs)),
        round(median(one.rows_read for one in runs)),
        *(round(choose(seconds), 2) for choose in (median, min, max)),
        round(median(one.job_seconds for one in runs), 2),
        round(median(one.cpu_seconds for one in runs), 1),
        round(median(one.peak_mb for one in runs)),
    ]


def _section(document: dict[str, Any], measured: Sequence[Measured]) -> Iterator[str]:
    yield "## Incremental offload"
    yield ""
    yield "Offloads of what a quarter of an hour brought, out of a medallion with few trades and"
    yield "out of one with many, in turn, repeated; medians. A new trade in fifty is late, by up to"
    yield "a week, one in a hundred is produced twice. Gold replaces the partitions that candles"
    yield "changed in, so it writes more rows than are new. *run s* is from the claim to its"
    yield "release, *job s* from the start of the process to its end. Processor time and memory"
    yield "(the most at a time) are those of the job and of ClickHouse; *rows read* are what"
    yield "ClickHouse read for the whole job."
    yield ""
    yield where(document)
    yield ""
    yield from table(COLUMNS, summary(measured))
    yield ""
    yield "Seconds of the steps; *look* is recovery, what is new, and recording:"
    yield ""
    yield from table(STEP_COLUMNS, steps(measured))
    yield ""
    yield from table(RATIO_COLUMNS, ratios(measured))
