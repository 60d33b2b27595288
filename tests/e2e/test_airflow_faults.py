"""What can happen to a task in Airflow: killed, stopped, cleared, marked, and an audit that fails.

Three runs of the DAG tell it. While drivers are held at the fault point `unloaded`, their intent is
written down and so are their files, and nothing is committed.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import pytest
from tests.webhook import Webhook

from k2.clickhouse import connect
from k2.notifications import WEBHOOK
from k2.offload import watermark
from k2.offload.audit import audit_table
from k2.registry import Layer, registry

from .ui import Seen, Task, Ui, wait_until

if TYPE_CHECKING:
    from k2.offload.audit import TableAudit

    from .user import User

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

BINANCE, KRAKEN, SILVER = "bronze_trades_binance", "bronze_trades_kraken", "silver_trades"
GOLD = [table.name for table in registry().layer(Layer.GOLD)]
OFFLOAD_BINANCE, OFFLOAD_KRAKEN = Task("bronze.offload", BINANCE), Task("bronze.offload", KRAKEN)
OFFLOAD_SILVER, AUDIT_SILVER = Task("silver.offload", SILVER), Task("silver.audit")
OFFLOADS = (OFFLOAD_BINANCE, OFFLOAD_KRAKEN, OFFLOAD_SILVER)
LAYER_TASKS = ("dbt", "offload", "audit")
LOG_POSITION = ("kafka_partition", "kafka_offset", "symbol", "sequence_number")
KEYS = {
    BINANCE: LOG_POSITION,
    KRAKEN: LOG_POSITION,
    SILVER: ("exchange", "canonical_symbol", "timestamp", "trade_id"),
}

DAYS = ("2024-11-20", "2024-11-21")
MIDNIGHTS = (1_732_060_800, 1_732_147_200)
TRADES_A_DAY = 20
FED_BINANCE = FED_KRAKEN = TRADES_A_DAY * len(DAYS)
# Kraken is fed again for the second run.
FED_KRAKEN_TWICE = 2 * FED_KRAKEN


@dataclass(frozen=True)
class Hold:
    """Where drivers wait at their fault point, until they are let go."""

    directory: Path

    @property
    def variable(self) -> str:
        return f"unloaded:pause:{self.directory}"

    def close(self) -> None:
        (self.directory / "go").unlink(missing_ok=True)

    def open(self) -> None:
        (self.directory / "go").touch()


@dataclass(frozen=True)
class FirstRun:
    """A driver is killed, a task is cleared while its driver works, others are marked wrongly."""

    ended: str
    killed: Seen
    cleared: Seen
    survivors_of_the_cleared: list[int]
    audits: dict[str, TableAudit]


@dataclass(frozen=True)
class SecondRun:
    """A column is retyped, a task is stopped while its driver works, Silver's audit finds more."""

    ended: str
    retyped: Seen
    retyped_log: str
    survivors_of_the_stopped: list[int]
    offloads: dict[Task, Seen]
    audit: Seen
    audit_log: str
    after_the_audit: set[str | None]
    cleared: dict[Task, Seen]
    snapshots: tuple[int, int]


@dataclass(frozen=True)
class Story:
    """What was seen on the way, and in the end, after a third run to which nothing happened."""

    first: FirstRun
    second: SecondRun
    ended: str
    audits: dict[str, TableAudit]
    keys: dict[str, tuple[int, int]]
    trades_in_candles: int
    posted: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(user: User, tmp_path_factory: pytest.TempPathFactory) -> Story:
    hold = Hold(tmp_path_factory.mktemp("hold"))
    archives = tmp_path_factory.mktemp("archives")
    with Webhook() as webhook:
        variables = {"K2_FAULT": hold.variable, WEBHOOK: webhook.address}
        return _tell(replace(user, variables=variables), hold, archives, webhook)


