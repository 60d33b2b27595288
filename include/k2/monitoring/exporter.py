"""The exporter: reads every store when it is asked, and gives what it got as Prometheus's text.

A store that is down, or hangs, costs its own metrics and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from k2.errors import StackError
from k2.logs import get_logger
from k2.monitoring import metrics
from k2.monitoring.stores import clickhouse_store, kafka_store, lake_store, postgres_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from confluent_kafka.admin import AdminClient
    from prometheus_client.core import Metric as Family

    from k2.monitoring.metrics import Metric, Sample
    from k2.monitoring.stores import Store
    from k2.offload.history import TableHistory
    from k2.registry import Registry
    from k2.settings import Settings

# PostgreSQL comes before ClickHouse, so a scrape takes up to twice as long.
STORE_SECONDS: Final = 8.0


@dataclass
class Reading:
    """What one store gave: samples, and by part why there are none; `trouble` if it is down."""

    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    trouble: str | None = None


class Exporter(Collector):
    """Collects the metrics of a K2, one scrape at a time."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        brokers: str | None = None,
        store_seconds: float = STORE_SECONDS,
    ) -> None:
        """`brokers`: Kafka bootstrap servers, where topics are read from Kafka."""
        self._settings = settings
        self._registry = registry
        self._admin = _open_admin(brokers) if brokers else None
        self._store_seconds = store_seconds
        self._scraping = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._troubles: dict[str, str] = {}

    def describe(self) -> Iterator[Family]:
        """Every metric, without values: nothing is read for it."""
        return _families([])

    def collect(self) -> Iterator[Family]:
        """Every metric, with the values that could be read."""
        with self._scraping:
            samples = list(self._samples())
        return _families(samples)

    def _samples(self) -> Iterator[Sample]:
        histories: dict[str, TableHistory] = {}
        others = [
            postgres_store(self._settings.postgres, self._registry, histories),
            lake_store(self._settings.lake),
            # A client without waiting requests has the length 0.
            None if self._admin is None else kafka_store(self._admin, self._registry),
        ]
        readings = self._read([store for store in others if store is not None])
        postgres = readings["postgres"]
        known = postgres.trouble is None and "offload" not in postgres.failures
        clickhouse = clickhouse_store(
            self._settings.clickhouse,
            self._registry,
            # As they are now: a thread that hung may still add to them.
            dict(histories) if known else None,
            timeout=self._store_seconds,
        )
        readings |= self._read([clickhouse])
        for name, reading in readings.items():
            yield metrics.UP.of(reading.trouble is None, store=name)
            yield from reading.samples
        self._log(readings)

    def _read(self, stores: list[Store]) -> dict[str, Reading]:
        """Read stores beside each other; one that does not answer in time is down."""
        readings = {store.name: Reading(trouble="it does not answer") for store in stores}
        hanging = {name for name, thread in self._threads.items() if thread.is_alive()}
        asked = [store for store in stores if store.name not in hanging]
        for store in asked:
            # Not of a pool: a pool's threads would hold up the end of the program.
            thread = threading.Thread(target=_read_into, args=(readings, store), daemon=True)
            self._threads[store.name] = thread
            thread.start()
        deadline = time.monotonic() + self._store_seconds
        for store in asked:
            self._threads[store.name].join(max(0.0, deadline - time.monotonic()))
        return dict(readings)

    def _log(self, readings: Mapping[str, Reading]) -> None:
        """A line when something begins to fail, or to fail otherwise, and when it is back."""
        troubles: dict[str, str] = {}
        for store, reading in readings.items():
            if reading.trouble is not None:
                troubles[store] = reading.trouble
            troubles |= {f"{store}: {part}": why for part, why in reading.failures.items()}
        for what, why in troubles.items():
            if self._troubles.get(what) != why:
                get_logger(what=what).warning("metrics.missing", reason=why)
        for what in self._troubles.keys() - troubles.keys():
            get_logger(what=what).warning("metrics.back")
        self._troubles = troubles


def exposition(exporter: Exporter) -> str:
    """All metrics once, in Prometheus's text format."""
    return generate_latest(_registry_of(exporter)).decode()


@contextmanager
def serving(exporter: Exporter, host: str, port: int) -> Iterator[None]:
    """Serve the metrics over HTTP, from a thread, for the duration of the block.

    Raises:
        StackError: the port cannot be used.
    """
    try:
        server, thread = start_http_server(port, host, _registry_of(exporter))
    except OSError as error:
        raise StackError(
            f"{host}:{port} cannot be used ({error.strerror}); choose another port with --port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry_of(exporter: Exporter) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(exporter)
    return registry


def _open_admin(brokers: str) -> AdminClient:
    from k2.monitoring.kafka import open_admin

    return open_admin(brokers)


def _read_into(readings: dict[str, Reading], store: Store) -> None:
    readings[store.name] = _read_store(store)


def _read_store(store: Store) -> Reading:
    """Read every part of a store; a part that fails takes no other with it."""
    reading = Reading()
    try:
        with store.connect() as connection:
            for part, read in store.parts.items():
                began = time.monotonic()
                try:
                    samples = list(read(connection))
                except Exception as error:  # whatever it is, the other parts are read
                    reading.failures[part] = _line(error)
                else:
                    reading.samples += samples
                success = part not in reading.failures
                reading.samples.append(metrics.READ_SUCCESS.of(success, part=part))
                seconds = time.monotonic() - began
                reading.samples.append(metrics.READ_SECONDS.of(seconds, part=part))
    except Exception as error:  # whatever it is, the other stores are read
        reading.trouble = _line(error)
    return reading


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _families(samples: Iterable[Sample]) -> Iterator[Family]:
    values: dict[Metric, list[Sample]] = defaultdict(list)
    for sample in samples:
        values[sample.metric].append(sample)
    for metric in metrics.METRICS:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for sample in values[metric]:
            family.add_metric(sample.labels, sample.value)
        yield family
