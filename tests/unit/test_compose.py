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
from xml.etree import ElementTree as ET

import pytest
import yaml
from airflow.models.connection import Connection
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import validators

from k2.registry import registry
from k2.settings import Lake, ObjectStore, load_lake, load_settings

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
LISTEN = "${K2_LISTEN:-127.0.0.1}"
LAKE = "/var/lib/clickhouse/user_files/lake"


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


def _dockerfile() -> str:
    return (PROJECT / "Dockerfile").read_text()


def _compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"]).returncode != 0:
        pytest.skip("docker compose is not installed")
    return subprocess.run(
        [docker, "compose", "--env-file", "/dev/null", *arguments],
        cwd=PROJECT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_docker_compose_accepts_the_file() -> None:
    answer = _compose("config", "--quiet", **{**dict.fromkeys(_example(), "secret"), **_example()})
    assert answer.returncode == 0, answer.stderr


def test_the_file_is_as_the_compose_specification_says() -> None:
    schema: dict[str, Any] = get_builtin_schema("vendor.compose-spec")
    validator = validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(STACK)] == []
    wrong = {**STACK, "services": {"clickhouse": {"imagine": "clickhouse"}}}
    assert list(validator.iter_errors(wrong)), "the schema refuses an unknown key"


def test_every_variable_is_required_or_harmless_and_in_the_example() -> None:
    used = set(VARIABLE.findall(TEXT))
    assert {name for name, _ in used} | {"COMPOSE_PROFILES"} == set(_example())
    assert {(name, rest) for name, rest in used if rest != ":?set it in .env"} == {
        ("K2_LISTEN", ":-127.0.0.1"),
        ("K2_ALERT_WEBHOOK", ":-"),
        ("K2_DEADLINE_MINUTES", ":-"),
        ("K2_LAKE_WAREHOUSE", ":-"),
        ("K2_LAKE_WAREHOUSE", f":-{LAKE}"),
        ("K2_LAKE_ENDPOINT", ":-"),
        ("K2_LAKE_REGION", ":-us-east-1"),
        ("K2_LAKE_PATH_STYLE", ":-"),
    }


def test_the_example_gives_no_secret_away() -> None:
    settings = {name: value for name, value in _example().items() if value}
    assert settings == {
        "COMPOSE_PROFILES": "core,monitoring",
        "K2_LISTEN": "127.0.0.1",
        "AIRFLOW_METRICS": "True",
    }
    for line in TEXT.splitlines():
        if re.search(r"(PASSWORD|SECRET|KEY)\w*: ", line):
            assert "${" in line or line.strip().endswith("/passwords.json"), line


def test_backups_of_clickhouse_go_into_its_volume() -> None:
    folder = ET.parse(PROJECT / "include/clickhouse/server/backups.xml").find(
        "backups/allowed_path"
    )
    volumes = SERVICES["clickhouse"]["volumes"]
    assert folder is not None
    assert folder.text == "/var/lib/clickhouse/backups"
    assert "clickhouse:/var/lib/clickhouse" in volumes
    assert any(volume.endswith("config.d/backups.xml:ro") for volume in volumes)


