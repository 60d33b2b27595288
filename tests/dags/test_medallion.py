"""The DAG's integrity: it imports alone, and it is wired as the layers are."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k2.registry import Layer, registry

PROJECT = Path(__file__).resolve().parents[2]
DAGS = PROJECT / "dags"
LAYERS = [layer.value for layer in Layer]

# Parses the DAG files in a process in which no connection can be made, and tells what happened.
PARSE = """
import json, socket, sys, time

def refuse(*arguments, **options):
    raise OSError("parsing a DAG file opens no connection")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
started = time.process_time()
from airflow.dag_processing.dagbag import DagBag
import airflow.providers.apache.spark.operators.spark_submit
import airflow.providers.standard.operators.bash
import airflow.sdk
imported = time.process_time()
modules = set(sys.modules)
bag = DagBag(dag_folder=sys.argv[1])
print(json.dumps({
    "import_seconds": imported - started,
    "parse_seconds": time.process_time() - imported,
    "errors": bag.import_errors,
    "files": {dag_id: dag.fileloc for dag_id, dag in bag.dags.items()},
    "modules": sorted(sys.modules),
    "added": sorted(set(sys.modules) - modules),
}))
"""


def parse(script: str, home: Path, *arguments: str) -> Any:
    environment = {name: value for name, value in os.environ.items() if "AIRFLOW" not in name}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={
            **{name: value for name, value in environment.items() if not name.startswith("K2_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody@127.0.0.1:1/none",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process without network and database makes of the DAG folder."""
    result: dict[str, Any] = parse(PARSE, tmp_path_factory.mktemp("airflow"), str(DAGS))
    return result


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAG `medallion`, imported as a module: Airflow's settings play no part in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=str(DAGS / "medallion.py"))
    assert bag.import_errors == {}
    return bag.dags["medallion"]


# Parsing.


def test_it_parses_without_network_and_without_database(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}


def test_each_file_holds_one_dag_of_its_name(parsed: dict[str, Any]) -> None:
    files = {path.stem: str(path) for path in DAGS.glob("*.py")}
    assert parsed["files"] == files
    assert sorted(files) == ["maintenance", "medallion"]


@pytest.mark.parametrize(
    "module", ["pyspark", "clickhouse_connect", "pyiceberg", "pyarrow", "dbt", "pandas", "psycopg"]
)
def test_parsing_imports_nothing_heavy(parsed: dict[str, Any], module: str) -> None:
    heavy = [name for name in parsed["modules"] if name.split(".")[0] == module]
    assert heavy == []


def test_of_this_project_parsing_imports_only_what_wiring_needs(parsed: dict[str, Any]) -> None:
    own = {name for name in parsed["added"] if name.split(".")[0] == "k2"}
    assert own == {"k2", "k2.assets", "k2.errors", "k2.notifications", "k2.registry"}


def test_parsing_costs_less_than_importing_airflow(parsed: dict[str, Any]) -> None:
    assert parsed["parse_seconds"] < parsed["import_seconds"]


def test_the_order_of_tasks_is_the_same_at_every_parse(dag: Any) -> None:
    from airflow.dag_processing.dagbag import DagBag

    again = DagBag(dag_folder=str(DAGS / "medallion.py")).dags["medallion"]
    assert list(again.task_dict) == list(dag.task_dict)
    for task in dag.tasks:
        assert again.task_dict[task.task_id].downstream_task_ids == task.downstream_task_ids


# Tasks against the registry.


def test_each_layer_has_dbt_offloads_and_an_audit(dag: Any) -> None:
    assert sorted(dag.task_dict) == sorted(
        ["retention"]
        + [f"{layer}.{task}" for layer in LAYERS for task in ("dbt", "offload", "audit")]
    )


def test_every_table_of_the_registry_has_its_offload(dag: Any) -> None:
    mapped = {layer: tables_of(dag, layer) for layer in LAYERS}
    assert mapped == {
        layer.value: [table.name for table in registry().layer(layer)] for layer in Layer
    }
    assert sum(len(tables) for tables in mapped.values()) == 9


def tables_of(dag: Any, layer: str) -> list[str]:
    operator = dag.task_dict[f"{layer}.offload"]
    arguments = operator.expand_input.value["application_args"]
    assert all(len(one) == 1 for one in arguments)
    return [name for (name,) in arguments]


def test_an_offload_is_named_after_its_table(dag: Any) -> None:
    for layer in LAYERS:
        operator = dag.task_dict[f"{layer}.offload"]
        template = operator.partial_kwargs["map_index_template"]
        for name in tables_of(dag, layer):
            assert render(dag, template, application_args=[name]) == name


def render(dag: Any, template: str, **attributes: Any) -> str:
    from types import SimpleNamespace

    context = {"task": SimpleNamespace(**attributes)}
    text: str = dag.get_template_env().from_string(template).render(context)
    return text