def _tell(user: User, hold: Hold, archives: Path, webhook: Webhook) -> Story:
    with user.stack():
        ui = Ui(user.airflow())
        told = Story(
            first=_first_run(user, ui, hold, archives),
            second=_second_run(user, ui, hold, archives),
            ended=ui.wait_for_run(ui.run()),
            audits=_audits(user),
            keys={table: _keys(user, table) for table in KEYS},
            trades_in_candles=_trades_in_candles(user),
            posted=webhook.posted,
        )
        user.must("down")
        return told


def _first_run(user: User, ui: Ui, hold: Hold, archives: Path) -> FirstRun:
    _feed(user, binance=_binance(archives), kraken=_kraken(archives, hour=0))
    run = ui.run()
    ui.mark(run, Task("gold.offload"), "success")

    killed, cleared = _held_drivers(user, BINANCE), _held_drivers(user, KRAKEN)
    os.killpg(os.getpgid(killed[0].pid), signal.SIGKILL)
    ui.clear(run, OFFLOAD_KRAKEN)
    survivors = _survivors(cleared)
    hold.open()
    ended = ui.wait_for_run(run)
    ui.mark(run, OFFLOAD_SILVER, "failed")
    return FirstRun(
        ended=ended,
        killed=ui.see(run, OFFLOAD_BINANCE),
        cleared=ui.see(run, OFFLOAD_KRAKEN),
        survivors_of_the_cleared=survivors,
        audits=_audits(user),
    )


def _second_run(user: User, ui: Ui, hold: Hold, archives: Path) -> SecondRun:
    _feed(user, kraken=_kraken(archives, hour=6))
    file = _first_file(user, SILVER, DAYS[0])
    content = file.read_bytes()
    pq.write_table(pq.ParquetFile(file).read().slice(1), file)
    _change_price(user, SILVER, DAYS[1], by="+ 1")
    _retype(user, BINANCE, "Decimal(20, 8)")

    hold.close()
    run = ui.run()
    stopped = _held_drivers(user, KRAKEN)
    ui.mark(run, OFFLOAD_KRAKEN, "failed")
    ui.wait_for(run, OFFLOAD_BINANCE, "up_for_retry")
    retyped = ui.see(run, OFFLOAD_BINANCE)
    _retype(user, BINANCE, "Decimal(18, 8)")
    survivors = _survivors(stopped)
    hold.open()
    ended = ui.wait_for_run(run)
    offloads = {task: ui.see(run, task) for task in OFFLOADS}
    audit = ui.see(run, AUDIT_SILVER)

    file.write_bytes(content)
    _change_price(user, SILVER, DAYS[1], by="- 1")
    snapshots = len(user.iceberg(BINANCE).snapshots())
    ui.clear(run, AUDIT_SILVER, OFFLOAD_BINANCE)
    ui.wait_for_run(run)
    return SecondRun(
        ended=ended,
        retyped=retyped,
        retyped_log=ui.log(run, OFFLOAD_BINANCE, retyped.attempts),
        survivors_of_the_stopped=survivors,
        offloads=offloads,
        audit=audit,
        audit_log=ui.log(run, AUDIT_SILVER, audit.attempts),
        after_the_audit=set.union(*(ui.states(run, f"gold.{task}") for task in LAYER_TASKS)),
        cleared={task: ui.see(run, task) for task in (AUDIT_SILVER, OFFLOAD_BINANCE)},
        snapshots=(snapshots, len(user.iceberg(BINANCE).snapshots())),
    )


# Killed.


def test_a_task_whose_driver_is_killed_is_tried_again_and_the_run_succeeds(story: Story) -> None:
    assert story.first.killed == Seen("success", attempts=2)
    assert story.first.ended == "success"


def test_after_a_kill_every_row_is_in_iceberg_once(story: Story) -> None:
    audit = story.first.audits[BINANCE]
    assert (audit.equal, audit.iceberg_rows, audit.waiting_rows) == (True, FED_BINANCE, 0)


# Stopped in the UI.


