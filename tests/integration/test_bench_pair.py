"""A short run of `k2 bench dag` without Airflow: two tables offloaded. No figure is judged.

The run of the DAG is measured in `tests/e2e/test_stack.py`, the plain DAG is looked at in
`tests/dags/test_plain_medallion.py`, its job runs in `tests/integration/test_bench_offload.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stack_folder import stack_folder

from k2.bench.dag.measure import PLAIN, fill, prepare
from k2.bench.dag.pair import measure_pair
from k2.clickhouse import connect
from k2.embedded.stack import running_engines
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.embedded.stack import Stack

TRADES = {"binance": 3_000, "kraken": 500}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Engines with trades in Bronze and Silver."""
    with pytest.MonkeyPatch.context() as patch, stack_folder() as directory:
        for service in ("CLICKHOUSE", "POSTGRES", "AIRFLOW"):
            patch.setenv(f"K2_{service}_PORT", "0")
        with running_engines(directory, print) as running:
            prepare(running, print)
            fill(running, TRADES, print)
            yield running


def test_both_tables_are_offloaded_in_turn_and_at_once(stack: Stack) -> None:
    pair = measure_pair(stack)
    assert pair.rows == TRADES["binance"] + sum(TRADES.values())
    assert min(pair.in_turn_seconds, pair.at_once_seconds) > 0
    assert min(pair.in_turn_cpu_seconds, pair.at_once_cpu_seconds) > 0


def test_the_plain_run_takes_all_rows_of_every_table(stack: Stack) -> None:
    queries = json.loads(Path(PLAIN.variables(stack)["K2_BENCH_QUERIES"]).read_text())
    assert list(queries) == [table.name for table in registry().tables]
    with connect(stack.settings.clickhouse) as client:
        rows = {
            table: client.query(f"select count() from ({query})").result_rows[0][0]
            for table, query in queries.items()
        }
    assert (rows["bronze_trades_binance"], rows["bronze_trades_kraken"]) == (3_000, 500)
    assert rows["silver_trades"] == 3_500