def test_every_mounted_path_is_there_and_every_volume_is_declared_and_used() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (PROJECT / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
    assert used == set(STACK["volumes"])


def test_every_file_that_a_command_or_the_image_names_is_there() -> None:
    for inside in re.findall(r"/opt/k2/((?:include|dags|plugins)[\w./]*)", TEXT):
        assert (PROJECT / inside).exists(), inside
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (.+) \S+$", _dockerfile(), re.MULTILINE):
        for source in sources.split():
            assert f"!{source}" in ignored, f"{source} is not sent to the builder"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_limits_and_tells_its_health_or_ends(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    if _is_one_shot(service):
        assert "healthcheck" not in service
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_health_or_for_a_good_end(name: str) -> None:
    (profile,) = SERVICES[name]["profiles"]
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        ends = _is_one_shot(SERVICES[other])
        expected = "service_completed_successfully" if ends else "service_healthy"
        assert wait["condition"] == expected, f"{name} waits for {other}"
        chosen = wait.get("required", True)
        assert profile == "tools" or not chosen or SERVICES[other]["profiles"] == [profile]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_loopback_only(name: str) -> None:
    assert SERVICES[name].get("network_mode", "none") == "none"
    for port in SERVICES[name].get("ports", []):
        assert port.startswith(f"{LISTEN}:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_gets_more_rights_while_it_runs(name: str) -> None:
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(SERVICES[name])


def test_images_are_pinned_to_the_versions_that_are_tested() -> None:
    images = dict(service["image"].split(":") for service in SERVICES.values())
    assert images["k2-airflow"] == _locked("apache-airflow")
    engine = version("chdb-core").split(".")
    assert images["clickhouse/clickhouse-server"].split(".")[:2] == engine[:2]
    assert re.fullmatch(r"18\.\d+", images["postgres"])
    others = set(images) - {"k2-airflow", "clickhouse/clickhouse-server", "postgres"}
    assert others == {
        "grafana/grafana",
        "prom/prometheus",
        "redpandadata/redpanda",
        "versity/versitygw",
    }
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", images[name]) for name in others)
    base = re.search(r"^FROM python:(3\.\d+)\.\d+-slim-\w+$", _dockerfile(), re.MULTILINE)
    assert base is not None
    assert base[1] in {"3.11", "3.12", "3.13"}


def test_spark_s_master_and_worker_are_of_the_version_of_its_drivers() -> None:
    assert _locked("pyspark") == _locked("pyspark-client") == version("pyspark")
    images = {SERVICES[name]["image"] for name in ("spark-master", "airflow-scheduler")}
    assert images == {SERVICES["spark-worker"]["image"]}


def test_the_image_runs_as_the_user_that_clickhouse_runs_as() -> None:
    assert "useradd --uid 101 --gid 101" in _dockerfile()
    assert _dockerfile().rstrip().endswith("USER k2")
    as_root = {name for name, service in SERVICES.items() if service.get("user")}
    assert as_root == {"lake-owner"}
    assert SERVICES["lake-owner"]["command"][:2] == ["chown", "101:101"]


def test_whoever_reads_or_writes_the_lake_sees_it_at_the_same_path() -> None:
    mounted = {
        name: volume.split(":", 1)[1]
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if volume.startswith("lake:")
    }
    writers = {"clickhouse", "lake-owner", "k2-init", "airflow-scheduler", "spark-worker"}
    assert {name for name, path in mounted.items() if path == LAKE} == writers
    assert {name for name, path in mounted.items() if path == f"{LAKE}:ro"} == {"k2-metrics"}
    assert _environment("airflow-scheduler")["K2_LAKE_WAREHOUSE"] == LAKE


def _environment(name: str, **variables: str) -> dict[str, str]:
    """What a service gets where .env has these values, and no others of those with a default."""

    def value(match: re.Match[str]) -> str:
        default = match[2].removeprefix(":-") if match[2].startswith(":-") else match[0]
        return variables.get(match[1]) or default

    environment = SERVICES[name].get("environment", {})
    return {key: VARIABLE.sub(value, text) for key, text in environment.items()}


OBJECTS = {"K2_LAKE_WAREHOUSE": "s3://lake/k2", "K2_LAKE_ENDPOINT": "http://objects:7070"}


def test_the_lake_can_be_in_the_store_of_the_profile_objects() -> None:
    lakes = [load_lake(_environment(name, **OBJECTS)) for name in USERS]
    assert set(lakes) == {
        Lake("s3://lake/k2", store=ObjectStore("http://objects:7070", path_style=True))
    }
    assert SERVICES["objects"]["environment"]["VGW_PORT"] == ":7070"
    assert SERVICES["objects-bucket"]["entrypoint"][-1] == "/data/lake"
    assert "K2_LAKE_WAREHOUSE" in SERVICES["k2-init"]["build"]["args"]
    assert _dockerfile().count("K2_LAKE_WAREHOUSE") == 2


def test_keys_of_the_lake_are_only_with_those_who_read_or_write_its_files() -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "${S3_ACCESS_KEY:?set it in .env}",
        "AWS_SECRET_ACCESS_KEY": "${S3_SECRET_KEY:?set it in .env}",
    }
    holders = {
        name: {key: value for key, value in service["environment"].items() if key in keys}
        for name, service in SERVICES.items()
        if keys.keys() & service.get("environment", {}).keys()
    }
    names = ("clickhouse", "k2-init", "airflow-scheduler", "spark-worker")
    assert holders == dict.fromkeys(names, keys)
    regions = {_environment(name)["K2_LAKE_REGION"] for name in names}
    assert regions == {_environment("objects")["VGW_REGION"]}


# Each program's users of ClickHouse and PostgreSQL. Airflow's other services have no login at all.
USERS = {
    "k2-init": ("k2", "k2"),
    "ingest": ("k2_ingest", "k2_reader"),
    "airflow-scheduler": ("k2_offload", "k2_offload"),
    "spark-worker": ("k2_offload", "k2_offload"),
    "airflow-api-server": ("k2_reader", "k2_reader"),
    "k2-metrics": ("k2_reader", "k2_reader"),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_program_has_its_own_login_and_no_other(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    if name not in USERS:
        assert not [key for key in environment if key.startswith("K2_") and "PASSWORD" in key]
        return
    settings = load_settings(_environment(name))
    assert SERVICES[settings.clickhouse.host]["image"].startswith("clickhouse/")
    assert SERVICES[settings.postgres.host]["image"].startswith("postgres:")
    assert (settings.clickhouse.user, settings.postgres.user) == USERS[name]
    assert settings.clickhouse.password == _password("CLICKHOUSE", settings.clickhouse.user)
    assert settings.postgres.password == _password("POSTGRES", settings.postgres.user)


def _password(kind: str, user: str) -> str:
    program = user.removeprefix("k2").upper()
    return f"${{{kind}{program}_PASSWORD:?set it in .env}}"


def test_dbt_has_its_own_login_where_it_runs() -> None:
    with_login = {
        name: service["environment"]["K2_DBT_PASSWORD"]
        for name, service in SERVICES.items()
        if service.get("environment", {}).get("K2_DBT_USER") == "k2_dbt"
    }
    password = _password("CLICKHOUSE", "k2_dbt")
    assert with_login == {"k2-init": password, "airflow-scheduler": password}


def test_clickhouse_gets_every_password_that_its_users_have() -> None:
    users = ET.parse(PROJECT / "include/clickhouse/access/users.xml").find("users")
    assert users is not None
    variables = {password.attrib["from_env"] for password in users.iter("password")}
    environment = SERVICES["clickhouse"]["environment"]
    given = {name for name in environment if name.endswith("_PASSWORD")}
    assert given == variables | {"CLICKHOUSE_PASSWORD"}
    assert not [password.text for password in users.iter("password") if password.text]


def test_postgresql_gets_every_password_that_its_roles_have() -> None:
    script = (PROJECT / "include/postgres/access/roles.sql").read_text()
    variables = set(re.findall(r"^\\getenv \w+ (\w+)$", script, re.MULTILINE))
    environment = SERVICES["postgres-access"]["environment"]
    assert {name for name in environment if name.startswith("POSTGRES_")} == variables
    roles = set(re.findall(r"^alter role (\w+) password", script, re.MULTILINE))
    assert {f"POSTGRES_{role.removeprefix('k2_').upper()}_PASSWORD" for role in roles} == variables


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


def test_airflow_submits_to_the_master_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SERVICES["airflow-scheduler"]["environment"]["AIRFLOW_CONN_SPARK_DEFAULT"]
    connection = Connection(conn_id="spark_default", **json.loads(text))
    monkeypatch.setattr(SparkSubmitHook, "get_connection", lambda *_: connection)
    command = SparkSubmitHook()._build_spark_submit_command("offload.py")
    master = command[command.index("--master") + 1]
    assert master == "spark://spark-master:7077"
    assert SERVICES["spark-worker"]["command"][-1] == master
    options = SERVICES["spark-master"]["command"]
    assert options[options.index("--host") + 1] == "spark-master"
    assert options[options.index("--port") + 1] == "7077"


def test_airflow_s_metrics_go_to_prometheus_which_takes_them() -> None:
    environment = SERVICES["airflow-scheduler"]["environment"]
    endpoint = environment["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"]
    assert endpoint == "http://prometheus:9090/api/v1/otlp/v1/metrics"
    assert environment["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] == "http/protobuf"
    assert "--web.enable-otlp-receiver" in SERVICES["prometheus"]["command"]
    assert _locked("opentelemetry-exporter-otlp-proto-http")


def test_prometheus_and_grafana_find_their_files_and_each_other() -> None:
    prometheus = yaml.safe_load(
        (PROJECT / "include/monitoring/prometheus/prometheus.yml").read_text()
    )
    targets = [
        target
        for job in prometheus["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    assert targets == ["k2-metrics:18090"]
    assert "18090" in SERVICES["k2-metrics"]["command"]
    mounts = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    provisioning = PROJECT / "include/monitoring/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/k2.yml").read_text())["providers"]
    assert provider["options"]["path"] in mounts
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
