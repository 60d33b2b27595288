"""Every metric of the exporter: name, labels, kind, and what it means.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters, a time
as `_timestamp_seconds`, from which a query takes the age.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

TABLE: Final = ("layer", "table")
EXCHANGE: Final = ("exchange",)


@dataclass(frozen=True)
class Metric:
    """One metric; `help` is shown by Prometheus and in docs/monitoring.md."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def of(self, value: float, **labels: str) -> Sample:
        """A value of it. Raises KeyError or ValueError for labels that are not its own."""
        if labels.keys() != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return Sample(self, float(value), tuple(labels[name] for name in self.labels))


@dataclass(frozen=True)
class Sample:
    """A value of a metric; labels in the metric's order."""

    metric: Metric
    value: float
    labels: tuple[str, ...]


# The stores, and how the exporter itself fares.
UP: Final = Metric(
    "k2_up",
    "1 if the store answered this scrape, else 0. Of a store that is not configured there is none.",
    ("store",),
)
READ_SUCCESS: Final = Metric(
    "k2_read_success",
    "1 if this part of the metrics could be read, else 0 and its metrics are missing.",
    ("part",),
)
READ_SECONDS: Final = Metric(
    "k2_read_seconds", "Seconds that reading this part of the metrics took.", ("part",)
)

# The offload of each table.
LAG_ROWS: Final = Metric(
    "k2_offload_lag_rows",
    "Rows in ClickHouse that are beyond the watermark; at least so many, when there are millions.",
    TABLE,
)
LAG_SECONDS: Final = Metric(
    "k2_offload_lag_seconds", "Age of the oldest row beyond the watermark; 0 without one.", TABLE
)
LAST_ROWS: Final = Metric("k2_offload_last_batch_rows", "Rows of the newest batch.", TABLE)
LAST_BYTES: Final = Metric(
    "k2_offload_last_batch_bytes", "Bytes of the files of the newest batch.", TABLE
)
LAST_SECONDS: Final = Metric(
    "k2_offload_last_batch_seconds", "Seconds of the newest batch, from plan to commit.", TABLE
)
LAST_RATE: Final = Metric(
    "k2_offload_last_batch_rows_per_second", "Rows of the newest batch by its seconds.", TABLE
)
LAST_COMMIT: Final = Metric(
    "k2_offload_last_batch_timestamp_seconds", "When the newest batch was committed.", TABLE
)
ROWS: Final = Metric("k2_offload_rows_total", "Rows offloaded.", TABLE, "counter")
BYTES: Final = Metric("k2_offload_bytes_total", "Bytes of the files offloaded.", TABLE, "counter")
BATCHES: Final = Metric("k2_offload_batches_total", "Batches committed.", TABLE, "counter")
BUSY: Final = Metric(
    "k2_offload_batch_seconds_total",
    "Seconds that batches took, from plan to commit.",
    TABLE,
    "counter",
)
SUCCESSES: Final = Metric(
    "k2_offload_successes_total",
    "Runs that ended well, with new rows or without.",
    TABLE,
    "counter",
)
FAILURES: Final = Metric(
    "k2_offload_failures_total",
    "Runs that ended with an error. One that was killed, or could not claim, is not counted.",
    TABLE,
    "counter",
)
SUCCEEDED: Final = Metric(
    "k2_offload_success_timestamp_seconds", "When a run last ended well.", TABLE
)
FAILED: Final = Metric(
    "k2_offload_failure_timestamp_seconds", "When a run last ended with an error.", TABLE
)
CLAIM_HELD: Final = Metric(
    "k2_offload_claim_held", "1 while a driver holds the claim of the table, else 0.", TABLE
)
CLAIMED: Final = Metric(
    "k2_offload_claim_timestamp_seconds", "When the claim that is held was taken.", TABLE
)
LEASE: Final = Metric(
    "k2_offload_lease_timestamp_seconds",
    "When the lease of the claim that is held runs out; a living driver renews it.",
    TABLE,
)

# The audit.
DIFFERENCES: Final = Metric(
    "k2_audit_differences",
    "Partitions in which ClickHouse and Iceberg differed when they were last audited.",
    TABLE,
)
AUDITED: Final = Metric(
    "k2_audit_timestamp_seconds", "When partitions of the table were last audited.", TABLE
)

# Sizes.
TABLE_ROWS: Final = Metric("k2_table_rows", "Rows in ClickHouse, before deduplication.", ("table",))
TABLE_BYTES: Final = Metric("k2_table_bytes", "Bytes on disk in ClickHouse.", ("table",))

# The way of the trades.
INGESTION_RATE: Final = Metric(
    "k2_ingestion_rows_per_second", "Trades that reached Bronze, over the last minute.", EXCHANGE
)
INGESTED: Final = Metric(
    "k2_ingestion_timestamp_seconds", "When the newest trade reached Bronze.", EXCHANGE
)
KAFKA_LAG: Final = Metric(
    "k2_kafka_consumer_lag_messages",
    "Messages of the topic's partition that its consumer group has not committed.",
    ("exchange", "topic", "partition"),
)
DEAD_LETTERS: Final = Metric(
    "k2_dead_letters_last_hour",
    "Dead letters that came in the last hour; without any of a reason there is none.",
    ("exchange", "reason"),
)
SILVER_RATE: Final = Metric(
    "k2_silver_rows_per_second",
    "Trades that reached Silver, over the last minute: normalised, not deduplicated.",
    EXCHANGE,
)
SILVER_LAG: Final = Metric(
    "k2_silver_lag_seconds",
    "By how much the newest trade of Silver is older than that of Bronze; at most 60.",
    EXCHANGE,
)
GOLD_LAG: Final = Metric(
    "k2_gold_lag_seconds", "Seconds since the time up to which candles are settled.", ("table",)
)
CANDLE: Final = Metric(
    "k2_candle_timestamp_seconds", "Start of the newest settled candle.", ("table",)
)
LIVE: Final = Metric(
    "k2_live_candle_timestamp_seconds", "Arrival of the newest trade that live candles show."
)
QUERY_SECONDS: Final = Metric(
    "k2_query_seconds",
    "Seconds of a query that a reader of candles would make: the last minutes of all markets.",
    ("query",),
)

# Data quality.
FINDINGS: Final = Metric(
    "k2_quality_findings",
    "What the newest checks of the layer found, as the tests of dbt judge it.",
    ("layer", "status"),
)
FINDING: Final = Metric(
    "k2_quality_finding_value",
    "The value of each finding of the newest checks; without findings there is none.",
    ("layer", "status", "check", "exchange", "symbol"),
)
CHECKED: Final = Metric(
    "k2_quality_timestamp_seconds", "When the layer was last built and checked.", ("layer",)
)

# Disks.
DISK_FREE: Final = Metric("k2_disk_free_bytes", "Free bytes of the disk.", ("disk",))
DISK_SIZE: Final = Metric("k2_disk_size_bytes", "Size of the disk.", ("disk",))

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
