"""The Spark job of one offload: `spark-submit offload.py TABLE`.

Prints one line of error and exits with 1 when the offload refuses to go on.
"""

from __future__ import annotations

import datetime as dt
import os
import sys

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError
from pyspark.java_gateway import ensure_callback_server_started, launch_gateway

from k2.clickhouse import connect
from k2.errors import K2Error
from k2.logs import configure_logs, get_logger
from k2.offload.engine import Driver, run
from k2.offload.lake import JvmLake
from k2.offload.watermark import claim
from k2.registry import registry
from k2.settings import load_settings


def main(arguments: list[str]) -> int:
    """Offload the table of the one argument; the exit status."""
    configure_logs()
    try:
        (name,) = arguments
        table = registry().table(name)
        settings = load_settings(os.environ)
        with claim(settings.postgres, table.name) as held, connect(settings.clickhouse) as client:
            gateway = launch_gateway()  # type: ignore[no-untyped-call]
            ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
            lake = JvmLake(gateway, settings).load(table.name)
            run(Driver(client, lake, held, table, now=lambda: dt.datetime.now(dt.UTC)))
    except (K2Error, ClickHouseError, psycopg.Error) as error:
        reason = " ".join(str(error).split())
        get_logger(table=" ".join(arguments)).error("offload stopped", reason=reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
