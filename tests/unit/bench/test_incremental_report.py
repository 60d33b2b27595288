"""What the incremental benchmark makes of its offloads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from k2.bench.incremental.measure import STEPS, Measured, read_log
from k2.bench.incremental.report import COLUMNS, ratios, steps, summary, write_report

if TYPE_CHECKING:
    from pathlib import Path

LOG = """\
timestamp=2026-05-04T03:02:01Z level=info event=planned table=t batch=a rows=70 seconds=0.5 \
rows_per_second=140
timestamp=2026-05-04T03:02:02Z level=info event=planned table=t batch=b rows=30 seconds=0.25 \
rows_per_second=120
timestamp=2026-05-04T03:02:03Z level=info event=offloaded table=t batches=2 rows=100 seconds=1.5
"""


def offload(trades: int, run: float, *, table: str = "silver_trades", read: int = 100) -> Measured:
    taken = dict.fromkeys(STEPS, run / 8)
    return Measured(table, trades, trades, 20, read, taken, run, run + 2, 1.0, 100.0)


OFFLOADS = [
    offload(1_000, 1.0),
    offload(1_000, 1.0, table="ohlcv_1m"),
    offload(40_000, 1.1, read=150),
    offload(40_000, 2.0, table="ohlcv_1m"),
    offload(1_000, 3.0),
    offload(1_000, 1.0),
    offload(40_000, 1.5, read=150),
]


def test_a_table_of_a_size_is_the_median_of_its_offloads_with_lowest_and_highest() -> None:
    first, second, *_ = (dict(zip(COLUMNS, row, strict=True)) for row in summary(OFFLOADS))
    assert (first["table"], first["trades before"]) == ("silver_trades", 1_000)
    assert (first["run s"], first["lowest"], first["highest"], first["job s"]) == (1, 1, 3, 3)
    assert (second["table"], second["trades before"]) == ("silver_trades", 40_000)


def test_what_no_step_logs_is_the_looking() -> None:
    assert steps(OFFLOADS)[0] == ["silver_trades", 1_000, 0.5, *[0.12] * len(STEPS)]


def test_ratios_compare_the_largest_with_the_smallest() -> None:
    assert ratios(OFFLOADS) == [
        ["silver_trades", "1.30", "1.10", "1.50", "at most 1.2"],
        ["ohlcv_1m", "2.00", "1.33", "1.00", "at most 1.2"],
    ]


def test_the_log_of_a_job_is_added_up_over_its_batches() -> None:
    rows, seconds = read_log(LOG)
    assert (rows["planned"], rows["offloaded"]) == (100, 100)
    assert (seconds["planned"], seconds["verified"], seconds["offloaded"]) == (0.75, 0, 1.5)


def test_the_report_is_a_section_and_the_offloads(tmp_path: Path) -> None:
    head = {
        "measured_at": "2026-05-04 03:02 UTC",
        "command": "k2 bench incremental --repeat 2",
        "machine": dict.fromkeys(("cpu", "cores", "memory_gb", "system", "load_before"), "some"),
    }
    write_report(tmp_path / "benchmarks", OFFLOADS, head)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "by `k2 bench incremental --repeat 2` on" in page
    assert "| ohlcv_1m | 2.00 | 1.33 | 1.00 | at most 1.2 |" in page
    written = json.loads((tmp_path / "benchmarks" / "incremental.json").read_text())
    assert len(written["offloads"]) == len(OFFLOADS)
