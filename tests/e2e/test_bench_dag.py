"""A small run of the DAG's benchmark: everything really runs and is measured. No figure is judged.

The plain run takes minutes whatever its size: of it, `tests/dags/test_plain_medallion.py` has the
DAG, and `tests/integration/test_bench_offload.py` the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.stack_folder import stack_folder

pytest.importorskip("matplotlib")

from k2.bench.dag.measure import K2, fill, measure_run, prepare
from k2.bench.dag.pair import Pair, measure_pair
from k2.bench.dag.spans import BETWEEN, DagRun, breakdown
from k2.embedded.stack import running_engines
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TRADES = {"binance": 3_000, "kraken": 500}


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Pair, DagRun]]:
    """A pair of offloads, and a run of the DAG after the same trades came once more."""
    with pytest.MonkeyPatch.context() as patch, stack_folder() as directory:
        for service in ("CLICKHOUSE", "POSTGRES", "AIRFLOW"):
            patch.setenv(f"K2_{service}_PORT", "0")
        with running_engines(directory, print) as stack:
            prepare(stack, print)
            fill(stack, TRADES, print)
            pair = measure_pair(stack)
            yield pair, measure_run(stack, K2, TRADES, print, warm_up=False)


def test_both_tables_are_offloaded_in_turn_and_at_once(measured: tuple[Pair, DagRun]) -> None:
    pair, _ = measured
    assert pair.rows == TRADES["binance"] + sum(TRADES.values())
    assert min(pair.in_turn_seconds, pair.at_once_seconds) > 0
    assert min(pair.in_turn_cpu_seconds, pair.at_once_cpu_seconds) > 0


def test_a_run_brings_all_rows_of_all_tables_to_iceberg(measured: tuple[Pair, DagRun]) -> None:
    _, run = measured
    bronze, silver = 2 * sum(TRADES.values()), sum(TRADES.values())
    assert run.rows > bronze + silver


def test_every_task_of_it_is_in_its_seconds(measured: tuple[Pair, DagRun]) -> None:
    _, run = measured
    labels = sorted(task.label for task in run.tasks if task.kind == "offload")
    assert labels == sorted(table.name for table in registry().tables)
    assert all(0 <= task.began < task.ended <= run.seconds for task in run.tasks)
    assert set(breakdown(run)) == {"dbt", "offload", "audit", "retention", BETWEEN}