def test_offloads_share_a_pool_and_run_the_job(dag: Any) -> None:
    for layer in LAYERS:
        options = dag.task_dict[f"{layer}.offload"].partial_kwargs
        assert options["pool"] == "offload"
        assert Path(options["application"]) == PROJECT / "include" / "k2" / "jobs" / "offload.py"
        assert Path(options["application"]).is_file()
        assert options["conn_id"] == "spark_default"


def test_dbt_builds_the_layer_it_is_named_after(dag: Any) -> None:
    for layer in LAYERS:
        assert list(dag.task_dict[f"{layer}.dbt"].op_args) == [layer]
        assert (PROJECT / "dbt_project" / "models" / layer).is_dir()


# Order.


def test_a_layer_begins_when_all_of_the_one_before_it_is_done(dag: Any) -> None:
    for position, layer in enumerate(LAYERS):
        before = {
            f"{earlier}.{task}"
            for earlier in LAYERS[:position]
            for task in ("dbt", "offload", "audit")
        }
        for task in ("dbt", "offload", "audit"):
            upstream = dag.task_dict[f"{layer}.{task}"].get_flat_relative_ids(upstream=True)
            assert before <= upstream


def test_in_a_layer_dbt_comes_before_the_offloads_and_the_audit_after_them(dag: Any) -> None:
    for layer in LAYERS:
        assert f"{layer}.dbt" in dag.task_dict[f"{layer}.offload"].upstream_task_ids
        assert f"{layer}.offload" in dag.task_dict[f"{layer}.audit"].upstream_task_ids


def test_an_offload_that_fails_stops_neither_the_audit_nor_the_next_layer(dag: Any) -> None:
    for position, layer in enumerate(LAYERS):
        audit = dag.task_dict[f"{layer}.audit"]
        assert audit.trigger_rule == "all_done_min_one_success"
        # Without the edge from dbt, no audit would follow when all offloads fail.
        assert audit.upstream_task_ids == {f"{layer}.dbt", f"{layer}.offload"}
        for later in LAYERS[position + 1 : position + 2]:
            assert dag.task_dict[f"{later}.dbt"].upstream_task_ids == {f"{layer}.audit"}


def test_everything_but_an_audit_needs_all_before_it_to_succeed(dag: Any) -> None:
    rules = {task.task_id: task.trigger_rule for task in dag.tasks}
    audits = {f"{layer}.audit" for layer in LAYERS}
    assert {rules[name] for name in set(rules) - audits} == {"all_success"}


def test_a_run_with_a_failed_offload_ends_as_failed_and_drops_nothing(dag: Any) -> None:
    (last,) = dag.leaves
    assert last.upstream_task_ids >= {f"{layer}.offload" for layer in LAYERS}
    assert last.trigger_rule == "all_success"


def test_only_bronze_begins_and_only_retention_ends(dag: Any) -> None:
    assert [task.task_id for task in dag.roots] == ["bronze.dbt"]
    assert [task.task_id for task in dag.leaves] == ["retention"]


def test_nothing_is_dropped_before_every_layer_is_built_and_audited(dag: Any) -> None:
    upstream = dag.task_dict["retention"].get_flat_relative_ids(upstream=True)
    assert upstream == set(dag.task_dict) - {"retention"}


def test_every_table_that_clickhouse_forgets_has_its_retention(dag: Any) -> None:
    operator = dag.task_dict["retention"]
    tables = operator.op_kwargs_expand_input.value["table"]
    assert tables == ["bronze_trades_binance", "bronze_trades_kraken", "silver_trades"]
    assert all(registry().table(name).retention_days for name in tables)
    template = operator.partial_kwargs["map_index_template"]
    for name in tables:
        unmapped = operator.unmap({"op_kwargs": {"table": name}})
        assert render(dag, template, op_kwargs=unmapped.op_kwargs) == name


# How it runs.


def test_it_runs_every_quarter_of_an_hour_one_at_a_time_without_catching_up(dag: Any) -> None:
    assert dag.schedule == "*/15 * * * *"
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.start_date.utcoffset() == dt.timedelta(0)


def test_every_task_is_tried_again_within_a_limit_of_time(dag: Any) -> None:
    for task in dag.tasks:
        assert task.retries >= 1
        assert task.execution_timeout > dt.timedelta(0)


def test_each_retry_waits_twice_as_long_as_the_one_before_it_up_to_a_limit(dag: Any) -> None:
    for task in dag.tasks:
        assert task.retry_delay > dt.timedelta(0)
        assert task.retry_exponential_backoff == 2.0
        assert task.retry_delay < task.max_retry_delay


