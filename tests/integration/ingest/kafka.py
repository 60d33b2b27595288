"""A broker for tests: topics of their own for each test, and what was produced to them."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from k2.embedded import broker as kafka
from k2.registry import REGISTRY_DIRECTORY, Registry, load_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PARTITIONS = 3
PATIENCE_SECONDS = 180


@dataclass
class KafkaServer:
    """A broker that can be killed and started again."""

    broker: kafka.Broker

    @property
    def address(self) -> str:
        return self.broker.address

    def kill(self) -> None:
        kafka.kill(self.broker)

    def start_again(self) -> None:
        self.broker = kafka.start(self.broker.directory, port=self.broker.port)


@dataclass(frozen=True)
class Produced:
    """A message and the place that the broker gave it."""

    partition: int
    offset: int
    text: bytes


@dataclass(frozen=True)
class Topics:
    """Topics of both exchanges, and the registry that names them."""

    server: KafkaServer
    registry_directory: Path
    registry: Registry
    produced: dict[str, list[Produced]] = field(default_factory=dict)

    @staticmethod
    def create(server: KafkaServer, directory: Path, number: int) -> Topics:
        directory.mkdir()
        shutil.copy(REGISTRY_DIRECTORY / "tables.yaml", directory)
        document = yaml.safe_load((REGISTRY_DIRECTORY / "exchanges.yaml").read_text())
        for entry in document["exchanges"]:
            entry["topic"] += f".{number}"
            entry["consumer_group"] += f"_{number}"
        (directory / "exchanges.yaml").write_text(yaml.safe_dump(document))
        registry = load_registry(directory)
        topics = {exchange.topic: PARTITIONS for exchange in registry.exchanges}
        kafka.create_topics(server.address, topics)
        return Topics(server, directory, registry)

    def produce(self, exchange: str, texts: Iterable[str | bytes | None]) -> None:
        """Produce messages, spread over the partitions, and note where they are."""
        topic = self.registry.exchange(exchange).topic
        noted = self.produced.setdefault(exchange, [])

        def note(error: object, message: object) -> None:
            assert error is None, error
            value = message.value() or b""  # type: ignore[attr-defined]
            noted.append(Produced(message.partition(), message.offset(), value))  # type: ignore[attr-defined]

        producer = Producer({"bootstrap.servers": self.server.address, "log_level": 0})
        for number, text in enumerate(texts):
            producer.produce(topic, text, partition=number % PARTITIONS, on_delivery=note)
            if number % 10_000 == 9_999:
                producer.flush()
        producer.flush()

    def committed(self, exchange: str) -> dict[int, int]:
        """The committed offset of each partition that has one."""
        entry = self.registry.exchange(exchange)
        group = ConsumerGroupTopicPartitions(entry.consumer_group)
        admin = self._admin()
        done = admin.list_consumer_group_offsets([group])[entry.consumer_group].result()
        return {one.partition: one.offset for one in done.topic_partitions if one.offset >= 0}

    def ends(self, exchange: str) -> dict[int, int]:
        """The offset after the last message that was produced to each partition."""
        ends: dict[int, int] = {}
        for one in self.produced.get(exchange, []):
            ends[one.partition] = max(one.offset + 1, ends.get(one.partition, 0))
        return ends

    def is_consumed(self) -> bool:
        """Whether all that was produced is committed."""
        return all(self.committed(exchange) == self.ends(exchange) for exchange in self.produced)

    def set_back(self, exchange: str, messages: int) -> None:
        """Set the group's offsets back by so many messages, once its last member is gone."""
        entry = self.registry.exchange(exchange)
        admin = self._admin()
        described = admin.describe_consumer_groups
        wait_until(
            lambda: not described([entry.consumer_group])[entry.consumer_group].result().members
        )
        back = [
            TopicPartition(entry.topic, partition, max(0, offset - messages))
            for partition, offset in self.committed(exchange).items()
        ]
        group = ConsumerGroupTopicPartitions(entry.consumer_group, back)
        admin.alter_consumer_group_offsets([group])[entry.consumer_group].result()

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.server.address, "log_level": 0})


def wait_until(reached: Callable[[], bool]) -> None:
    """Look again and again; a machine that is busy only takes longer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
