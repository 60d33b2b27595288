"""A batch of messages: its columns, its name, its offsets."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE

from k2.ingest.topic import Batch


@dataclass(frozen=True)
class Message:
    """What a batch asks of a message of confluent-kafka."""

    number: int
    place: int
    text: bytes | None = b"{}"
    time: tuple[int, int] = (TIMESTAMP_CREATE_TIME, 1_700_000_000_123)

    def value(self) -> bytes | None:
        return self.text

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.place

    def timestamp(self) -> tuple[int, int]:
        return self.time


def batch(*messages: Message) -> Batch:
    made = Batch(generation=1)
    for message in messages:
        made.add(message)  # type: ignore[arg-type]
    return made


def test_a_batch_is_named_by_its_first_and_last_offsets() -> None:
    made = batch(Message(3, 5), Message(0, 17), Message(3, 6), Message(0, 203))
    assert made.name == "0:17-203 3:5-6"
    assert made.ends == {0: 203, 3: 6}


def test_a_message_without_a_value_is_one_of_no_bytes() -> None:
    made = Batch(generation=1)
    assert made.add(Message(0, 1, None)) == 0  # type: ignore[arg-type]
    assert made.texts == [b""]


def test_a_message_without_a_time_has_none() -> None:
    made = batch(Message(0, 1), Message(0, 2, time=(TIMESTAMP_NOT_AVAILABLE, 0)))
    assert made.times == [1_700_000_000_123, None]
