"""The DAG of the maintenance: a job for each table of the registry, beside the offloads."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from k2.registry import registry

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=str(PROJECT / "dags" / "maintenance.py"))
    assert bag.import_errors == {}
    return bag.dags["maintenance"]


@pytest.fixture
def options(dag: Any) -> Any:
    return dag.task_dict["maintain"].partial_kwargs


def test_every_table_of_the_registry_has_its_job(dag: Any) -> None:
    (task,) = dag.tasks
    arguments = task.expand_input.value["application_args"]
    assert arguments == [[table.name] for table in registry().tables]
    assert len(arguments) == 9


def test_a_job_is_named_after_its_table(dag: Any, options: Any) -> None:
    template = dag.get_template_env().from_string(options["map_index_template"])
    context = {"task": SimpleNamespace(application_args=["ohlcv_1m"])}
    assert template.render(context) == "ohlcv_1m"


def test_it_runs_the_job_of_the_command(options: Any) -> None:
    from k2.jobs import MAINTAIN

    assert Path(options["application"]) == PROJECT / "include" / "k2" / "jobs" / MAINTAIN.name
    assert Path(options["application"]).is_file()
    assert options["conn_id"] == "spark_default"


def test_it_takes_one_place_of_the_offloads_at_a_time(options: Any) -> None:
    assert options["pool"] == "offload"
    assert options["max_active_tis_per_dag"] == 1


def test_it_runs_once_a_day_one_at_a_time_without_catching_up(dag: Any) -> None:
    assert dag.schedule == "30 1 * * *"
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.start_date.utcoffset() == dt.timedelta(0)


def test_a_job_is_tried_again_within_a_limit_of_time(dag: Any) -> None:
    (task,) = dag.tasks
    assert task.retries >= 1
    assert dt.timedelta(0) < task.retry_delay < task.max_retry_delay
    assert dt.timedelta(0) < task.execution_timeout < dt.timedelta(days=1)


def test_it_says_what_it_does_and_is_found_by_tags(dag: Any) -> None:
    assert dag.tags >= {"k2", "maintenance"}
    for step in ("retention", "compaction", "expiry", "manifests", "orphans", "cleared"):
        assert step in dag.doc_md
