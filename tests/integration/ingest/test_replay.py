"""Feeding the embedded queues: offsets, the lock, crashes, real trades."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest

from k2.errors import OffloadError, RegistryError
from k2.ingest.archives import BadRow
from k2.ingest.bronze import create_bronze
from k2.ingest.lock import only_feed_of
from k2.ingest.messages import Message
from k2.ingest.offsets import ARCHIVES, REPLAYED, next_offsets, partition_of
from k2.ingest.replay import FeedError, feed
from k2.ingest.sources import TradesFile, archive_messages
from k2.offload.watermark import MIGRATIONS
from k2.registry import registry

from .conftest import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clickhouse_connect.driver.query import QueryResult

    from .conftest import Bronze

SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"the real trades of {path} are not here")
    return path


def message(number: int, symbol: str = "BTCUSDT") -> Message:
    return Message(
        symbol,
        f'{{"e":"trade","E":1700000000000,"s":"{symbol}","t":{number},"p":"1","q":"1",'
        '"T":1700000000000,"m":true,"M":true}',
    )


def feed_binance(
    bronze: Bronze, conninfo: str, messages: Iterable[Message | BadRow], batch: int = 2
) -> tuple[int, int]:
    result = feed(
        bronze.client,
        registry(),
        "binance",
        messages,
        conninfo=conninfo,
        database=bronze.database,
        batch_messages=batch,
    )
    return result.messages, result.dead_letters


def log(bronze: Bronze) -> list[tuple[object, ...]]:
    return bronze.rows(
        "select kafka_offset, sequence_number from {db}.bronze_trades_binance order by kafka_offset"
    )


def test_a_market_keeps_its_partition_and_offsets_go_on(bronze: Bronze, conninfo: str) -> None:
    messages = [message(1), message(2, "ETHUSDT"), message(3)]
    assert partition_of("BTCUSDT") != partition_of("ETHUSDT")
    assert feed_binance(bronze, conninfo, messages) == (3, 0)
    assert feed_binance(bronze, conninfo, messages) == (3, 0)
    rows = bronze.rows(
        "select symbol, any(kafka_partition), groupArray(kafka_offset) from "
        "(select * from {db}.bronze_trades_binance order by kafka_offset) group by symbol "
        "order by symbol"
    )
    assert rows == [
        ("BTCUSDT", partition_of("BTCUSDT"), [0, 1, 2, 3]),
        ("ETHUSDT", partition_of("ETHUSDT"), [0, 1]),
    ]


def test_messages_of_topics_archives_and_replays_never_share_a_partition() -> None:
    markets = {partition_of(f"COIN{number}USDT") for number in range(100)}
    assert markets == set(ARCHIVES)
    assert REPLAYED not in ARCHIVES
    assert 65_500 <= min(*ARCHIVES, REPLAYED) <= max(*ARCHIVES, REPLAYED) < 2**16


def test_views_made_anew_under_a_feed_stop_it(bronze: Bronze, conninfo: str) -> None:
    def messages() -> Iterator[Message]:
        yield from (message(1), message(2))
        view = f"{bronze.database}.trades_binance_checked_mv"
        bronze.client.command(f"alter table {view} modify comment 'old'")
        create_bronze(bronze.client, registry(), queue="embedded", database=bronze.database)
        yield from (message(3), message(4))

    with pytest.raises(FeedError, match="made anew while it was fed; run it again"):
        feed_binance(bronze, conninfo, messages())


def test_a_feed_that_died_is_run_again_and_no_offset_is_given_twice(
    bronze: Bronze, conninfo: str
) -> None:
    def dying() -> Iterator[Message]:
        yield from (message(number) for number in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feed_binance(bronze, conninfo, dying())
    assert log(bronze) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    feed_binance(bronze, conninfo, [message(number) for number in range(6)])
    assert log(bronze)[4:] == [(offset, offset - 4) for offset in range(4, 10)]


# Feeds an archive file as `k2 replay` does, in small batches, and says so after each.
FEEDING = """
import sys
from pathlib import Path
from k2.clickhouse import connect
from k2.ingest.replay import feed
from k2.ingest.sources import TradesFile, archive_messages
from k2.registry import registry
from k2.settings import ClickHouse

port, password, database, conninfo, path = sys.argv[1:]
client = connect(ClickHouse("127.0.0.1", int(port), "k2", password), database="default")
messages = archive_messages(TradesFile("binance", "XRPETH", Path(path)), skip_bad=True)
feed(client, registry(), "binance", messages, conninfo=conninfo, database=database,
     batch_messages=100, progress=lambda count, seconds: print(count, flush=True))
