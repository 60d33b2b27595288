"""The lag of a consumer group, on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Consumer

from k2.monitoring.kafka import open_admin, read_consumer_lags

from .kafka import PARTITIONS

if TYPE_CHECKING:
    from .kafka import Topics


def lags(topics: Topics) -> dict[tuple[str, str], float]:
    """Messages by exchange and partition."""
    samples = read_consumer_lags(open_admin(topics.server.address), topics.registry)
    return {(one.labels[0], one.labels[2]): one.value for one in samples}


def consume(topics: Topics, exchange: str, count: int) -> None:
    """Read messages as a member of the exchange's group, and commit them."""
    entry = topics.registry.exchange(exchange)
    consumer = Consumer(
        {
            "bootstrap.servers": topics.server.address,
            "group.id": entry.consumer_group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([entry.topic])
    try:
        left = count
        while left:
            left -= len(consumer.consume(left, 1.0))
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()


def test_lag_is_what_the_group_has_not_committed(topics: Topics) -> None:
    nothing = {
        (exchange.name, str(partition)): 0
        for exchange in topics.registry.exchanges
        for partition in range(PARTITIONS)
    }
    assert lags(topics) == nothing
    topics.produce("kraken", ["a message"] * 3 * PARTITIONS)
    # Nobody has read the topic yet: all of it waits.
    waiting = {key: 3 if key[0] == "kraken" else 0 for key in nothing}
    assert lags(topics) == waiting
    consume(topics, "kraken", 3 * PARTITIONS)
    assert lags(topics) == nothing
    topics.produce("kraken", ["another"])
    assert sum(lags(topics).values()) == 1


def test_a_topic_that_is_not_there_has_no_lag(topics: Topics) -> None:
    from k2.registry import registry

    # The registry of this bundle names topics that this broker does not have.
    assert list(read_consumer_lags(open_admin(topics.server.address), registry())) == []