def test_all_retries_together_wait_less_than_the_time_between_two_runs(dag: Any) -> None:
    for task in dag.tasks:
        # Airflow waits up to twice the delay, so that tasks that failed together come back apart.
        delays = [2 * task.retry_delay * 2.0**attempt for attempt in range(task.retries)]
        assert sum((min(delay, task.max_retry_delay) for delay in delays), dt.timedelta(0)) < (
            dt.timedelta(minutes=15)
        )


def test_every_task_that_fails_for_good_is_told(dag: Any) -> None:
    from k2.notifications import task_failed

    for task in dag.tasks:
        options = getattr(task, "partial_kwargs", None) or vars(task)
        callbacks = options["on_failure_callback"]
        # Of a task that is not mapped it is a list by now.
        assert callbacks in (task_failed, [task_failed])


def test_an_offload_updates_the_asset_of_its_table_and_tells_its_batches(
    dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from airflow.sdk.execution_time.context import OutletEventAccessors

    from k2 import assets
    from k2.assets import LAKE, asset_of

    # PostgreSQL has them; there is none here.
    monkeypatch.setattr(assets, "_batches_of_run", lambda table: [{"batch": table, "rows": 7}])
    updated = []
    for layer in LAYERS:
        operator = dag.task_dict[f"{layer}.offload"]
        assert operator.partial_kwargs["outlets"] == [LAKE]
        for name in tables_of(dag, layer):
            events = OutletEventAccessors()
            task = SimpleNamespace(application_args=[name])
            told: dict[str, Any] = {}
            ti = SimpleNamespace(xcom_push=lambda key, value: told.update({key: value}))  # noqa: B023
            context = {"task": task, "ti": ti, "outlet_events": events}
            operator.partial_kwargs["post_execute"](context, None)
            assert told == {"offloaded": [{"batch": name, "rows": 7}]}
            (event,) = events[LAKE].asset_alias_events
            assert event.dest_asset_key.uri == asset_of(name).uri
            assert event.extra == {"batches": 1, "rows": 7}
            updated.append(event.dest_asset_key.name)
    assert updated == [f"lake.cold.{table.name}" for table in registry().tables]


@pytest.mark.parametrize(
    ("minutes", "deadline"), [("", None), ("30", dt.timedelta(minutes=30))], ids=["off", "on"]
)
def test_a_run_has_a_deadline_where_one_is_asked_for(
    minutes: str, deadline: dt.timedelta | None
) -> None:
    from k2.notifications import run_deadline, run_late

    alert = run_deadline({"K2_DEADLINE_MINUTES": minutes})
    assert (alert.interval if alert else None) == deadline
    if alert:
        assert alert.callback.path == f"{run_late.__module__}.{run_late.__name__}"


def test_without_the_setting_there_is_no_deadline(dag: Any) -> None:
    assert dag.deadline is None


def test_it_says_what_it_does_and_is_found_by_tags(dag: Any) -> None:
    assert dag.tags >= {"k2", "offload"}
    for word in (*LAYERS, "dbt", "offload", "audit", "retention", "cleared"):
        assert word in dag.doc_md


def test_the_check_sees_broken_files_and_connections(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name, text in {
        "missing": "import no_such_module",
        "syntax": "def",
        "asking": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1/')",
    }.items():
        (tmp_path / f"{name}.py").write_text(f"from airflow.sdk import DAG\n{text}\n")
    errors = parse(PARSE, tmp_path_factory.mktemp("airflow"), str(tmp_path))["errors"]
    reasons = {Path(path).stem: reason for path, reason in errors.items()}
    assert sorted(reasons) == ["asking", "missing", "syntax"]
    assert "opens no connection" in reasons["asking"]


# Secrets.


def test_no_password_or_key_is_in_a_template_or_in_an_argument_of_spark_submit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for name in (
        "K2_CLICKHOUSE_PASSWORD",
        "K2_POSTGRES_PASSWORD",
        "K2_DBT_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.setenv(name, "canary")
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.connection import Connection
    from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook

    from k2.jobs import offload_command

    tasks = DagBag(dag_folder=str(DAGS / "medallion.py")).dags["medallion"].tasks
    texts = [
        repr(getattr(task, "partial_kwargs", None) or getattr(task, field, None))
        for task in tasks
        for field in task.template_fields
    ]
    assert repr(("gold",)) in texts
    assert any("offload.py" in text for text in texts)
    connection = Connection(conn_id="spark_default", conn_type="spark", host="local[2]")
    monkeypatch.setattr(SparkSubmitHook, "get_connection", lambda *_: connection)
    hook = SparkSubmitHook(application_args=["silver_trades"])
    texts += hook._build_spark_submit_command("offload.py")
    texts += offload_command("silver_trades", cores=1)
    assert "silver_trades" in texts
    assert not [text for text in texts if "canary" in text]
