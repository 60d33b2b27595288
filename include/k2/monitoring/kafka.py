"""What the exchanges' topics hold that their consumer groups have not committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka import (
    OFFSET_INVALID,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from k2.errors import StackError
from k2.monitoring import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.monitoring.metrics import Sample
    from k2.registry import Exchange, Registry

_REQUEST_SECONDS: Final = 5.0


def open_admin(brokers: str) -> AdminClient:
    """A client of the brokers, `host:port,...`; it connects at its first request."""
    return AdminClient({"bootstrap.servers": brokers, "client.id": "k2-metrics", "log_level": 0})


def require_broker(admin: AdminClient) -> None:
    """Raise StackError unless a broker answers."""
    try:
        admin.list_topics(timeout=_REQUEST_SECONDS)
    except KafkaException as error:
        raise StackError(f"Kafka cannot be used: {error.args[0].str()}") from error


def read_consumer_lags(admin: AdminClient, registry: Registry) -> Iterator[Sample]:
    """The lag of each partition of the exchanges' topics; of a topic that is not there, none."""
    topics = admin.list_topics(timeout=_REQUEST_SECONDS).topics
    for exchange in registry.exchanges:
        if exchange.topic in topics:
            for partition, lag in _lags(admin, exchange, sorted(topics[exchange.topic].partitions)):
                yield metrics.KAFKA_LAG.of(
                    lag, exchange=exchange.name, topic=exchange.topic, partition=str(partition)
                )


def _lags(
    admin: AdminClient, exchange: Exchange, partitions: list[int]
) -> Iterator[tuple[int, int]]:
    """Partition and lag. A group that has committed nothing yet has all messages before it."""
    places = [TopicPartition(exchange.topic, partition) for partition in partitions]
    committed = _committed(admin, exchange.consumer_group, places)
    ends = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    starts = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    for partition in partitions:
        # Messages that the topic has dropped are no lag any more.
        read = max(committed.get(partition, 0), starts[partition])
        yield partition, max(0, ends[partition] - read)


def _committed(admin: AdminClient, group: str, places: list[TopicPartition]) -> dict[int, int]:
    request = [ConsumerGroupTopicPartitions(group, places)]
    answers = admin.list_consumer_group_offsets(request, request_timeout=_REQUEST_SECONDS)
    found = answers[group].result().topic_partitions
    return {one.partition: one.offset for one in found if one.offset != OFFSET_INVALID}


def _offsets(admin: AdminClient, places: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
    answers = admin.list_offsets(dict.fromkeys(places, which), request_timeout=_REQUEST_SECONDS)
    return {place.partition: answer.result().offset for place, answer in answers.items()}
