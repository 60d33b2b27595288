"""The Kafka engine itself, with the DDL of production, on a real broker.

chdb runs the engine, with one flaw that a ClickHouse server does not have. `create table` of a
Kafka table says "Shutdown was called", though the table is there and consumes; and a directory
that holds one is not opened again. So after a kill the test takes the Kafka tables' definitions
out of the directory, which hold no rows, and has them created anew. Bronze stays as the kill left
it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clickhouse_connect.driver.exceptions import ClickHouseError
from tests.configured_clickhouse import start_configured

from k2.clickhouse import connect
from k2.ingest.bronze import create_bronze
from k2.settings import ClickHouse

from .conftest import PASSWORD, Bronze, free_port
from .kafka import wait_until
from .messages import binance, kraken, kraken_trade

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from .kafka import Topics

# A dead consumer is noticed after 45 seconds; nothing else differs from production.
CONFIGURATION = """
<clickhouse><kafka>
<session_timeout_ms>2000</session_timeout_ms><heartbeat_interval_ms>500</heartbeat_interval_ms>
</kafka></clickhouse>
"""
POISON = ("junk", '{"e":"kline"}', binance(7)[:-1], b"\xff\xfe{", "[1]", '{"t":"5"}')
MESSAGES = 100_000


@dataclass
class Engine:
    """A ClickHouse with Kafka tables, on a throwaway directory."""

    directory: Path
    topics: Topics
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> Bronze:
        """Start it, the first time or again, and let it consume."""
        self.directory.mkdir(exist_ok=True)
        for definition in self.directory.rglob("*_queue.sql"):
            definition.unlink()
        port = free_port()
        process = start_configured(self.directory, CONFIGURATION, port=port, password=PASSWORD)
        self.started.append(process)
        client = connect(ClickHouse("127.0.0.1", port, "k2", PASSWORD), database="default")
        # Each of the Kafka tables says once that it failed.
        for _ in range(len(self.topics.registry.exchanges) + 1):
            try:
                create_bronze(
                    client, self.topics.registry, queue="kafka", broker=self.topics.server.address
                )
            except ClickHouseError as error:
                if "Shutdown was called" not in str(error):
                    raise
            else:
                return Bronze(client, "k2")
        raise AssertionError("the Kafka tables cannot be created")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.started[-1].send_signal(number)
        self.started[-1].wait()


def produce_more(topics: Topics, count: int) -> None:
    """Produce the next messages of Binance; each hundredth is poison."""
    first = len(topics.produced.get("binance", []))
    topics.produce(
        "binance",
        [
            POISON[number // 100 % len(POISON)] if number % 100 == 50 else binance(number)
            for number in range(first, first + count)
        ],
    )


def count(bronze: Bronze) -> int:
    ((rows,),) = bronze.rows("select count() from {db}.bronze_trades_binance")
    assert isinstance(rows, int)
    return rows


def test_kills_replays_and_rebalances_leave_each_message_once(
    topics: Topics, tmp_path: Path
) -> None:
    first, second = Engine(tmp_path / "first", topics), Engine(tmp_path / "second", topics)
    try:
        produce_more(topics, MESSAGES // 2)
        topics.produce("kraken", [kraken(kraken_trade(1), kraken_trade(2, qty="0")), "junk"])
        here = first.start()
        wait_until(lambda: count(here) > 0 and bool(topics.committed("kraken")))
        first.kill()
        produce_more(topics, MESSAGES // 4)
        here = first.start()
        # A second consumer joins the group, gets its share, and leaves.
        there = second.start()
        produce_more(topics, MESSAGES // 4)
        # The first one may have read all of it before the second has joined.
        while count(there) == 0:
            produce_more(topics, 1_000)
        wait_until(topics.is_consumed)
        theirs = contents(there)
        second.kill(signal.SIGTERM)
        first.kill()
        topics.set_back("binance", 5_000)
        here = first.start()
        # Merges would hide that messages are delivered again.
        here.client.command("system stop merges k2.bronze_trades_binance")
        produce_more(topics, 1_000)
        wait_until(topics.is_consumed)
        assert count(here) > len(contents(here)[0]), "nothing was delivered twice"
        trades, dead = (ours | more for ours, more in zip(contents(here), theirs, strict=True))
        of_kraken = here.rows("select sequence_number from {db}.bronze_trades_kraken final")
    finally:
        for engine in (first, second):
            for process in engine.started:
                process.kill()
                process.wait()
    poison = {text if isinstance(text, bytes) else text.encode() for text in POISON}
    produced = topics.produced["binance"]
    assert trades == {
        (one.partition, one.offset, int(one.text.split(b'"t":')[1].split(b",")[0]))
        for one in produced
        if one.text not in poison
    }
    assert dead == {(one.partition, one.offset, one.text) for one in produced if one.text in poison}
    assert len(trades) + len(dead) == len(produced) > MESSAGES
    assert of_kraken == [(1,)]


Places = set[tuple[object, ...]]


def contents(bronze: Bronze) -> tuple[Places, Places]:
    """Trades and dead letters of Binance, by their place; each place of Bronze has one row."""
    trades = bronze.rows(
        "select kafka_partition, kafka_offset, sequence_number"
        " from {db}.bronze_trades_binance final"
    )
    dead = bronze.rows(
        "select kafka_partition, kafka_offset, hex(raw_message) from {db}.dead_letters final"
        " where exchange = 'binance'"
    )
    assert len(trades) == len(set(trades))
    assert len(dead) == len(set(dead))
    return set(trades), {(row[0], row[1], bytes.fromhex(str(row[2]))) for row in dead}
