"""The Spark job of one offload: `spark-submit offload.py TABLE`.

Prints one line of error and exits with 1 when the offload refuses to go on.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError
from py4j.protocol import Py4JJavaError

from k2.clickhouse import connect
from k2.errors import K2Error
from k2.logs import configure_logs, get_logger
from k2.offload import faults
from k2.offload.claim import offload_claim
from k2.offload.engine import Driver, run
from k2.offload.gateway import open_gateway
from k2.offload.lake import JvmLake
from k2.registry import registry
from k2.settings import load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def main(arguments: list[str]) -> int:
    """Offload the table of the one argument; the exit status."""
    configure_logs()
    try:
        faults.arm(os.environ)
        (name,) = arguments
        table = registry().table(name)
        settings = load_settings(os.environ)
        with (
            offload_claim(settings.postgres, table.name) as held,
            connect(settings.clickhouse) as client,
        ):
            lake = JvmLake(open_gateway(os.environ), settings).load(table.name)
            run(Driver(client, lake, held, table, now=_now, spark=_spark))
    except (K2Error, ClickHouseError, psycopg.Error, Py4JJavaError) as error:
        text = _causes(error) if isinstance(error, Py4JJavaError) else str(error)
        reason = " ".join(text.split())
        get_logger(table=" ".join(arguments)).error("offload stopped", reason=reason)
        return 1
    return 0


def _causes(error: Py4JJavaError) -> str:
    """What failed in the JVM, and why: the catalog or the lake's storage, without the stack."""
    causes, cause = [], error.java_exception
    while cause is not None:
        causes.append(str(cause.toString()))
        cause = cause.getCause()
    return f"the Iceberg lake cannot be used: {': '.join(causes)}; run the offload again"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _spark() -> SparkSession:
    from pyspark.sql import SparkSession

    return SparkSession.builder.appName("k2 offload").getOrCreate()


def _die_with_spark() -> None:
    """End at once when spark-submit is gone, so that no driver holds a claim that it cannot use.

    spark-submit holds the driver's standard input open for as long as it lives.
    """
    # Not sys.stdin: a reader that waits in it would hold up the interpreter's end.
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_die_with_spark, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
