"""The stores that metrics are read from, each with the parts that are read of it."""

from __future__ import annotations

import functools
import shutil
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2.clickhouse import connect
from k2.errors import StackError
from k2.monitoring import metrics, offloads, pipeline
from k2.offload import watermark
from k2.offload.history import read_histories
from k2.offload.storage import storage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from confluent_kafka.admin import AdminClient

    from k2.monitoring.metrics import Sample
    from k2.offload.history import TableHistory
    from k2.registry import Registry, Table
    from k2.settings import ClickHouse, Lake, Postgres


@dataclass(frozen=True)
class Store:
    """One store. `connect` raises StackError, or an error of the store's driver, if it is down."""

    name: str
    connect: Callable[[], AbstractContextManager[Any]]
    parts: Mapping[str, Callable[[Any], Iterable[Sample]]]


def postgres_store(
    postgres: Postgres, registry: Registry, histories: dict[str, TableHistory]
) -> Store:
    """PostgreSQL; what it knows of the offloads is put into `histories` too."""

    def offload(connection: Any) -> Iterator[Sample]:
        histories.update(read_histories(connection))
        return offloads.read_offloads(registry, histories)

    return Store(
        "postgres",
        lambda: closing(watermark.connect(postgres)),
        {
            "offload": offload,
            "audit": functools.partial(offloads.read_differences, registry=registry),
        },
    )


def clickhouse_store(
    clickhouse: ClickHouse,
    registry: Registry,
    histories: Mapping[str, TableHistory] | None,
    *,
    timeout: float,
) -> Store:
    """ClickHouse; without `histories`, as when PostgreSQL is down, no lag can be told."""

    def lag(client: Any, table: Table) -> Iterator[Sample]:
        if histories is None:
            raise StackError("the watermarks in PostgreSQL could not be read")
        return offloads.read_waiting(client, table, histories.get(table.name))

    return Store(
        "clickhouse",
        lambda: closing(connect(clickhouse, timeout=timeout)),
        {
            "ingestion": functools.partial(pipeline.read_ingestion, registry=registry),
            "silver": functools.partial(pipeline.read_silver, registry=registry),
            "gold": functools.partial(pipeline.read_gold, registry=registry),
            "query": pipeline.read_query,
            "dead_letters": pipeline.read_dead_letters,
            "quality": pipeline.read_quality,
            "sizes": pipeline.read_sizes,
            "disks": pipeline.read_disks,
            # A part for each, so that a table which is not there hides no other.
            **{
                f"lag {table.name}": functools.partial(lag, table=table)
                for table in registry.tables
            },
        },
    )


def kafka_store(admin: AdminClient, registry: Registry) -> Store:
    """The brokers."""
    from k2.monitoring.kafka import read_consumer_lags, require_broker

    @contextmanager
    def connect_to_brokers() -> Iterator[AdminClient]:
        require_broker(admin)
        yield admin

    return Store(
        "kafka",
        connect_to_brokers,
        {"consumer_lag": functools.partial(read_consumer_lags, registry=registry)},
    )


def lake_store(lake: Lake) -> Store | None:
    """The disk of the lake, if it is one."""
    path = storage_of(lake).folder(lake.warehouse)
    if path is None:
        return None

    def read_disk(usage: Any) -> Iterator[Sample]:
        yield metrics.DISK_FREE.of(usage.free, disk="lake")
        yield metrics.DISK_SIZE.of(usage.total, disk="lake")

    @contextmanager
    def connect_to_disk() -> Iterator[Any]:
        try:
            yield shutil.disk_usage(path)
        except OSError as error:
            raise StackError(f"the lake cannot be used: {error}") from error

    return Store("lake", connect_to_disk, {"lake_disk": read_disk})
