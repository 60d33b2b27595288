"""The machine: packages, Java, jars, ports and file names, good and bad."""

from __future__ import annotations

import hashlib
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from k2.doctor import clickhouse, lake, machine
from k2.doctor.result import Outcome
from k2.doctor.surroundings import look_around
from k2.embedded import java
from k2.embedded.jars import Jar
from k2.embedded.state import only_stack, prepare_state
from k2.settings import ClickHouse, Lake, Postgres, Settings
from k2.transform import DBT_PROJECT

if TYPE_CHECKING:
    from pathlib import Path

FREE_PORTS = {"K2_CLICKHOUSE_PORT": "0", "K2_POSTGRES_PORT": "0", "K2_AIRFLOW_PORT": "0"}


def install(site: Path, name: str, version: str, *files: str) -> None:
    """A package as an installer leaves it."""
    record = site / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).touch()


def test_pyspark_and_its_client_in_one_version_go_together(tmp_path: Path) -> None:
    install(tmp_path, "pyspark", "4.1.3", "pyspark/sql.py", "pyspark/jars/spark-core.jar")
    install(tmp_path, "pyspark-client", "4.1.3", "pyspark/sql.py")
    result = machine.pyspark([str(tmp_path)])
    assert (result.outcome, result.found) == (Outcome.OK, "4.1.3, as pyspark-client")


def test_the_packages_of_this_project_go_together() -> None:
    assert machine.pyspark(sys.path).outcome is Outcome.OK


def test_a_client_of_another_version_has_overwritten_pyspark(tmp_path: Path) -> None:
    install(tmp_path, "pyspark", "4.1.3", "pyspark/sql.py")
    install(tmp_path, "pyspark-client", "4.1.1", "pyspark/sql.py")
    result = machine.pyspark([str(tmp_path)])
    assert result.outcome is Outcome.FAILED
    assert "pyspark 4.1.3 and pyspark-client 4.1.1 hold the same files" in result.found
    assert result.fix.endswith("pyspark==4.1.3 pyspark-client==4.1.3")


def test_a_client_that_was_removed_took_files_of_pyspark_with_it(tmp_path: Path) -> None:
    install(tmp_path, "pyspark", "4.1.3", "pyspark/sql.py", "pyspark/jars/spark-core.jar")
    (tmp_path / "pyspark" / "sql.py").unlink()
    result = machine.pyspark([str(tmp_path)])
    assert result.outcome is Outcome.FAILED
    assert result.found == "1 files of pyspark 4.1.3 are missing: pyspark/sql.py"


def test_without_pyspark_there_is_no_spark(tmp_path: Path) -> None:
    assert machine.pyspark([str(tmp_path)]).outcome is Outcome.FAILED


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return home


def test_a_java_that_spark_runs_on_is_named_with_its_version(tmp_path: Path) -> None:
    home = fake_java(tmp_path, "17.0.9")
    result = machine.java_of_spark({"JAVA_HOME": str(home), "PATH": ""})
    assert (result.outcome, result.found) == (Outcome.OK, f"17, {home}")


def test_a_java_home_that_spark_cannot_use_is_a_warning(tmp_path: Path) -> None:
    old, good = fake_java(tmp_path / "old", "11"), fake_java(tmp_path / "good", "21.0.1")
    result = machine.java_of_spark({"JAVA_HOME": str(old), "PATH": str(good / "bin")})
    assert result.outcome is Outcome.WARNING
    assert result.found.startswith(f"JAVA_HOME is {old}, which Spark cannot use; used is 21, ")


def test_without_a_java_the_fix_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_of_wheel", lambda _: None)
    result = machine.java_of_spark({"PATH": ""})
    assert result.outcome is Outcome.FAILED
    assert result.found == "Spark needs Java 17 to 23, and there is none"
    assert result.fix.startswith("install a JDK and set JAVA_HOME")


def test_a_jar_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    wanted = [
        Jar("org", name, "1.0", hashlib.sha256(b"right").hexdigest()) for name in ("a", "b", "c")
    ]
    for jar in wanted:
        (tmp_path / jar.file_name).write_bytes(b"right")
    assert machine.jars(tmp_path, wanted).outcome is Outcome.OK
    (tmp_path / "b-1.0.jar").unlink()
    (tmp_path / "c-1.0.jar").write_bytes(b"rig")
    result = machine.jars(tmp_path, wanted)
    assert result.outcome is Outcome.FAILED
    assert result.found == f"missing or damaged in {tmp_path}: b-1.0.jar, c-1.0.jar"
    assert f"python -m k2.embedded.jars {tmp_path}" in result.fix


