"""Connections to ClickHouse: every session speaks UTC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.errors import StackError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from k2.settings import ClickHouse


def connect(
    clickhouse: ClickHouse, *, database: str | None = None, timeout: float = 3600
) -> Client:
    """A client of its own session-less connection pool, in the medallion's database.

    `timeout`: seconds that an answer may take.

    Raises:
        StackError: ClickHouse does not answer or refuses the login.
    """
    try:
        return clickhouse_connect.get_client(
            host=clickhouse.host,
            port=clickhouse.port,
            username=clickhouse.user,
            password=clickhouse.password,
            database=clickhouse.database if database is None else database,
            autogenerate_session_id=False,
            settings={"session_timezone": "UTC"},
            connect_timeout=min(10, timeout),
            send_receive_timeout=timeout,
        )
    except (ClickHouseError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StackError(
            f"ClickHouse at {clickhouse.host}:{clickhouse.port} cannot be used: {reason}"
        ) from error


def quote_identifier(name: str) -> str:
    """An identifier in backquotes, as ClickHouse reads it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_string(value: str) -> str:
    """A string literal, as ClickHouse reads it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
