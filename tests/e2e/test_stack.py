"""The whole stack as a user runs it: the demo, then the stack with its UI, fed once more."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import psycopg
import pytest

from k2 import airflow_client
from k2.assets import asset_of
from k2.bench.dag.measure import K2, read_run
from k2.bench.dag.spans import BETWEEN, DagRun, breakdown
from k2.bench.lake import require_all_rows
from k2.embedded.state import running_owner
from k2.registry import Layer, registry

from .archives import COLUMNS, Archives, archives, binance_trades, candles, kraken_trades
from .user import TABLES

if TYPE_CHECKING:
    import subprocess

    from .user import User

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TIMEFRAMES = ("1m", "5m", "15m", "30m", "1h", "1d")


@dataclass(frozen=True)
class Story:
    """What was seen on the way."""

    archives: Archives
    demo: list[dict[str, Any]]
    candles: dict[tuple[str, str], list[list[Any]]]
    before: dict[str, Any]
    lake_before: dict[str, tuple[int, int]]
    again: dict[str, Any]
    lake_again: dict[str, tuple[int, int]]
    measured: DagRun
    told: dict[str, list[dict[str, Any]]]
    cleared: dict[str, Any]
    lake_cleared: dict[str, tuple[int, int]]
    second_stack: subprocess.CompletedProcess[str]
    status: list[dict[str, Any]]
    doctor: dict[str, dict[str, str]]
    doctor_without_pool: dict[str, dict[str, str]]
    page: str
    page_without_login: int
    listening: set[tuple[str, int]]
    ports: tuple[int, int]
    leaks: list[str]
    asset_events: list[str]
    left_running: list[str]
    owner_after: int | None


@pytest.fixture(scope="module")
def story(user: User, tmp_path_factory: pytest.TempPathFactory) -> Story:
    given = archives(tmp_path_factory.mktemp("archives"))
    demo = json.loads(user.must("demo", "--json", *given.arguments))
    with user.stack() as up:
        before, lake_before = user.contents(), user.lake()
        found = {
            (exchange, timeframe): user.rows(
                f"select window_start, {COLUMNS} from k2.ohlcv_{timeframe}_view"
                f" where exchange = '{exchange}' order by window_start"
            )
            for exchange in ("binance", "kraken")
            for timeframe in TIMEFRAMES
        }
        user.must("replay", *given.arguments)
        run = user.airflow().trigger("medallion")
        _require_success(user.airflow(), run)
        again, lake_again = user.contents(), user.lake()
        measured = read_run(user.airflow(), K2, run, require_all_rows(user.settings, TABLES))
        told = _told(user.airflow(), run)
        user.airflow().clear("medallion", run)
        _require_success(user.airflow(), run)
        return Story(
            archives=given,
            demo=demo,
            candles=found,
            before=before,
            lake_before=lake_before,
            again=again,
            lake_again=lake_again,
            measured=measured,
            told=told,
            cleared=user.contents(),
            lake_cleared=user.lake(),
            second_stack=user.run("up"),
            status=json.loads(user.must("status", "--json")),
            doctor=_doctor(user),
            doctor_without_pool=_doctor_without_pool(user),
            page=user.airflow().client.get("/k2/tables").text,
            page_without_login=httpx.get(f"{user.airflow().client.base_url}/k2/tables").status_code,
            listening=_listening(user),
            ports=(user.state.clickhouse_port, user.state.airflow_port),
            leaks=_leaks(user),
            asset_events=_asset_events(user.airflow()),
            **_stop(user, up),
        )


def test_the_demo_ends_with_nine_equal_tables(story: Story) -> None:
    assert [table["table"] for table in story.demo] == TABLES
    assert all(table["equal"] for table in story.demo)
    assert all(table["clickhouse_rows"] == table["iceberg_rows"] > 0 for table in story.demo)


def test_every_trade_of_the_archives_is_in_bronze_and_silver_once(story: Story) -> None:
    binance = len(binance_trades(story.archives.binance))
    kraken = len(kraken_trades(story.archives.kraken))
    rows = {table["table"]: table["clickhouse_rows"] for table in story.demo}
    assert rows["bronze_trades_binance"] == binance
    assert rows["bronze_trades_kraken"] == kraken
    assert rows["silver_trades"] == binance + kraken


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_candles_are_those_of_pandas(story: Story, timeframe: str) -> None:
    binance = binance_trades(story.archives.binance)
    kraken = kraken_trades(story.archives.kraken)
    assert story.candles["binance", timeframe] == candles(binance, timeframe)
    assert story.candles["kraken", timeframe] == candles(kraken, timeframe)


def test_the_same_trades_fed_again_are_messages_but_no_trades(story: Story) -> None:
    unchanged = [table for table in TABLES if not table.startswith("bronze")]
    assert {t: story.again[t] for t in unchanged} == {t: story.before[t] for t in unchanged}
    assert {t: story.lake_again[t] for t in unchanged} == {
        t: story.lake_before[t] for t in unchanged
    }
    for bronze in set(TABLES) - set(unchanged):
        (((before, _),), ((again, _),)) = story.before[bronze], story.again[bronze]
        assert again == 2 * before == story.lake_again[bronze][0]


def test_clearing_every_task_changes_no_row_and_adds_no_snapshot(story: Story) -> None:
    assert story.cleared == story.again
    assert story.lake_cleared == story.lake_again


def test_the_doctor_finds_nothing_that_has_failed(story: Story) -> None:
    assert [one for one in story.doctor.values() if one["outcome"] == "failed"] == []
    unchecked = [name for name, one in story.doctor.items() if one["outcome"] == "not checked"]
    assert unchecked == ["lake by spark"]
    assert story.doctor["spark connection"]["found"] == "local[2], of AIRFLOW_CONN_SPARK_DEFAULT"
    assert story.doctor["offload pool"]["found"] == "'offload', 2 slots"
    assert "scheduler" in story.doctor["airflow services"]["found"]


def test_the_doctor_finds_what_is_taken_away_from_airflow(story: Story) -> None:
    broken = story.doctor_without_pool
    assert [name for name, one in broken.items() if one["outcome"] == "failed"] == ["offload pool"]
    assert "no offload would ever start" in broken["offload pool"]["found"]
    assert broken["dags"]["outcome"] == "warning"
    assert "medallion paused" in broken["dags"]["found"]


def test_a_second_stack_on_the_same_state_is_refused_in_one_line(story: Story) -> None:
    assert story.second_stack.returncode == 1
    assert story.second_stack.stderr.startswith("error: a stack is already running")
    assert "Traceback" not in story.second_stack.stderr


def test_status_shows_that_nothing_waits(story: Story) -> None:
    assert [table["table"] for table in story.status] == TABLES
    assert all(table["lag_rows"] == 0 and table["watermark"] for table in story.status)


def test_the_ui_shows_every_table_to_those_who_are_logged_in(story: Story) -> None:
    assert all(table in story.page for table in TABLES)
    assert story.page_without_login == httpx.codes.UNAUTHORIZED


def test_everything_listens_on_loopback_only(story: Story) -> None:
    assert {address for address, _ in story.listening} == {"127.0.0.1"}
    assert {port for _, port in story.listening} >= set(story.ports)


def test_no_password_is_in_an_argument_a_log_or_a_rendered_template(story: Story) -> None:
    assert story.leaks == []


def test_each_offload_has_updated_the_asset_of_its_table(story: Story) -> None:
    runs = 3
    assert sorted(story.asset_events) == sorted([asset_of(table).uri for table in TABLES] * runs)


def test_each_offload_tells_the_ui_what_it_moved(story: Story) -> None:
    moved = {table: sum(batch["rows"] for batch in told) for table, told in story.told.items()}
    new = {name: story.lake_again[name][0] - rows for name, (rows, _) in story.lake_before.items()}
    assert moved == new
    assert moved["bronze_trades_kraken"] > 0
    for batch in story.told["bronze_trades_kraken"]:
        assert set(batch["step_seconds"]) == {"planned", "unloaded", "verified", "committed"}


def test_down_leaves_no_process_behind(story: Story) -> None:
    assert story.left_running == []
    assert story.owner_after is None


def test_a_run_is_measured_as_airflow_recorded_it(story: Story) -> None:
    run = story.measured
    labels = sorted(task.label for task in run.tasks if task.kind == "offload")
    assert labels == sorted(TABLES)
    assert all(0 <= task.began < task.ended <= run.seconds for task in run.tasks)
    assert set(breakdown(run)) == {"dbt", "offload", "audit", "retention", BETWEEN}
    assert run.rows == sum(rows for rows, _ in story.lake_again.values())


def _require_success(airflow: airflow_client.Airflow, run: str) -> None:
    last = list(airflow_client.follow(airflow, "medallion", run))[-1]
    assert last.state == "success"


def _leaks(user: User) -> list[str]:
    """Where a password of the stack stands: in arguments, logs, or what Airflow has rendered."""
    state = asdict(user.state)
    secrets = {state[name] for name in state if not name.endswith("_port") and name != "lake"}
    texts = {}
    for process in user.processes():
        with suppress(psutil.NoSuchProcess):
            texts[str(process)] = " ".join(process.cmdline())
    for folder in ("logs", "airflow/logs", "dbt"):
        for file in user.directory.glob(f"{folder}/**/*"):
            if file.is_file():
                texts[str(file)] = file.read_text(errors="replace")
    with psycopg.connect(user.settings.postgres.conninfo("airflow")) as connection:
        for task, fields in connection.execute(
            "select task_id, rendered_fields from rendered_task_instance_fields"
        ):
            texts[f"rendered {task}"] = str(fields)
    assert {"rendered gold.dbt", "rendered gold.offload"} <= set(texts)
    assert any(name.endswith("dbt.log") for name in texts)
    return sorted(name for name, text in texts.items() if any(each in text for each in secrets))


def _listening(user: User) -> set[tuple[str, int]]:
    """Addresses and ports; Airflow's servers hide their environment, so the ports tell them."""
    own = {process.pid for process in user.processes()}
    ports = {user.state.clickhouse_port, user.state.airflow_port}
    return {
        tuple(each.laddr)
        for each in psutil.net_connections("inet")
        if each.status == psutil.CONN_LISTEN and (each.pid in own or each.laddr.port in ports)
    }


