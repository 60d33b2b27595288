"""The baseline of `k2 bench dag`: the shape of the medallion, and in nobody's list of DAGs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from k2.bench.dag import plain
from k2.bench.dag.measure import PLAIN
from k2.registry import Layer, registry
from k2.transform import DBT_PROJECT, build_layer

FOLDERS = {
    "plain": Path(plain.__file__).parent,
    "own": Path(__file__).resolve().parents[2] / "dags",
}
LAYERS = [layer.value for layer in Layer]
TABLES = [table.name for table in registry().tables]


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG that is measured and the one of users, each from its folder."""
    queries = tmp_path_factory.mktemp("queries") / "queries.json"
    queries.write_text(json.dumps({name: f"select * from {name}" for name in TABLES}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("K2_BENCH_QUERIES", str(queries))
        from airflow.dag_processing.dagbag import DagBag

        found = {name: DagBag(dag_folder=str(path)) for name, path in FOLDERS.items()}
    assert all(bag.import_errors == {} for bag in found.values())
    return {name: bag.dags for name, bag in found.items()}


def test_its_folder_holds_it_alone_and_the_users_folder_does_not(bags: dict[str, Any]) -> None:
    assert list(bags["plain"]) == [PLAIN.dag]
    assert PLAIN.dag not in bags["own"]


def test_its_dbt_builds_the_layers_as_the_medallions_does(bags: dict[str, Any]) -> None:
    for layer in LAYERS:
        task = bags["plain"][PLAIN.dag].task_dict[f"{layer}.dbt"]
        assert task.bash_command == f"dbt {' '.join(build_layer(layer))}"
        assert Path(task.cwd) == DBT_PROJECT


def test_it_offloads_every_table_two_at_a_time_over_jdbc(bags: dict[str, Any]) -> None:
    offloads = [bags["plain"][PLAIN.dag].task_dict[f"{layer}.offload"] for layer in LAYERS]
    given = [one.expand_input.value["application_args"] for one in offloads]
    assert [tuple(pair) for layer in given for pair in layer] == [
        (name, f"select * from {name}") for name in TABLES
    ]
    for one in offloads:
        assert one.partial_kwargs["pool"] == "offload"
        assert Path(one.partial_kwargs["application"]).is_file()


def test_a_layer_begins_when_the_one_before_it_is_offloaded(bags: dict[str, Any]) -> None:
    dag = bags["plain"][PLAIN.dag]
    upstream = [dag.task_dict[f"{layer}.dbt"].upstream_task_ids for layer in LAYERS]
    assert upstream == [set(), {"bronze.offload"}, {"silver.offload"}]
    for layer in LAYERS:
        assert dag.task_dict[f"{layer}.offload"].upstream_task_ids == {f"{layer}.dbt"}