def test_a_task_marked_as_failed_while_it_works_has_its_driver_killed(story: Story) -> None:
    assert story.second.survivors_of_the_stopped == []
    assert story.second.offloads[OFFLOAD_KRAKEN] == Seen("failed", attempts=1)


def test_a_task_cleared_while_it_works_has_its_driver_killed_and_runs_again(story: Story) -> None:
    assert story.first.survivors_of_the_cleared == []
    assert story.first.cleared == Seen("success", attempts=2)
    assert story.first.audits[KRAKEN].iceberg_rows == FED_KRAKEN


# A table that stops.


def test_a_retyped_column_stops_its_table_and_names_it(story: Story) -> None:
    assert story.second.retyped == Seen("up_for_retry", attempts=1)
    assert "column quote_volume is decimal(20,8) in ClickHouse" in story.second.retyped_log


def test_it_goes_on_by_itself_once_the_column_has_its_type_again(story: Story) -> None:
    assert story.second.offloads[OFFLOAD_BINANCE] == Seen("success", attempts=2)


def test_a_table_that_has_failed_stops_neither_its_siblings_nor_the_next_layer(
    story: Story,
) -> None:
    states = {task.table: seen.state for task, seen in story.second.offloads.items()}
    assert states == {BINANCE: "success", KRAKEN: "failed", SILVER: "success"}


# The audit.


def test_an_audit_that_finds_a_difference_fails_its_task_at_once(story: Story) -> None:
    assert story.second.audit == Seen("failed", attempts=1)
    assert story.second.ended == "failed"


def test_its_log_names_table_and_day_of_every_difference(story: Story) -> None:
    rows = (FED_BINANCE + FED_KRAKEN_TWICE) // len(DAYS)
    one_missing = f"{SILVER} {DAYS[0]}: ClickHouse {rows} rows, Iceberg {rows - 1} rows"
    one_changed = f"{SILVER} {DAYS[1]}: ClickHouse {rows} rows, Iceberg {rows} rows, checksums d"
    assert f"2 partition(s) differ: {one_missing}; {one_changed}" in story.second.audit_log


def test_its_failure_is_posted_to_the_webhook(story: Story) -> None:
    (posted,) = [one for one in story.posted if one["task"] == AUDIT_SILVER.name]
    assert posted["text"].startswith(f"medallion {AUDIT_SILVER.name} failed: 2 partition(s) differ")
    assert posted["attempt"] == 1


def test_what_succeeds_in_the_end_is_not_posted(story: Story) -> None:
    assert BINANCE not in {one["label"] for one in story.posted}


def test_the_layer_after_a_failed_audit_does_not_run(story: Story) -> None:
    assert story.second.after_the_audit == {"upstream_failed"}


def test_it_succeeds_once_the_difference_is_corrected_and_the_task_cleared(story: Story) -> None:
    assert story.second.cleared[AUDIT_SILVER] == Seen("success", attempts=2)


# Cleared and marked.


def test_a_task_cleared_after_its_success_adds_nothing(story: Story) -> None:
    assert story.second.cleared[OFFLOAD_BINANCE] == Seen("success", attempts=3)
    before, after = story.second.snapshots
    assert before == after


def test_tables_marked_as_offloaded_wait_for_the_next_run(story: Story) -> None:
    for table in GOLD:
        assert story.first.audits[table].iceberg_rows == 0 < story.first.audits[table].waiting_rows
        assert story.audits[table].iceberg_rows > 0 == story.audits[table].waiting_rows


# The next run.


def test_the_next_run_succeeds_and_leaves_every_table_equal(story: Story) -> None:
    assert story.ended == "success"
    assert [table for table, audit in story.audits.items() if not audit.equal] == []
    assert {audit.waiting_rows for audit in story.audits.values()} == {0}


def test_in_the_end_every_trade_is_in_iceberg_once(story: Story) -> None:
    fed = {BINANCE: FED_BINANCE, KRAKEN: FED_KRAKEN_TWICE, SILVER: FED_BINANCE + FED_KRAKEN_TWICE}
    assert story.keys == {table: (rows, rows) for table, rows in fed.items()}
    assert story.trades_in_candles == FED_BINANCE + FED_KRAKEN_TWICE


