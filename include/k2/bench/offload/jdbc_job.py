"""The baseline: Spark reads ClickHouse over JDBC in one partition and appends to Iceberg.

`spark-submit jdbc_job.py TABLE QUERY`; with an empty query it only opens the session and the table,
which is the fixed cost of such a job. Prints what it did as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

from pyspark.sql import SparkSession

from k2.settings import Settings, load_settings

DRIVER = "com.clickhouse.jdbc.ClickHouseDriver"


def main(table: str, query: str) -> None:
    """Append the rows of a query in ClickHouse to a table of the lake."""
    settings = load_settings(os.environ)
    spark = _session(settings)
    name = f"{settings.lake.catalog}.{settings.lake.namespace}.{table}"
    if not query:
        spark.table(name).schema  # noqa: B018 - loads the table
        return
    clickhouse = settings.clickhouse
    began = time.monotonic()
    rows = (
        spark.read.format("jdbc")
        .option(
            "url",
            f"jdbc:clickhouse://{clickhouse.host}:{clickhouse.port}/{clickhouse.database}?compress=0",
        )
        .option("driver", DRIVER)
        .option("user", clickhouse.user)
        .option("password", clickhouse.password)
        .option("query", query)
        .option("fetchsize", "100000")
        .load()
    )
    rows.writeTo(name).append()
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - began}) + "\n")


def _session(settings: Settings) -> SparkSession:
    postgres, lake = settings.postgres, settings.lake
    catalog = f"spark.sql.catalog.{lake.catalog}"
    options = {
        "spark.sql.extensions": (
            "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        ),
        "spark.sql.session.timeZone": "UTC",
        catalog: "org.apache.iceberg.spark.SparkCatalog",
        f"{catalog}.type": "jdbc",
        f"{catalog}.uri": f"jdbc:postgresql://{postgres.host}:{postgres.port}/lake",
        f"{catalog}.jdbc.user": postgres.user,
        f"{catalog}.jdbc.password": postgres.password,
        f"{catalog}.jdbc.schema-version": "V1",
        f"{catalog}.warehouse": lake.warehouse,
    }
    builder = SparkSession.builder.appName("k2 bench: JDBC")
    for name, value in options.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
