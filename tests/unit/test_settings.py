"""Settings come from the environment, and go to child processes by it."""

from __future__ import annotations

import pytest

from k2.errors import SettingsError
from k2.settings import ObjectStore, environment_of, load_lake, load_settings

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


# A lake on object storage.

S3 = {"K2_LAKE_WAREHOUSE": "s3://lake/k2"}


@pytest.mark.parametrize(
    ("variables", "store"),
    [
        ({}, ObjectStore(None, "us-east-1", path_style=False)),
        ({"K2_LAKE_REGION": "eu-west-3"}, ObjectStore(None, "eu-west-3", path_style=False)),
        (
            {"K2_LAKE_ENDPOINT": "http://objects:7070/"},
            ObjectStore("http://objects:7070", "us-east-1", path_style=True),
        ),
        (
            {"K2_LAKE_ENDPOINT": "https://s3.acme.com", "K2_LAKE_PATH_STYLE": "false"},
            ObjectStore("https://s3.acme.com", "us-east-1", path_style=False),
        ),
        ({"K2_LAKE_PATH_STYLE": "true"}, ObjectStore(None, "us-east-1", path_style=True)),
    ],
)
def test_only_aws_has_a_host_name_for_each_bucket_unless_it_is_said(
    variables: dict[str, str], store: ObjectStore
) -> None:
    assert load_lake({**S3, **variables}).store == store
    settings = load_settings({**ENVIRONMENT, **S3, **variables})
    assert load_settings(environment_of(settings)) == settings


def test_a_lake_in_a_folder_has_no_object_store() -> None:
    variables = {"K2_LAKE_WAREHOUSE": "/lake", "K2_LAKE_ENDPOINT": "http://objects:7070"}
    assert load_lake(variables).store is None


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("K2_LAKE_ENDPOINT", "objects:7070", "http(s)://HOST:PORT"),
        (
            "K2_LAKE_ENDPOINT",
            "http://user:key@objects:7070",  # pragma: allowlist secret
            "http(s)://HOST:PORT",
        ),
        ("K2_LAKE_ENDPOINT", "http://objects:7070/lake", "http(s)://HOST:PORT"),
        ("K2_LAKE_REGION", "Europe", "a region such as eu-central-1"),
        ("K2_LAKE_PATH_STYLE", "yes", "true or false"),
    ],
)
def test_a_variable_of_the_store_that_is_none_is_refused(name: str, value: str, kind: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_lake({**S3, name: value})
    assert str(error.value) == f"{name} is '{value}'; it must be {kind}, or empty"


@pytest.mark.parametrize(
    "given", ["s3://b", "s3://Bucket/lake", "s3://lake/a b", "s3://lake//k2", "s3://lake/100%"]
)
def test_a_key_that_clients_write_differently_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="it must be s3://BUCKET/PREFIX"):
        load_lake({"K2_LAKE_WAREHOUSE": given})


def test_passwords_do_not_show() -> None:
    shown = repr(load_settings(ENVIRONMENT))
    assert "one secret" not in shown
    assert "p@ss" not in shown


def test_a_password_of_any_characters_fits_into_a_connection_address() -> None:
    address = load_settings(ENVIRONMENT).postgres.conninfo("k2")
    # pragma: allowlist nextline secret
    assert address == "postgresql://k2:p%40ss%3Aw%2Frd%20%25@postgres:5432/k2"
