"""What the server and those who start it agree on."""

from typing import Final

HOST: Final = "127.0.0.1"
PASSWORD_VARIABLE: Final = "K2_CLICKHOUSE_PASSWORD"  # noqa: S105
