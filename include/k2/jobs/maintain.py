"""The Spark job that keeps tables of the lake in order: `spark-submit maintain.py TABLE...`.

A table that cannot be maintained is told in one line and stops no other; then the job exits with 1.
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from k2.jobs.driver import TOLD, end_with_spark, reason
from k2.logs import configure_logs, get_logger
from k2.maintenance.keeper import Keeper
from k2.maintenance.run import maintain
from k2.offload import watermark
from k2.offload.gateway import open_gateway
from k2.offload.lake import JvmLake
from k2.offload.storage_errors import told_in_a_line
from k2.registry import registry
from k2.settings import load_settings

if TYPE_CHECKING:
    from k2.registry import Table
    from k2.settings import Settings


def main(names: list[str]) -> int:
    """Maintain the tables of that name, one after the other; the exit status."""
    configure_logs()
    try:
        tables = [registry().table(name) for name in names]
        settings, gateway = load_settings(os.environ), open_gateway(os.environ)
        with told_in_a_line(settings.lake):
            lake = JvmLake(gateway, settings)
    except TOLD as error:
        get_logger(table=" ".join(names)).error("maintenance stopped", reason=reason(error))
        return 1
    spark = functools.cache(lambda: _spark(gateway.jvm))
    done = [_maintain(table, settings, gateway.jvm, lake, spark) for table in tables]
    return 0 if all(done) else 1


def _maintain(table: Table, settings: Settings, jvm: Any, lake: JvmLake, spark: Any) -> bool:
    try:
        with watermark.connect(settings.postgres) as postgres, told_in_a_line(settings.lake):
            maintain(Keeper(lake.load(table.name), table, jvm, postgres, _now, spark))
    except TOLD as error:
        get_logger(table=table.name).error("maintenance stopped", reason=reason(error))
        return False
    return True


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _spark(jvm: Any) -> Any:
    """A session in the JVM alone: no row passes through Python, so PySpark is not imported."""
    return jvm.org.apache.spark.sql.SparkSession.builder().appName("k2 maintenance").getOrCreate()


if __name__ == "__main__":
    end_with_spark()
    sys.exit(main(sys.argv[1:]))
