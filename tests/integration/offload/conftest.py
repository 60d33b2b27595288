"""Tables of their own on the shared engines, and one JVM for all that Iceberg commits."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import py4j.java_gateway
import pytest
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from k2.clickhouse import connect
from k2.embedded.jars import JARS_DIRECTORY, fetch
from k2.embedded.java import java_home
from k2.embedded.spark import configure, spark_environment
from k2.offload import watermark
from k2.offload.catalog import ensure_table, load_table, open_catalog
from k2.offload.claim import Claim, offload_claim
from k2.offload.engine import Driver, Offload, run
from k2.offload.lake import JvmLake
from k2.offload.schema import Column, source_columns
from k2.registry import registry
from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clickhouse_connect.driver.client import Client
    from pyiceberg.table import Table as IcebergTable

    from k2.offload.engine import LakeTable
    from k2.registry import Table
    from k2.settings import Settings

_numbers = itertools.count(1)
# A catalog keeps its connections for as long as the JVM lives.
_lake = functools.cache(JvmLake)

# What the offload relies on of each layer, in the types that the layers use.
COLUMNS = {
    "bronze": """
        exchange_timestamp DateTime64(3, 'UTC'),
        sequence_number UInt64,
        symbol LowCardinality(String),
        price Decimal(18, 8),
        kafka_offset UInt64,
        kafka_partition UInt16,
        ingestion_timestamp DateTime64(3, 'UTC') default now64(3),
        arrival_rank UInt64 materialized 0
    """,
    "silver": """
        exchange LowCardinality(String),
        canonical_symbol LowCardinality(String),
        timestamp DateTime64(3, 'UTC'),
        trade_id UInt64,
        price Decimal(18, 8),
        kafka_offset UInt64,
        kafka_partition UInt16,
        ingestion_timestamp DateTime64(3, 'UTC') default now64(3),
        arrival_rank UInt128
    """,
    "gold": """
        exchange LowCardinality(String),
        canonical_symbol LowCardinality(String),
        window_start DateTime64(3, 'UTC'),
        close Decimal(18, 8),
        volume Decimal(38, 8),
        trades UInt64,
        settled_at DateTime64(6, 'UTC')
    """,
}
ENGINES = {
    "bronze": "ReplacingMergeTree(arrival_rank)"
    " order by (kafka_partition, kafka_offset, sequence_number)",
    "silver": "ReplacingMergeTree(arrival_rank)"
    " order by (exchange, canonical_symbol, timestamp, trade_id)",
    "gold": "ReplacingMergeTree(settled_at) order by (exchange, canonical_symbol, window_start)",
}
EXAMPLES = {"bronze": "bronze_trades_binance", "silver": "silver_trades", "gold": "ohlcv_1m"}


@dataclass(frozen=True)
class Bench:
    """One table of a layer in ClickHouse, its twin in the lake, and all that moves rows."""

    settings: Settings
    client: Client
    gateway: Any
    table: Table

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def columns(self) -> tuple[Column, ...]:
        return source_columns(self.client, self.table)

    def with_table(self, **changes: Any) -> Bench:
        """The same, with another registry entry."""
        return replace(self, table=self.table.model_copy(update=changes))

    def create_lake_table(self) -> None:
        ensure_table(open_catalog(self.settings), self.settings, self.table, self.columns)

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows as one block; their keys are columns."""
        names = list(rows[0])
        values = [[row[name] for name in names] for row in rows]
        self.client.insert(self.name, values, column_names=names)

    def lake_table(self) -> LakeTable:
        return _lake(self.gateway, self.settings).load(self.name)

    def driver(self, held: Claim, wrap: Callable[[LakeTable], LakeTable] | None = None) -> Driver:
        lake = self.lake_table()
        now = lambda: dt.datetime.now(dt.UTC)  # noqa: E731
        lake = wrap(lake) if wrap else lake
        return Driver(self.client, lake, held, self.table, now, self.spark)

    def spark(self) -> SparkSession:
        """A session in the JVM of the gateway; its workers reach the same services."""
        SparkContext._ensure_initialized(gateway=self.gateway)
        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        for name, value in environment_of(self.settings).items():
            builder = builder.config(f"spark.executorEnv.{name}", value)
        return builder.getOrCreate()

    def offload(self, wrap: Callable[[LakeTable], LakeTable] | None = None) -> Offload:
        """One run of the offload, from claim to release."""
        with offload_claim(self.settings.postgres, self.name) as held:
            return run(self.driver(held, wrap))

    def iceberg(self) -> IcebergTable:
        return load_table(open_catalog(self.settings), self.settings, self.name)

    def snapshots(self) -> list[int]:
        return [snapshot.snapshot_id for snapshot in self.iceberg().snapshots()]

    def lake_rows(self) -> list[tuple[Any, ...]]:
        """All rows in Iceberg, sorted; times without their zone, which is UTC."""
        rows = self.iceberg().scan().to_arrow().to_pylist()
        names = [column.name for column in self.columns]
        return sorted(tuple(_plain(row[name]) for name in names) for row in rows)

    def source_rows(self) -> list[tuple[Any, ...]]:
        """All rows in ClickHouse, deduplicated, sorted."""
        names = ", ".join(column.name for column in self.columns)
        rows = self.client.query(f"select {names} from {self.name} final").result_rows
        return sorted(tuple(_plain(value) for value in row) for row in rows)

    def files(self) -> set[Path]:
        """Every Parquet file below the table's location, committed or not."""
        location = Path(self.iceberg().location().removeprefix("file:"))
        return set(location.rglob("*.parquet"))

    def committed_files(self) -> dict[str, list[str]]:
        """The files of the current snapshot, by partition as its path has it."""
        found: dict[str, list[str]] = {}
        for task in self.iceberg().scan().plan_files():
            path = task.file.file_path
            found.setdefault(path.rsplit("/", 1)[1].removesuffix(".parquet"), []).append(path)
        return found

    def watermark(self) -> dict[str, Any]:
        """The table's row in PostgreSQL."""
        return self.sql("select * from offload_watermarks where table_name = %s", self.name)[0]

    def history(self) -> list[dict[str, Any]]:
        """The recorded batches, oldest first."""
        return self.sql(
            "select * from offload_batches where table_name = %s order by recorded_at", self.name
        )

    def expire_lease(self) -> None:
        """As if two minutes had passed without a sign of the driver."""
        self.sql(
            "update offload_watermarks set lease_until = now() - interval '1 second'"
            " where table_name = %s",
            self.name,
        )

    def forget(self) -> None:
        """Forget a table of this name that another test had."""
        for table in (
            "offload_watermarks",
            "offload_batches",
            "offload_totals",
            "audits",
            "audit_differences",
        ):
            self.sql(f"delete from {table} where table_name = %s", self.name)
        catalog, lake = open_catalog(self.settings), self.settings.lake
        if catalog.table_exists((lake.namespace, self.name)):
            catalog.drop_table((lake.namespace, self.name))

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run a statement in the database of the watermarks."""
        with watermark.connect(self.settings.postgres) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


@pytest.fixture(scope="session")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway to a JVM with Iceberg, as spark-submit gives one to the offload job."""
    configuration, java = tmp_path_factory.mktemp("spark"), java_home()
    fetch(JARS_DIRECTORY, java)
    configure(configuration, JARS_DIRECTORY, java)
    with _environment(**spark_environment(configuration, java)):
        gateway = launch_gateway()
        yield gateway
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=60)


