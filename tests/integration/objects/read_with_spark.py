"""A job of a user: reads a table of the lake with Spark SQL, and prints how many rows it has."""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

from k2.offload.storage import storage_of
from k2.settings import load_settings

settings = load_settings(os.environ)
postgres, lake = settings.postgres, settings.lake
catalog = {
    "": "org.apache.iceberg.spark.SparkCatalog",
    ".catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
    ".uri": f"jdbc:postgresql://{postgres.host}:{postgres.port}/lake",
    ".jdbc.user": postgres.user,
    ".jdbc.password": postgres.password,
    ".jdbc.schema-version": "V1",
    ".warehouse": lake.warehouse,
    **{f".{name}": value for name, value in storage_of(lake).catalog_properties.items()},
}
builder = SparkSession.builder
for name, value in catalog.items():
    builder = builder.config(f"spark.sql.catalog.{lake.catalog}{name}", value)
spark = builder.getOrCreate()
(row,) = spark.sql(
    f"select count(*) as rows from {lake.catalog}.{lake.namespace}.{sys.argv[1]}"
).collect()
sys.stdout.write(f"rows={row['rows']}\n")
