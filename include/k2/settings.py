"""Where the services are and how to log in: read from the environment, and from nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from k2.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Some reader of the lake would take them for a pattern, or for the end of the path.
_PATTERN_CHARACTERS = "#?*{}[]"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and of its
# object-keys.html the characters that no client writes in another way.
_BUCKET_AND_PREFIX = "s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*"
_ENDPOINT = r"https?://[A-Za-z0-9.-]+(:\d{1,5})?"
_REGION = "[a-z0-9-]+"


@dataclass(frozen=True)
class ClickHouse:
    """The ClickHouse HTTP interface and the database of the medallion."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "k2"


@dataclass(frozen=True)
class Postgres:
    """The PostgreSQL server that holds watermarks, the Iceberg catalog and Airflow's metadata."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def conninfo(self, database: str) -> str:
        """A libpq connection URI of one of its databases."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{self.host}:{self.port}/{database}"


@dataclass(frozen=True)
class ObjectStore:
    """Where a lake's S3 API is; without an endpoint, it is that of AWS.

    Keys are none of it: ClickHouse, Spark and PyIceberg take them from their own environments.
    """

    endpoint: str | None = None
    region: str = "us-east-1"
    path_style: bool = False


@dataclass(frozen=True)
class Lake:
    """The Iceberg lake: a JDBC catalog in PostgreSQL and a warehouse location.

    `store` is there for a warehouse at s3://, and for no other.
    """

    warehouse: str
    catalog: str = "lake"
    namespace: str = "cold"
    store: ObjectStore | None = None


@dataclass(frozen=True)
class Settings:
    """All of it."""

    clickhouse: ClickHouse
    postgres: Postgres
    lake: Lake


def load_settings(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment (usually `os.environ`).

    Raises:
        SettingsError: a variable is missing, or its value is none for what it names.
    """
    return Settings(
        clickhouse=ClickHouse(
            host=_required(environment, "K2_CLICKHOUSE_HOST"),
            port=_port(environment, "K2_CLICKHOUSE_PORT"),
            user=_required(environment, "K2_CLICKHOUSE_USER"),
            password=_required(environment, "K2_CLICKHOUSE_PASSWORD"),
            database=_database(environment.get("K2_CLICKHOUSE_DATABASE", "k2")),
        ),
        postgres=Postgres(
            host=_required(environment, "K2_POSTGRES_HOST"),
            port=_port(environment, "K2_POSTGRES_PORT"),
            user=_required(environment, "K2_POSTGRES_USER"),
            password=_required(environment, "K2_POSTGRES_PASSWORD"),
        ),
        lake=load_lake(environment),
    )


def load_lake(environment: Mapping[str, str]) -> Lake:
    """The lake of an environment.

    Raises:
        SettingsError: a K2_LAKE_ variable is missing, or its value is none for what it names.
    """
    warehouse = _warehouse(_required(environment, "K2_LAKE_WAREHOUSE"))
    if not warehouse.startswith("s3://"):
        return Lake(warehouse)
    endpoint = _matching(environment, "K2_LAKE_ENDPOINT", _ENDPOINT, "http(s)://HOST:PORT")
    region = _matching(environment, "K2_LAKE_REGION", _REGION, "a region such as eu-central-1")
    path_style = _matching(environment, "K2_LAKE_PATH_STYLE", "true|false", "true or false")
    return Lake(
        warehouse,
        store=ObjectStore(
            endpoint or None,
            region or ObjectStore.region,
            # Only AWS is sure to have a host name for each bucket.
            path_style == "true" if path_style else bool(endpoint),
        ),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables from which `load_settings` makes these settings: for child processes."""
    return {
        "K2_CLICKHOUSE_HOST": settings.clickhouse.host,
        "K2_CLICKHOUSE_PORT": str(settings.clickhouse.port),
        "K2_CLICKHOUSE_USER": settings.clickhouse.user,
        "K2_CLICKHOUSE_PASSWORD": settings.clickhouse.password,
        "K2_CLICKHOUSE_DATABASE": settings.clickhouse.database,
        "K2_POSTGRES_HOST": settings.postgres.host,
        "K2_POSTGRES_PORT": str(settings.postgres.port),
        "K2_POSTGRES_USER": settings.postgres.user,
        "K2_POSTGRES_PASSWORD": settings.postgres.password,
        **lake_environment(settings.lake),
    }


def lake_environment(lake: Lake) -> dict[str, str]:
    """The variables from which `load_lake` makes this lake."""
    if lake.store is None:
        return {"K2_LAKE_WAREHOUSE": lake.warehouse}
    return {
        "K2_LAKE_WAREHOUSE": lake.warehouse,
        "K2_LAKE_ENDPOINT": lake.store.endpoint or "",
        "K2_LAKE_REGION": lake.store.region,
        "K2_LAKE_PATH_STYLE": str(lake.store.path_style).lower(),
    }


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(
            f"{name} is not set; start the embedded stack with 'make up', "
            "or set it to reach a service of your own"
        )
    return value


def _matching(environment: Mapping[str, str], name: str, pattern: str, kind: str) -> str:
    """The value of an optional variable; empty when it is not set."""
    value = environment.get(name, "").rstrip("/")
    if value and not re.fullmatch(pattern, value):
        raise SettingsError(f"{name} is '{value}'; it must be {kind}, or empty")
    return value


def _port(environment: Mapping[str, str], name: str) -> int:
    value = _required(environment, name)
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise SettingsError(f"{name} is '{value}'; it must be a port number, 1 to 65535")
    return int(value)


def _database(value: str) -> str:
    # dbt puts it into statements as it is.
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value):
        raise SettingsError(
            f"K2_CLICKHOUSE_DATABASE is '{value}'; it must be letters, digits and underscores"
        )
    return value


def _warehouse(value: str) -> str:
    """A location without a trailing slash: an absolute path becomes a file: location."""
    value = value.rstrip("/")
    if value.startswith("/"):
        value = f"file:{value}"
    if not value.startswith(("file:/", "s3://")):
        raise SettingsError(
            f"K2_LAKE_WAREHOUSE is '{value}'; it must be an absolute path, file:/... or s3://..."
        )
    if any(character in value for character in _PATTERN_CHARACTERS):
        raise SettingsError(
            f"K2_LAKE_WAREHOUSE is '{value}'; it must be without any of {_PATTERN_CHARACTERS}"
        )
    if value.startswith("s3://") and not re.fullmatch(_BUCKET_AND_PREFIX, value):
        raise SettingsError(
            f"K2_LAKE_WAREHOUSE is '{value}'; it must be s3://BUCKET/PREFIX, the prefix of "
            "letters, digits and any of _.-"
        )
    return value