def test_jars_are_looked_for_where_sparks_configuration_says(tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text(
        "spark.driver.extraClassPath /opt/k2/jars/*:/spark/jars/*\nspark.ui.enabled false\n"
    )
    assert str(machine.jars_directory({"SPARK_CONF_DIR": str(tmp_path)})) == "/opt/k2/jars"
    assert machine.jars_directory({}) == machine.JARS_DIRECTORY


def test_free_ports_are_well(tmp_path: Path) -> None:
    result = machine.ports(look_around({"K2_STATE": str(tmp_path / "k2"), **FREE_PORTS}))
    assert (result.outcome, result.found) == (Outcome.OK, "free for the next start")


def test_a_port_that_somebody_holds_is_named_with_its_variable(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        ports = {**FREE_PORTS, "K2_POSTGRES_PORT": str(port)}
        result = machine.ports(look_around({"K2_STATE": str(tmp_path), **ports}))
    assert result.outcome is Outcome.FAILED
    assert result.found == (f"port {port} for postgres cannot be used (Address already in use)")
    assert "K2_POSTGRES_PORT" in result.fix


def test_the_ports_of_a_running_stack_are_its_own(tmp_path: Path) -> None:
    state = prepare_state(tmp_path, FREE_PORTS)
    with ExitStack() as stack:
        stack.enter_context(only_stack(tmp_path))
        surroundings = look_around({"K2_STATE": str(tmp_path), "PATH": ""})
        assert surroundings.settings == state.settings(tmp_path)
        assert surroundings.environment["K2_CLICKHOUSE_PORT"] == str(state.clickhouse_port)
        result = machine.ports(surroundings)
    assert result.outcome is Outcome.OK
    assert f"postgres {state.postgres_port}" in result.found


def folder(path: Path, *files: str) -> Path:
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    return path


def test_the_files_of_this_project_are_in_nobodys_way() -> None:
    assert machine.file_names(machine.import_folders({}), DBT_PROJECT, sys.path).outcome is (
        Outcome.OK
    )


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("dbt_candles.py", "is imported by dbt as a plugin"),
        ("statistics.py", "has the name of a module of Python"),
        ("pyarrow.py", "has the name of a module that is installed"),
        ("psycopg/__init__.py", "has the name of a module that is installed"),
    ],
)
def test_a_dag_file_with_a_name_that_python_knows_is_found(
    tmp_path: Path, file: str, why: str
) -> None:
    dags = folder(tmp_path / "dags", "medallion.py", file)
    result = machine.file_names([dags], tmp_path, [*sys.path, str(dags)])
    assert result.outcome is Outcome.FAILED
    assert result.found == f"dags/{file.removesuffix('/__init__.py')} {why}"


def test_a_dbt_project_that_can_be_imported_is_found(tmp_path: Path) -> None:
    project = folder(tmp_path / "dbt_project", "__init__.py")
    result = machine.file_names([folder(tmp_path / "dags", "medallion.py")], project, sys.path)
    assert result.found == "dbt_project/__init__.py is imported by dbt as a plugin"


def test_this_projects_models_refuse_a_full_refresh() -> None:
    assert clickhouse.full_refresh(DBT_PROJECT).outcome is Outcome.OK


def test_a_layer_that_a_full_refresh_would_empty_is_found(tmp_path: Path) -> None:
    project = tmp_path / "dbt_project.yml"
    (tmp_path / "models").mkdir()
    project.write_text("name: k2\nmodels: {k2: {silver: {+full_refresh: false}, gold: {}}}\n")
    assert clickhouse.full_refresh(tmp_path).found == "'--full-refresh' would empty gold"
    project.write_text(
        "name: k2\nmodels: {k2: {silver: {+full_refresh: false}, gold: {+full_refresh: false}}}\n"
    )
    assert clickhouse.full_refresh(tmp_path).outcome is Outcome.OK
    (tmp_path / "models" / "silver_trades.sql").write_text("{{ config(full_refresh = True) }}")
    result = clickhouse.full_refresh(tmp_path)
    assert (result.outcome, result.found) == (
        Outcome.FAILED,
        "'--full-refresh' would empty silver_trades.sql",
    )


def in_lake(path: Path) -> Settings:
    return Settings(ClickHouse("", 0, "", ""), Postgres("", 0, "", ""), Lake(f"file:{path}"))


def test_a_lake_that_is_not_mounted_is_found(tmp_path: Path) -> None:
    assert lake.folder(in_lake(tmp_path)).outcome is not Outcome.FAILED
    result = lake.folder(in_lake(tmp_path / "no" / "lake"))
    assert result.outcome is Outcome.FAILED
    assert "is not there" in result.found


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake, "LEAST_FREE", 0.0)
    assert lake.folder(in_lake(tmp_path)).outcome is Outcome.OK
    monkeypatch.setattr(lake, "LEAST_FREE", 1.0)
    assert lake.folder(in_lake(tmp_path)).outcome is Outcome.WARNING
