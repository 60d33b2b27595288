"""Settings come from the environment, and go to child processes by it."""

from __future__ import annotations

import pytest

from k2.errors import SettingsError
from k2.settings import environment_of, load_settings

ENVIRONMENT = {
    "K2_CLICKHOUSE_HOST": "clickhouse",
    "K2_CLICKHOUSE_PORT": "8123",
    "K2_CLICKHOUSE_USER": "k2",
    "K2_CLICKHOUSE_PASSWORD": "one secret",  # pragma: allowlist secret
    "K2_POSTGRES_HOST": "postgres",
    "K2_POSTGRES_PORT": "5432",
    "K2_POSTGRES_USER": "k2",
    "K2_POSTGRES_PASSWORD": "p@ss:w/rd %",  # pragma: allowlist secret
    "K2_LAKE_WAREHOUSE": "s3://lake/warehouse",
}


def test_settings_survive_the_way_through_an_environment() -> None:
    settings = load_settings({**ENVIRONMENT, "K2_CLICKHOUSE_DATABASE": "other"})
    assert load_settings(environment_of(settings)) == settings
    assert settings.clickhouse.database == "other"


def test_the_database_is_k2_unless_it_is_named() -> None:
    assert load_settings(ENVIRONMENT).clickhouse.database == "k2"


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_variable_is_named_with_what_to_do(name: str, empty: bool) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(SettingsError) as error:
        load_settings({**environment, name: ""} if empty else environment)
    assert str(error.value) == (
        f"{name} is not set; start the embedded stack with 'make up', "
        "or set it to reach a service of your own"
    )


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80 80", "1.5", "²"])
@pytest.mark.parametrize("name", ["K2_CLICKHOUSE_PORT", "K2_POSTGRES_PORT"])
def test_a_port_that_is_none_is_refused(name: str, port: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({**ENVIRONMENT, name: port})
    assert str(error.value) == f"{name} is '{port}'; it must be a port number, 1 to 65535"


@pytest.mark.parametrize(
    ("given", "warehouse"),
    [
        ("/data/lake", "file:/data/lake"),
        ("/data/lake/", "file:/data/lake"),
        ("/data/a lake", "file:/data/a lake"),
        ("file:/data/lake/", "file:/data/lake"),
        ("s3://bucket/lake/", "s3://bucket/lake"),
    ],
)
def test_a_warehouse_is_a_location(given: str, warehouse: str) -> None:
    settings = load_settings({**ENVIRONMENT, "K2_LAKE_WAREHOUSE": given})
    assert settings.lake.warehouse == warehouse


@pytest.mark.parametrize("given", ["lake", "./lake", "http://lake", "hdfs://lake"])
def test_a_warehouse_that_is_no_location_is_refused(given: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({**ENVIRONMENT, "K2_LAKE_WAREHOUSE": given})
    assert str(error.value) == (
        f"K2_LAKE_WAREHOUSE is '{given}'; it must be an absolute path, file:/... or s3://..."
    )


@pytest.mark.parametrize("character", "#?*{}[]")
def test_a_warehouse_that_some_reader_would_take_for_a_pattern_is_refused(character: str) -> None:
    with pytest.raises(SettingsError, match="it must be without any of"):
        load_settings({**ENVIRONMENT, "K2_LAKE_WAREHOUSE": f"/data/lake{character}1"})


def test_passwords_do_not_show() -> None:
    shown = repr(load_settings(ENVIRONMENT))
    assert "one secret" not in shown
    assert "p@ss" not in shown


def test_a_password_of_any_characters_fits_into_a_connection_address() -> None:
    address = load_settings(ENVIRONMENT).postgres.conninfo("k2")
    # pragma: allowlist nextline secret
    assert address == "postgresql://k2:p%40ss%3Aw%2Frd%20%25@postgres:5432/k2"
