"""`k2 ingest` on a real broker and a real ClickHouse: whatever dies, each message arrives once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from k2.clickhouse import connect
from k2.embedded import clickhouse as clickhouse_server
from k2.ingest.bronze import create_bronze
from k2.settings import ClickHouse

from .conftest import PASSWORD, Bronze, free_port
from .kafka import wait_until
from .messages import binance, kraken, kraken_trade

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .kafka import KafkaServer, Topics

POISON = ("", "junk", '{"e":"kline"}', '{"channel":"book"}', None, b"\xff\xfe")


@dataclass
class Ingest:
    """Runs `k2 ingest` for the topics and the bronze of a test."""

    topics: Topics
    bronze: Bronze
    log: Path

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        url = urlsplit(self.bronze.client.url)
        environment = {
            **os.environ,
            "K2_REGISTRY": str(self.topics.registry_directory),
            "K2_KAFKA_BROKERS": self.topics.server.address,
            "K2_CLICKHOUSE_HOST": "127.0.0.1",
            "K2_CLICKHOUSE_PORT": str(url.port),
            "K2_CLICKHOUSE_USER": "k2",
            "K2_CLICKHOUSE_PASSWORD": PASSWORD,
            "K2_CLICKHOUSE_DATABASE": self.bronze.database,
            "K2_POSTGRES_HOST": "127.0.0.1",
            "K2_POSTGRES_PORT": "1",
            "K2_POSTGRES_USER": "k2",
            "K2_POSTGRES_PASSWORD": PASSWORD,
            "K2_LAKE_WAREHOUSE": "/nowhere",
        }
        command = [sys.executable, "-m", "k2.cli", "ingest", "--verbose", "--interval", "0"]
        command += ["--batch-messages", "2000"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--session-seconds", "1", *arguments], env=environment, stderr=log
            )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """For the duration of the block; then it is asked to end, and must end well."""
        process = self.start(*arguments)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self.log.read_text()
        finally:
            process.kill()
            process.wait()

    def wait_for_batches(self, count: int) -> None:
        """Wait until so many more batches are in the log."""
        there = self.log.read_text().count("ingest.batch ") if self.log.exists() else 0
        wait_until(lambda: self.log.read_text().count("ingest.batch ") >= there + count)


@pytest.fixture
def ingest(topics: Topics, bronze: Bronze, tmp_path: Path) -> Ingest:
    return Ingest(topics, bronze, tmp_path / "ingest.log")


def binance_mix(first: int, count: int) -> list[str | bytes | None]:
    """Messages of Binance; each hundredth is poison."""
    return [
        POISON[number // 100 % len(POISON)] if number % 100 == 50 else binance(number)
        for number in range(first, first + count)
    ]


def kraken_mix(first: int, count: int) -> list[str | bytes | None]:
    """Messages of Kraken with two trades each; each hundredth is poison."""
    return [
        POISON[number // 100 % len(POISON)]
        if number % 100 == 50
        else kraken(kraken_trade(2 * number), kraken_trade(2 * number + 1))
        for number in range(first, first + count)
    ]


def require_each_message_once(ingest: Ingest) -> None:
    """What was produced is in Bronze, or a dead letter, at its place, and nothing else is."""
    bronze, produced = ingest.bronze, ingest.topics.produced
    for exchange, messages in produced.items():
        trades = {
            (one.partition, one.offset, trade_id)
            for one in messages
            for trade_id in trade_ids(one.text)
        }
        arrived = bronze.rows(
            f"select kafka_partition, kafka_offset, sequence_number"
            f" from {{db}}.bronze_trades_{exchange} final"
        )
        assert len(arrived) == len(trades)
        assert set(arrived) == trades
        poison = {
            (one.partition, one.offset, one.text) for one in messages if not trade_ids(one.text)
        }
        # Hexadecimal: some of the messages are no text.
        dead = bronze.rows(
            "select kafka_partition, kafka_offset, hex(raw_message) from {db}.dead_letters final"
            f" where exchange = '{exchange}'"
        )
        assert len(dead) == len(poison)
        assert {(row[0], row[1], bytes.fromhex(str(row[2]))) for row in dead} == poison


def trade_ids(text: bytes) -> list[int]:
    """The ids in a message of this test, found without parsing it as K2 does."""
    parts = text.replace(b'"trade_id":', b'"t":').split(b'"t":')
    return [int(part.split(b",")[0]) for part in parts[1:]]


def test_killed_again_and_again_it_leaves_each_message_once(ingest: Ingest) -> None:
    ingest.topics.produce("binance", binance_mix(0, 12_000))
    ingest.topics.produce("kraken", kraken_mix(0, 4_000))
    for round_ in range(1, 4):
        process = ingest.start()
        ingest.wait_for_batches(round_)
        process.kill()
        process.wait()
        ingest.topics.produce("binance", binance_mix(100_000 * round_, 2_000))
        ingest.topics.produce("kraken", kraken_mix(100_000 * round_, 1_000))
    with ingest.running():
        wait_until(ingest.topics.is_consumed)
    require_each_message_once(ingest)


def test_offsets_that_are_set_back_add_nothing(ingest: Ingest) -> None:
    ingest.topics.produce("binance", binance_mix(0, 3_000))
    # Merges would hide that messages are delivered again.
    ingest.bronze.client.command(
        f"system stop merges {ingest.bronze.database}.bronze_trades_binance"
    )
    with ingest.running("binance"):
        wait_until(ingest.topics.is_consumed)
    ingest.topics.set_back("binance", 700)
    assert not ingest.topics.is_consumed()
    with ingest.running("binance"):
        wait_until(ingest.topics.is_consumed)
    require_each_message_once(ingest)
    ((rows,),) = ingest.bronze.rows("select count() from {db}.bronze_trades_binance")
    ((kept,),) = ingest.bronze.rows("select count() from {db}.bronze_trades_binance final")
    assert rows > kept


def test_asked_to_end_it_finishes_commits_and_leaves_the_group(ingest: Ingest) -> None:
    ingest.topics.produce("binance", binance_mix(0, 10_000))
    with ingest.running("binance"):
        ingest.wait_for_batches(1)
    # What is in Bronze is committed, and nothing else.
    done = ingest.bronze.rows(
        "select kafka_partition, max(kafka_offset) + 1 from"
        " (select kafka_partition, kafka_offset from {db}.bronze_trades_binance union all"
        " select kafka_partition, kafka_offset from {db}.dead_letters) group by 1"
    )
    assert dict(done) == ingest.topics.committed("binance")
    with ingest.running("binance"):
        wait_until(ingest.topics.is_consumed)
    require_each_message_once(ingest)


def test_members_that_join_and_leave_lose_nothing(ingest: Ingest) -> None:
    ingest.topics.produce("binance", binance_mix(0, 5_000))
    with ingest.running("binance"):
        ingest.wait_for_batches(1)
        with ingest.running("binance"):
            wait_until(lambda: ingest.log.read_text().count("kafka.revoked") >= 1)
            ingest.topics.produce("binance", binance_mix(100_000, 5_000))
            ingest.wait_for_batches(2)
        ingest.topics.produce("binance", binance_mix(200_000, 5_000))
        wait_until(ingest.topics.is_consumed)
    require_each_message_once(ingest)


def test_a_broker_that_goes_away_is_waited_for(ingest: Ingest, server: KafkaServer) -> None:
    ingest.topics.produce("kraken", kraken_mix(0, 500))
    with ingest.running("kraken"):
        ingest.wait_for_batches(1)
        server.kill()
        wait_until(lambda: "kafka.trouble" in ingest.log.read_text())
        server.start_again()
        ingest.topics.produce("kraken", kraken_mix(1_000, 500))
        wait_until(ingest.topics.is_consumed)
    assert "kafka.back" in ingest.log.read_text()
    require_each_message_once(ingest)


def test_a_clickhouse_that_is_killed_is_waited_for(topics: Topics, tmp_path: Path) -> None:
    settings = ClickHouse("127.0.0.1", free_port(), "k2", PASSWORD)

    def start() -> subprocess.Popen[bytes]:
        log = tmp_path / "clickhouse.log"
        process = clickhouse_server.start(
            tmp_path / "clickhouse", log, settings.port, "k2", PASSWORD
        )
        clickhouse_server.wait_until_ready(process, settings.port, log)
        return process

    process = start()
    try:
        client = connect(settings, database="default")
        create_bronze(client, topics.registry, queue="embedded")
        ingest = Ingest(topics, Bronze(client, "k2"), tmp_path / "ingest.log")
        topics.produce("binance", binance_mix(0, 10_000))
        with ingest.running("binance"):
            ingest.wait_for_batches(1)
            process.kill()
            process.wait()
            topics.produce("binance", binance_mix(100_000, 10_000))
            wait_until(lambda: "ingest.waiting" in ingest.log.read_text())
            process = start()
            wait_until(topics.is_consumed)
        assert "ingest.back" in ingest.log.read_text()
        require_each_message_once(ingest)
    finally:
        process.kill()
        process.wait()


def test_views_that_are_made_anew_meanwhile_lose_nothing(ingest: Ingest) -> None:
    bronze, registry = ingest.bronze, ingest.topics.registry
    ingest.topics.produce("binance", binance_mix(0, 2_000))
    with ingest.running("binance"):
        ingest.wait_for_batches(1)
        for round_ in range(1, 4):
            bronze.client.command(
                f"alter table {bronze.database}.trades_binance_checked_mv modify comment 'old'"
            )
            ingest.topics.produce("binance", binance_mix(10_000 * round_, 300))
            create_bronze(bronze.client, registry, queue="embedded", database=bronze.database)
        wait_until(ingest.topics.is_consumed)
    require_each_message_once(ingest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop table {db}.bronze_trades_kraken_mv sync", "run 'k2 init' first"),
        ("drop table {db}.trades_kraken_queue sync", "run 'k2 init' first"),
    ],
)
def test_without_the_way_to_bronze_it_ends_with_one_line(
    ingest: Ingest, change: str, message: str
) -> None:
    bronze = ingest.bronze
    bronze.client.command(change.replace("{db}", bronze.database))
    assert ingest.start().wait(60) == 1
    (line,) = ingest.log.read_text().splitlines()
    assert line.startswith("error: ")
    assert line.endswith(message)
