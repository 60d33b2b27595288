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
class Lake:
    """The Iceberg lake: a JDBC catalog in PostgreSQL and a warehouse location."""

    warehouse: str
    catalog: str = "lake"
    namespace: str = "cold"


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
        lake=Lake(warehouse=_warehouse(_required(environment, "K2_LAKE_WAREHOUSE"))),
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
        "K2_LAKE_WAREHOUSE": settings.lake.warehouse,
    }


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(
            f"{name} is not set; start the embedded stack with 'make up', "
            "or set it to reach a service of your own"
        )
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
    return value
