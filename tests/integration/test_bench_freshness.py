"""A short run of the freshness benchmark, on a real broker, `k2 ingest`, ClickHouse and dbt."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

pytest.importorskip("matplotlib")

from k2.bench.freshness.measure import COLUMNS, Way, measure_rates, summary
from k2.bench.freshness.plan import Plan, Rate, Run

if TYPE_CHECKING:
    from pathlib import Path

RATE = Rate(200, 20)
SECONDS = 10.0


@dataclass(frozen=True)
class Measured:
    run: Run
    state: Path
    output: Path
    said: list[str]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """One run, into a page that had words of its own before."""
    directory = tmp_path_factory.mktemp("freshness")
    output = directory / "docs" / "benchmarks"
    output.parent.mkdir()
    output.with_name("benchmarks.md").write_text("# Benchmarks\n\nOther figures.\n")
    said: list[str] = []
    (run,) = measure_rates(
        Way(directory / "state", output),
        [RATE],
        Plan(SECONDS, warm_up=2.0),
        now=lambda: dt.datetime.now(dt.UTC),
        say=said.append,
    )
    return Measured(run, directory / "state", output, said)


def test_every_trade_that_was_produced_is_visible_once(measured: Measured) -> None:
    run = measured.run
    assert sum(run.produced.values()) > RATE.total * SECONDS / 2
    assert run.visible == run.produced
    assert run.dead_letters == 0


def test_every_marker_of_both_exchanges_is_measured(measured: Measured) -> None:
    run = measured.run
    assert run.latency.unseen == 0
    assert run.latency.measured == sum(one.measured for one in run.by_exchange.values())
    for one in run.by_exchange.values():
        assert one.measured > 0
        assert one.p50 is not None
        assert one.p99 is not None
        assert one.maximum is not None
        assert 0 < one.p50 <= one.p99 <= one.maximum


def test_dbt_has_settled_meanwhile(measured: Measured) -> None:
    (settling,) = measured.run.settlings
    assert settling.error is None
    assert settling.ended > settling.began >= SECONDS / 2


def test_parts_and_processor_time_are_there_for_the_whole_run(measured: Measured) -> None:
    last = measured.run.samples[-1]
    assert last.second >= SECONDS
    assert all(count > 0 for count in last.parts.values())
    for name in ("clickhouse", "broker", "ingest", "producer", "reader", "machine"):
        assert max(one.cpu_seconds.get(name, 0.0) for one in measured.run.samples) > 0, name


def test_the_report_has_figures_plot_and_series(measured: Measured) -> None:
    document = json.loads((measured.output / "freshness.json").read_text())
    (run,) = document["runs"]["runs"]
    assert run["latency"]["measured"] == measured.run.latency.measured
    assert len(run["series"]["second"]) == len(run["series"]["p99"])
    assert len(run["samples"]["second"]) == len(run["samples"]["parts"]["silver_trades"])
    assert (measured.output / "freshness.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_keeps_its_other_words(measured: Measured) -> None:
    text = measured.output.with_name("benchmarks.md").read_text()
    assert text.startswith("# Benchmarks\n\nOther figures.\n")
    assert "| 200 + 20 |" in text
    assert "benchmarks/freshness.png" in text


def test_the_summary_has_a_value_for_each_column(measured: Measured) -> None:
    (row,) = summary([measured.run])
    assert len(row) == len(COLUMNS)


def test_nothing_is_left_running_and_no_data_either(measured: Measured) -> None:
    state = str(measured.state)
    left = [one for one in psutil.process_iter(["cmdline"]) if state in str(one.info["cmdline"])]
    assert not left
    assert not (measured.state / "clickhouse").exists()
    assert not (measured.state / "broker" / "data").exists()
