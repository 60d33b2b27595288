"""The production stack of docker-compose.yaml: what can be said of it without starting it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from k2.registry import registry
from k2.settings import load_settings

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")


def _example() -> dict[str, str]:
    lines = (PROJECT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _is_one_shot(service: dict[str, Any]) -> bool:
    return service.get("restart") == "no"


def _locked(package: str) -> str:
    found = re.search(
        rf"^{re.escape(package)}==(\S+)$", (PROJECT / "requirements.txt").read_text(), re.MULTILINE
    )
    assert found is not None
    return found[1]


def _compose_client() -> list[str] | None:
    docker = shutil.which("docker")
    if docker is None:
        return None
    answer = subprocess.run([docker, "compose", "version"], capture_output=True)
    return [docker, "compose"] if answer.returncode == 0 else None


def test_docker_compose_accepts_the_file() -> None:
    client = _compose_client()
    if client is None:
        pytest.skip("docker compose is not installed")
    answer = subprocess.run(
        [*client, "--env-file", "/dev/null", "config", "--quiet"],
        cwd=PROJECT,
        env={**os.environ, **dict.fromkeys(_example(), "secret")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr


def test_every_variable_is_required_and_in_the_example() -> None:
    used = VARIABLE.findall(TEXT)
    assert all(rest.startswith(":?") for _, rest in used)
    assert {name for name, _ in used} == set(_example())
    assert not any(_example().values()), "the example gives no secret away"


def test_every_mounted_file_is_there_and_every_volume_is_declared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (PROJECT / source).is_file(), source
            else:
                assert source in STACK["volumes"]


def test_every_file_that_a_command_or_the_image_names_is_there() -> None:
    for inside in re.findall(r"/opt/k2/((?:include|dags|plugins)[\w./]*)", TEXT):
        assert (PROJECT / inside).exists(), inside
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(
        r"^COPY (.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE
    ):
        for source in sources.split():
            assert f"!{source}" in ignored, f"{source} is not sent to the builder"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_tells_its_health_and_has_limits_or_ends(name: str) -> None:
    service = SERVICES[name]
    if _is_one_shot(service):
        assert "healthcheck" not in service
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_health_or_for_a_good_end(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        ends = _is_one_shot(SERVICES[other])
        expected = "service_completed_successfully" if ends else "service_healthy"
        assert wait["condition"] == expected, f"{name} waits for {other}"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_loopback_only(name: str) -> None:
    assert "network_mode" not in SERVICES[name] or SERVICES[name]["network_mode"] == "none"
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_images_are_pinned_to_the_versions_that_are_tested() -> None:
    images = dict(service["image"].split(":") for service in SERVICES.values())
    assert set(images) == {
        "clickhouse/clickhouse-server",
        "k2-airflow",
        "postgres",
        "redpandadata/redpanda",
    }
    assert images["k2-airflow"] == _locked("apache-airflow")
    engine = version("chdb-core").split(".")
    assert images["clickhouse/clickhouse-server"].split(".")[:2] == engine[:2]
    assert re.fullmatch(r"18\.\d+", images["postgres"])
    assert re.fullmatch(r"v\d+\.\d+\.\d+", images["redpandadata/redpanda"])
    base = re.search(r"^FROM python:(3\.\d+)\.\d+-slim-\w+$", _dockerfile(), re.MULTILINE)
    assert base is not None
    assert base[1] in {"3.11", "3.12", "3.13"}


def test_the_image_runs_as_the_user_that_clickhouse_runs_as() -> None:
    assert "useradd --uid 101 --gid 101" in _dockerfile()
    assert _dockerfile().rstrip().endswith("USER k2")
    as_root = {name for name, service in SERVICES.items() if service.get("user")}
    assert as_root == {"lake-owner"}
    assert SERVICES["lake-owner"]["command"][:2] == ["chown", "101:101"]


def test_clickhouse_and_the_tasks_see_the_lake_at_the_same_path() -> None:
    mounted = {
        name: volume.split(":")[1]
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if volume.startswith("lake:")
    }
    assert set(mounted) == {"clickhouse", "lake-owner", "k2-init", "airflow-scheduler"}
    (path,) = set(mounted.values())
    assert path == SERVICES["airflow-scheduler"]["environment"]["K2_LAKE_WAREHOUSE"]
    assert path.startswith("/var/lib/clickhouse/user_files/")


@pytest.mark.parametrize("name", ["k2-init", "airflow-scheduler"])
def test_the_environment_is_one_that_k2_accepts(name: str) -> None:
    settings = load_settings(SERVICES[name]["environment"])
    assert SERVICES[settings.clickhouse.host]["image"].startswith("clickhouse/")
    assert SERVICES[settings.postgres.host]["image"].startswith("postgres:")
    for kind in ("CLICKHOUSE", "POSTGRES"):
        ours = SERVICES[name]["environment"][f"K2_{kind}_PASSWORD"]
        assert ours == SERVICES[kind.lower()]["environment"][f"{kind}_PASSWORD"]


def test_every_topic_of_the_registry_is_created_with_a_partition_for_each_consumer() -> None:
    topics = SERVICES["topics"]
    exchanges = registry().exchanges
    assert set(topics["command"][1:]) == {exchange.topic for exchange in exchanges}
    partitions = next(
        int(part.removeprefix("--partitions="))
        for part in topics["entrypoint"]
        if part.startswith("--partitions=")
    )
    assert partitions >= max(exchange.consumers for exchange in exchanges)


def test_spark_runs_in_the_task_and_not_on_a_cluster_that_is_not_there() -> None:
    connection = json.loads(
        SERVICES["airflow-scheduler"]["environment"]["AIRFLOW_CONN_SPARK_DEFAULT"]
    )
    assert connection["conn_type"] == "spark"
    assert connection["host"] == "local[2]"


def test_postgresql_makes_the_databases_that_the_services_use() -> None:
    script = (PROJECT / "include/docker/postgres/databases.sql").read_text()
    created = set(re.findall(r"^create database (\w+);", script, re.MULTILINE))
    assert created | {SERVICES["postgres"]["environment"]["POSTGRES_DB"]} == {
        "k2",
        "lake",
        "airflow",
    }


def _dockerfile() -> str:
    return (PROJECT / "Dockerfile").read_text()
