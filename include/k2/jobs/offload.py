"""The Spark job of one offload: `spark-submit offload.py TABLE`.

Prints one line of error and exits with 1 when the offload refuses to go on.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.jobs.driver import TOLD, end_with_spark, reason
from k2.logs import configure_logs, get_logger
from k2.offload import faults
from k2.offload.claim import offload_claim
from k2.offload.engine import Driver, run
from k2.offload.gateway import open_gateway
from k2.offload.lake import JvmLake
from k2.offload.storage_errors import told_in_a_line
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
            told_in_a_line(settings.lake),
        ):
            lake = JvmLake(open_gateway(os.environ), settings).load(table.name)
            run(Driver(client, lake, held, table, now=_now, spark=_spark))
    except TOLD as error:
        get_logger(table=" ".join(arguments)).error("offload stopped", reason=reason(error))
        return 1
    return 0


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _spark() -> SparkSession:
    from pyspark.sql import SparkSession

    return SparkSession.builder.appName("k2 offload").getOrCreate()


if __name__ == "__main__":
    end_with_spark()
    sys.exit(main(sys.argv[1:]))