def _told(airflow: airflow_client.Airflow, run: str) -> dict[str, list[dict[str, Any]]]:
    """The XCom of each offload of a run, by table."""
    told = {}
    for layer in Layer:
        for number, table in enumerate(registry().layer(layer)):
            answer = airflow.client.get(
                f"/api/v2/dags/medallion/dagRuns/{run}/taskInstances/{layer.value}.offload"
                "/xcomEntries/offloaded",
                params={"map_index": number, "deserialize": True},
            )
            answer.raise_for_status()
            told[table.name] = answer.json()["value"]
    return told


def _asset_events(airflow: airflow_client.Airflow) -> list[str]:
    """The asset of each event."""
    answer = airflow.client.get("/api/v2/assets/events", params={"limit": 100})
    answer.raise_for_status()
    return [event["uri"] for event in answer.json()["asset_events"]]


def _doctor(user: User) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json.loads(user.run("doctor", "--json").stdout)}


def _doctor_without_pool(user: User) -> dict[str, dict[str, str]]:
    """What it says with the pool renamed and the DAG paused; afterwards all is as before."""
    conninfo = user.settings.postgres.conninfo("airflow")
    with psycopg.connect(conninfo, autocommit=True) as airflow:
        airflow.execute("update slot_pool set pool = 'other' where pool = 'offload'")
        airflow.execute("update dag set is_paused = true where dag_id = 'medallion'")
        found = _doctor(user)
        airflow.execute("update slot_pool set pool = 'offload' where pool = 'other'")
        airflow.execute("update dag set is_paused = false where dag_id = 'medallion'")
    return found


def _stop(user: User, up: subprocess.Popen[str]) -> dict[str, Any]:
    user.must("down")
    up.wait(timeout=60)
    deadline = time.monotonic() + 10
    while user.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    return {
        "left_running": [" ".join(process.cmdline()) for process in user.processes()],
        "owner_after": running_owner(user.directory),
    }
