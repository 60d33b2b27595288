"""How fresh the candles are: from the produce call until a trade shows in `ohlcv_1m_view`.

Everything on the way is real: the broker, `k2 ingest`, ClickHouse with its views, dbt settling
meanwhile. A producer keeps to a rate; a reader looks at the markers among its trades.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from k2.bench import page
from k2.bench.freshness import report
from k2.bench.freshness.path import running_path
from k2.bench.freshness.plan import FreshnessError, Plan, Rate, Run
from k2.bench.freshness.run import bench
from k2.bench.freshness.search import find_highest

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from k2.bench.freshness.path import IngestPath

COLUMNS: Final = (
    "trades/s",
    "seconds",
    "measured",
    "p50 ms",
    "p99 ms",
    "maximum ms",
    "produced",
    "visible",
)


@dataclass(frozen=True)
class Way:
    """Where the path and its report are, and how often `k2 ingest` inserts.

    `directory`: the state of the path; its data are removed before and after. `output`: directory
    for JSON and plot; the page `{output}.md` gets its section made anew. `interval`: seconds
    between two inserts of an exchange, at least.
    """

    directory: Path
    output: Path
    interval: float = 0.2


def measure_rates(
    way: Way,
    rates: Sequence[Rate],
    plan: Plan,
    *,
    now: Callable[[], dt.datetime],
    say: Callable[[str], object] = lambda _line: None,
) -> list[Run]:
    """Run at each rate, on a path made anew each time, and write the report; `now` is UTC.

    Raises:
        FreshnessError: a trade was lost or counted twice, or settling failed; the report is
            written.
        StackError, TransformError: the path cannot be started, or a part of it ended.
    """
    _require_plot()
    measurement = page.measurement(now())
    runs = []
    for rate in rates:
        with _path(way, say) as path, bench(path, say) as one:
            runs.append(one.run(rate, plan))
        report.write_report(way.output, runs=report.measured_runs(runs, measurement))
    _require_right(runs)
    return runs


def measure_highest(
    way: Way,
    base: Rate,
    plan: Plan,
    *,
    now: Callable[[], dt.datetime],
    say: Callable[[str], object] = lambda _line: None,
) -> list[Run]:
    """Find the highest rate that holds, in steps as planned, without settling; write the report.

    Arguments and errors are those of `measure_rates`; `base` is where the search begins.
    """
    _require_plot()
    measurement = page.measurement(now())
    plan = replace(plan, settle_every=None)
    with _path(way, say) as path, bench(path, say) as one:
        highest = find_highest(one.run, base, plan, say=say)
    report.write_report(way.output, highest=report.measured_highest(highest, measurement))
    say(f"the highest rate that holds: {highest.rate}; limited by: {highest.limited_by}")
    _require_right(highest.runs)
    return highest.runs


def summary(runs: Sequence[Run]) -> list[list[object]]:
    """A row of COLUMNS for each run."""
    return [
        [
            str(run.rate),
            round(run.plan.seconds),
            run.latency.measured,
            run.latency.p50,
            run.latency.p99,
            run.latency.maximum,
            sum(run.produced.values()),
            sum(run.visible.values()),
        ]
        for run in runs
    ]


def _path(way: Way, say: Callable[[str], object]) -> AbstractContextManager[IngestPath]:
    return running_path(way.directory, interval=way.interval, say=say)


def _require_right(runs: Sequence[Run]) -> None:
    for run in runs:
        if not run.is_complete:
            raise FreshnessError(
                f"at {run.rate} trades a second {run.produced} were produced, {run.visible} are "
                f"visible; {run.dead_letters} dead letters, {run.latency.unseen} markers not seen"
            )
        for settling in run.settlings:
            if settling.error:
                raise FreshnessError(f"at {run.rate} trades a second {settling.error}")


def _require_plot() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise FreshnessError("the plot needs matplotlib; install it with pip install 'k2[bench]'")
