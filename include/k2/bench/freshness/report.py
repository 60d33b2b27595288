"""What the freshness benchmark found: a JSON file, a plot, and a section of docs/benchmarks.md.

Runs and search are kept side by side, each with its date and machine, so that one can be measured
without the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from k2.bench.freshness.search import holds
from k2.bench.freshness.usage import MACHINE
from k2.bench.page import table, where, write_section

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from k2.bench.freshness.plan import Run
    from k2.bench.freshness.search import Highest

_LATENCY_COLUMNS: Final = ("p50 ms", "p99 ms", "maximum ms")
_RUN_COLUMNS: Final = (
    "trades/s",
    "minutes",
    "measured",
    *_LATENCY_COLUMNS,
    "produced",
    "visible",
    "most parts",
    "cores: ClickHouse",
    "ingest",
    "broker",
    "busiest candle ms",
)
_STEP_COLUMNS: Final = (
    "trades/s",
    "seconds",
    "produced/s",
    *_LATENCY_COLUMNS,
    "holds",
    "cores: ClickHouse",
    "ingest",
    "broker",
    "producer",
    "machine",
)
JSON_NAME, PLOT_NAME = "freshness.json", "freshness.png"


def measured_runs(runs: Sequence[Run], measurement: dict[str, Any]) -> dict[str, Any]:
    """Runs as a document; `measurement` is its head."""
    return {**measurement, "runs": [_document(run, series=True) for run in runs]}


def measured_highest(highest: Highest, measurement: dict[str, Any]) -> dict[str, Any]:
    """A search as a document; `measurement` is its head."""
    return {
        **measurement,
        "rate": str(highest.rate) if highest.rate else None,
        "limited_by": highest.limited_by,
        "runs": [_document(run, series=False) for run in highest.runs],
    }


def write_report(output: Path, **measured: dict[str, Any]) -> None:
    """Write what was measured, `runs` or `highest`, into a directory; the other part stays.

    `output` gets the JSON file and the plot; the page beside it, `{output}.md`, gets its section
    made anew.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / JSON_NAME
    document = json.loads(path.read_text()) if path.exists() else {}
    document |= measured
    if "runs" in measured:
        from k2.bench.freshness.plot import plot

        plot(document["runs"]["runs"], output / PLOT_NAME)
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    write_section(output, "k2 bench freshness", _section(document, output))


def _section(document: dict[str, Any], output: Path) -> Iterable[str]:
    yield "## Freshness"
    yield ""
    yield "From the produce call until the trade is in `ohlcv_1m_view`: broker, `k2 ingest`,"
    yield "Bronze, Silver, `ohlcv_live`, the view; dbt settles meanwhile."
    if "runs" in document:
        yield from _runs_section(document["runs"], output)
    if "highest" in document:
        yield from _highest_section(document["highest"])


def _runs_section(part: dict[str, Any], output: Path) -> Iterable[str]:
    runs = part["runs"]
    yield ""
    yield where(part)
    yield ""
    yield from table(
        _RUN_COLUMNS,
        (_row(run) for run in runs),
    )
    yield ""
    yield (
        f"A look at the view takes {runs[0]['read_ms']} ms and comes every "
        f"{runs[0]['look_ms']} ms: that is the resolution, and part of what is measured. "
        "*Most parts* are those of Bronze of Binance, of Kraken, of Silver and of `ohlcv_live`. "
        "The first "
        f"{runs[0]['plan']['warm_up']:.0f} s are not measured, but are in the totals. "
        "*Busiest candle* is how long a reader waits for the open candle of BTC/USDT (median)."
    )
    yield ""
    for run in runs:
        for one in run["settlings"]:
            yield (
                f"- {run['rate']}: settling began at second {one['began']:.0f} and took "
                f"{one['ended'] - one['began']:.0f} s{_outcome(one)}"
            )
    yield ""
    yield f"![Latency, parts and processor time over time]({output.name}/{PLOT_NAME})"


def _highest_section(part: dict[str, Any]) -> Iterable[str]:
    yield ""
    yield "### The highest rate that holds"
    yield ""
    yield (
        f"**{part['rate'] or 'none'}** trades a second: p99 at most 500 ms, also of the last "
        f"quarter. What limits it: {part['limited_by']}."
    )
    yield ""
    yield where(part)
    yield ""
    yield from table(
        _STEP_COLUMNS,
        (
            [
                run["rate"],
                f"{run['plan']['seconds']:.0f}",
                f"{run['produced_rate']:,}",
                *(run["latency"][name] for name in ("p50", "p99", "maximum")),
                "yes" if run["holds"] else "no",
                *_cores(run, "clickhouse", "ingest", "broker", "producer", MACHINE),
            ]
            for run in part["runs"]
        ),
    )


def _outcome(settling: dict[str, Any]) -> str:
    return f"; it failed: {settling['error']}" if settling["error"] else ""


def _row(run: dict[str, Any]) -> list[Any]:
    parts = run["samples"]["parts"].values()
    return [
        run["rate"],
        f"{run['plan']['seconds'] / 60:g}",
        f"{run['latency']['measured']:,}",
        *(run["latency"][name] for name in ("p50", "p99", "maximum")),
        f"{sum(run['produced'].values()):,}",
        f"{sum(run['visible'].values()):,}",
        " / ".join(str(max(one)) for one in parts),
        *_cores(run, "clickhouse", "ingest", "broker"),
        _median(run["samples"]["newest_ms"]),
    ]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None


def _cores(run: dict[str, Any], *names: str) -> list[str]:
    return [f"{run['cores'].get(name, 0.0):.2f}" for name in names]


def _document(run: Run, *, series: bool) -> dict[str, Any]:
    document = {
        **asdict(run),
        "rate": str(run.rate),
        "cores": run.cores(),
        "holds": holds(run),
    }
    for name in ("series", "samples"):
        del document[name]
    if series:
        document["series"] = _columns([{"second": s} | asdict(one) for s, one in run.series])
        document["samples"] = _columns([asdict(sample) for sample in run.samples])
    return document


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a list for each column; what is nested becomes nested columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: _columns([row[name] for row in rows])
        if isinstance(rows[0].get(name), dict)
        else [row.get(name) for row in rows]
        for name in names
    }