@pytest.fixture(scope="session")
def client(services: Settings) -> Iterator[Client]:
    with connect(services.clickhouse) as connected:
        yield connected


@pytest.fixture
def make_bench(services: Settings, client: Client, jvm: Any) -> Callable[..., Bench]:
    """Make a bench: `layer` gives columns and registry entry, both can be changed."""

    def make(
        layer: str, *, columns: str | None = None, engine: str | None = None, **changes: Any
    ) -> Bench:
        name = f"{layer}_{next(_numbers)}"
        client.command(
            f"create table {name} ({columns or COLUMNS[layer]}) engine = {engine or ENGINES[layer]}"
        )
        table = registry().table(EXAMPLES[layer]).model_copy(update={"name": name, **changes})
        bench = Bench(services, client, jvm, table)
        bench.create_lake_table()
        return bench

    return make


@pytest.fixture
def bronze(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench("bronze")


@pytest.fixture
def silver(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench("silver")


@pytest.fixture
def gold(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench("gold")


@pytest.fixture
def spark(services: Settings, jvm: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SparkSession]:
    """A Spark session with the lake, in the shared JVM; afterwards Py4J is without its errors."""
    for owner, name in (
        (py4j.java_gateway, "get_return_value"),
        (SparkContext, "_gateway"),
        (SparkContext, "_jvm"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    postgres = services.postgres
    catalog = {
        "": "org.apache.iceberg.spark.SparkCatalog",
        ".catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        ".uri": f"jdbc:postgresql://127.0.0.1:{postgres.port}/lake",
        ".jdbc.user": postgres.user,
        ".jdbc.password": postgres.password,
        ".jdbc.schema-version": "V1",
        ".warehouse": services.lake.warehouse,
    }
    configuration = SparkConf(_jvm=jvm.jvm).setMaster("local[1]").setAppName("test")
    configuration.set("spark.driver.host", "127.0.0.1")
    configuration.set("spark.sql.shuffle.partitions", "1")
    extensions = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
    configuration.set("spark.sql.extensions", extensions)
    for name, value in catalog.items():
        configuration.set(f"spark.sql.catalog.lake{name}", value)
    context = SparkContext(conf=configuration, gateway=jvm)
    yield SparkSession(context)
    context.stop()


@contextmanager
def _environment(**variables: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setitem(os.environ, name, str(value))
        yield