def _binance(directory: Path) -> Path:
    """Trades of both days, as Binance archives them."""
    columns = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time"
    rows = [f"{columns},is_buyer_maker,is_best_match"]
    for trade in range(FED_BINANCE):
        day, number = divmod(trade, TRADES_A_DAY)
        time = (MIDNIGHTS[day] + number * 600) * 1000
        rows.append(f"{trade},0.0014{number},1.5,{trade},{trade},{time},true,true")
    path = directory / "XRPETH-aggTrades.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _kraken(directory: Path, *, hour: int) -> Path:
    """Trades of both days, from an hour on, as Kraken archives them."""
    path = directory / f"BCHEUR-{hour}.csv"
    times = [
        midnight + hour * 3600 + number * 60
        for midnight in MIDNIGHTS
        for number in range(TRADES_A_DAY)
    ]
    path.write_text("".join(f"{time},98.25,0.5\n" for time in times))
    return path


def _feed(user: User, **files: Path) -> None:
    markets = {"binance": "XRPETH", "kraken": "BCHEUR"}
    user.must("replay", *(f"--trades={name}:{markets[name]}={files[name]}" for name in files))


def _in_clickhouse(user: User, statement: str) -> None:
    with connect(user.settings.clickhouse) as client:
        client.command(f"{statement} settings mutations_sync = 1, alter_sync = 1")


def _change_price(user: User, table: str, day: str, *, by: str) -> None:
    """Change one row of a day."""
    chosen = f"toDate(timestamp) = '{day}' and exchange = 'binance' and trade_id = {TRADES_A_DAY}"
    _in_clickhouse(user, f"alter table {table} update price = price {by} where {chosen}")


def _retype(user: User, table: str, quote_volume: str) -> None:
    _in_clickhouse(user, f"alter table {table} modify column quote_volume {quote_volume}")


def _first_file(user: User, table: str, day: str) -> Path:
    """The first file of a day in the table's current snapshot."""
    found = [task.file.file_path for task in user.iceberg(table).scan().plan_files()]
    return Path(min(path for path in found if day in path).removeprefix("file:"))


def _held_drivers(user: User, table: str) -> list[psutil.Process]:
    """The processes of the table's offload job, the JVM and Python, once its intent is written."""
    wait_until(lambda: _has_intent(user, table), f"{table} has an intent")
    found = [one for one in user.processes() if _arguments(one)[-1:] == [table]]
    assert {one.name().rstrip("0123456789.") for one in found} >= {"java", "python"}
    return found


def _has_intent(user: User, table: str) -> bool:
    with watermark.connect(user.settings.postgres) as connection:
        return bool(
            connection.execute(
                "select from offload_watermarks where table_name = %s and intent is not null",
                (table,),
            ).fetchall()
        )


def _survivors(drivers: list[psutil.Process]) -> list[int]:
    """Of a task that was stopped, the driver processes that Airflow leaves alive for a minute."""
    deadline = time.monotonic() + 60
    while (alive := [one.pid for one in drivers if _is_alive(one)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    """False also for what has ended and nobody has reaped, as in a container without an init."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _audits(user: User) -> dict[str, TableAudit]:
    return {table.name: audit_table(user.settings, table) for table in registry().tables}


def _keys(user: User, table: str) -> tuple[int, int]:
    """Rows in Iceberg, and how many different ones they are."""
    rows = user.iceberg(table).scan(selected_fields=KEYS[table]).to_arrow().to_pylist()
    return len(rows), len({tuple(row.values()) for row in rows})


def _trades_in_candles(user: User) -> int:
    """Trades in the daily candles in Iceberg."""
    candles = user.iceberg("ohlcv_1d").scan(selected_fields=("trade_count",)).to_arrow()
    return sum(candles["trade_count"].to_pylist())