"""


@pytest.mark.parametrize("batches", [1, 12])
def test_a_feed_killed_in_the_middle_is_run_again_and_nothing_is_lost(
    bronze: Bronze, conninfo: str, tmp_path: Path, batches: int
) -> None:
    trades = 4_000
    path = tmp_path / "trades.csv"
    with path.open("w") as file:
        for number in range(1, trades + 1):
            file.write(f"{number},0.5,{number}.25,1,1570752011620,True,True\n")
        file.write("broken\n")
    url = urlsplit(bronze.client.url)
    arguments = [str(url.port), PASSWORD, bronze.database, conninfo, str(path)]
    with subprocess.Popen(
        [sys.executable, "-c", FEEDING, *arguments], stdout=subprocess.PIPE, text=True
    ) as feeding:
        assert feeding.stdout is not None
        for _ in range(batches):
            assert feeding.stdout.readline()
        os.kill(feeding.pid, signal.SIGKILL)
    assert feeding.returncode == -signal.SIGKILL
    again = subprocess.run([sys.executable, "-c", FEEDING, *arguments], capture_output=True)
    assert again.returncode == 0, again.stderr.decode()
    ((rows, offsets, ids, last),) = bronze.rows(
        "select count(), uniqExact(kafka_partition, kafka_offset), uniqExact(sequence_number), "
        "max(kafka_offset) from {db}.bronze_trades_binance"
    )
    assert isinstance(rows, int)
    assert trades + batches * 100 <= rows < 2 * trades
    assert (offsets, ids, last) == (rows, trades, rows - 1)
    assert [offset for offset, _ in bronze.reasons()] == [rows]


@pytest.fixture
def watermark(conninfo: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The watermarks in PostgreSQL, as the offload creates them; gone after the test."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            connection.execute(migration.read_bytes())
        yield connection
        connection.execute("drop table offload_watermarks, offload_batches, audits")


def test_offsets_go_on_after_what_was_offloaded_once_bronze_is_empty(
    bronze: Bronze, conninfo: str, watermark: psycopg.Connection[tuple[object, ...]]
) -> None:
    partition = partition_of("BTCUSDT")
    feed_binance(bronze, conninfo, [message(number) for number in range(5)])
    watermark.execute(
        "insert into offload_watermarks (table_name, token) values ('bronze_trades_binance', %s)",
        (f'{{"cursor":"kafka_offset","positions":[[{partition},4]]}}',),
    )
    bronze.client.command(f"truncate table {bronze.database}.bronze_trades_binance")
    feed_binance(bronze, conninfo, [message(5), message(6, "ETHUSDT")])
    assert log(bronze) == [(0, 6), (5, 5)]
    # Bronze is ahead of the watermark as a rule.
    feed_binance(bronze, conninfo, [message(7)])
    assert log(bronze)[-1] == (6, 7)


def test_a_watermark_that_cannot_be_read_stops_the_feed(
    bronze: Bronze, conninfo: str, watermark: psycopg.Connection[tuple[object, ...]]
) -> None:
    watermark.execute(
        "insert into offload_watermarks (table_name, token) values ('bronze_trades_binance', 'x')"
    )
    with pytest.raises(OffloadError, match="not a token"):
        feed_binance(bronze, conninfo, [message(1)])
    assert log(bronze) == []


def test_the_next_offset_is_found_without_reading_the_table(bronze: Bronze, conninfo: str) -> None:
    rows = 4_000_000
    bronze.client.command(
        f"insert into {bronze.database}.bronze_trades_binance "
        "(exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, "
        "event_time, kafka_offset, kafka_partition) "
        "select now64(3), number, 'BTCUSDT', 'buy', 1, 1, 1, now64(3), intDiv(number, 4), "
        f"{ARCHIVES[0]} + number % 4 from numbers({rows})"
    )
    reads: list[int] = []
    client = bronze.client
    query = client.query

    def counting(*args: Any, **kwargs: Any) -> QueryResult:
        result: QueryResult = query(*args, **kwargs)
        reads.append(int(result.summary["read_rows"]))
        return result

    with (
        psycopg.connect(conninfo, autocommit=True) as connection,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr(client, "query", counting)
        free = next_offsets(client, connection, registry(), bronze.database, "binance")
    assert free == dict.fromkeys(ARCHIVES, rows // 4)
    assert sum(reads) < rows // 5


def test_a_message_after_a_dead_letter_takes_the_next_offset(bronze: Bronze, conninfo: str) -> None:
    feed_binance(bronze, conninfo, [message(1), Message("BTCUSDT", "junk")])
    feed_binance(bronze, conninfo, [message(2)])
    assert log(bronze) == [(0, 1), (2, 2)]


def test_a_skipped_row_of_an_archive_is_a_dead_letter(bronze: Bronze, conninfo: str) -> None:
    bad = BadRow("BTCUSDT", "7,zero,1", "a.csv:2: price is not a positive number: 'zero'")
    assert feed_binance(bronze, conninfo, [message(1), bad, message(2)]) == (2, 1)
    assert log(bronze) == [(0, 1), (2, 2)]
    assert bronze.rows(
        "select exchange, topic, kafka_partition, kafka_offset, raw_message, reason "
        "from {db}.dead_letters"
    ) == [
        (
            "binance",
            registry().exchange("binance").topic,
            partition_of("BTCUSDT"),
            1,
            bad.text,
            bad.reason,
        )
    ]


def test_a_second_feed_of_an_exchange_ends_at_once(bronze: Bronze, conninfo: str) -> None:
    def feeding_while_another_starts() -> Iterator[Message]:
        yield message(1)
        with pytest.raises(FeedError, match="another feed of binance is running"):
            feed_binance(bronze, conninfo, [message(2)])
        yield message(3)

    feed_binance(bronze, conninfo, feeding_while_another_starts())
    assert log(bronze) == [(0, 1), (1, 3)]


def test_a_feed_may_begin_before_the_server_notices_the_end_of_another(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, stopped = psycopg.Connection.close, list[int]()

    def close_unnoticed(connection: psycopg.Connection[Any]) -> None:
        if not stopped:
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[0], signal.SIGSTOP)
        close(connection)

    monkeypatch.setattr(psycopg.Connection, "close", close_unnoticed)
    try:
        with only_feed_of("binance", conninfo):
            pass
        with only_feed_of("binance", conninfo):
            pass
    finally:
        os.kill(stopped[0], signal.SIGCONT)


def test_progress_tells_messages_and_seconds(bronze: Bronze, conninfo: str) -> None:
    seen: list[tuple[int, float]] = []
    ticks = iter(range(100))
    feed(
        bronze.client,
        registry(),
        "binance",
        [message(number) for number in range(5)],
        conninfo=conninfo,
        database=bronze.database,
        batch_messages=2,
        progress=lambda count, seconds: seen.append((count, seconds)),
        clock=lambda: float(next(ticks)),
    )
    assert seen == [(2, 1.0), (4, 2.0), (5, 3.0)]


def test_without_the_whole_way_to_bronze_nothing_is_fed(bronze: Bronze, conninfo: str) -> None:
    bronze.client.command(f"drop table {bronze.database}.bronze_trades_binance_mv sync")
    with pytest.raises(FeedError, match="bronze_trades_binance_mv is not there"):
        feed_binance(bronze, conninfo, [message(1)])


def test_postgresql_out_of_reach_is_one_clear_error(bronze: Bronze) -> None:
    with pytest.raises(FeedError, match="PostgreSQL, which locks the feed of binance") as caught:
        feed_binance(bronze, "postgresql://k2:x@127.0.0.1:1/k2", [message(1)])
    assert "\n" not in str(caught.value)


def test_an_unknown_exchange_is_one_clear_error(bronze: Bronze, conninfo: str) -> None:
    with pytest.raises(RegistryError, match="unknown exchange 'bitstamp'"):
        feed(bronze.client, registry(), "bitstamp", [], conninfo=conninfo)


@pytest.mark.parametrize(
    ("exchange", "symbol", "name", "columns"),
    [
        ("binance", "XRPETH", "XRPETH-aggTrades-2019-10-11.csv", (1, 2)),
        ("kraken", "BCH/EUR", "BCHEUR.csv", (1, 2)),
    ],
)
def test_real_trades_arrive_one_by_one_with_every_digit(
    bronze: Bronze,
    conninfo: str,
    exchange: str,
    symbol: str,
    name: str,
    columns: tuple[int, int],
) -> None:
    path = shared(name)
    with path.open() as file:
        rows = [row for row in csv.reader(file) if row[0].isdigit()]
    feed(
        bronze.client,
        registry(),
        exchange,
        archive_messages(TradesFile(exchange, symbol, path)),
        conninfo=conninfo,
        database=bronze.database,
    )
    arrived = bronze.rows(
        f"select price, quantity from {{db}}.bronze_trades_{exchange} final "
        "where symbol = '" + symbol + "' order by kafka_offset, sequence_number"
    )
    assert arrived == [tuple(Decimal(row[column]) for column in columns) for row in rows]
    assert bronze.rows(
        f"select uniqExact(sequence_number) from {{db}}.bronze_trades_{exchange}"
    ) == [(len(rows),)]
    assert bronze.reasons() == []
