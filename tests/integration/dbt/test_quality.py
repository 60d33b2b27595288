"""Data quality: each check finds its fault and nothing else; warnings pass, errors stop a layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from k2.clickhouse import connect
from k2.quality import newest_findings
from k2.transform import TransformError

from .reference import Trade

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .conftest import Warehouse

BRONZE_ROW = tuple[object, ...]
# Of this test's trades none is on its way while a check runs.
AT_ONCE = json.dumps({"arrival_seconds": 0, "late_id_seconds": 0})
LATE_IDS_MAY_COME = json.dumps({"arrival_seconds": 0, "late_id_seconds": 3600})
TABLES = {"bronze": "bronze_quality", "silver": "silver_quality", "gold": "gold_quality"}


def trade(
    trade_id: int, market: str, time: datetime, price: str = "100", quantity: str = "1"
) -> Trade:
    milliseconds = round(time.timestamp() * 1000)
    return Trade(trade_id, milliseconds, Decimal(price), Decimal(quantity), "buy", market)


@dataclass
class Market:
    """Trades of a minute each, with the exchange's consecutive ids."""

    exchange: str
    name: str
    next_id: int = 1

    def minutes(self, start: datetime, end: datetime, price: str | None = None) -> list[Trade]:
        """One trade in each minute of [start, end), its price moving by a part in a thousand."""
        trades = []
        while start < end:
            moving = Decimal(100) + Decimal(self.next_id * 7 % 11) / 100
            trades.append(trade(self.next_id, self.name, start, price or str(moving)))
            self.next_id += 1
            start += timedelta(minutes=1)
        return trades


@dataclass
class Feed:
    """Puts trades on a log, one offset after the other."""

    warehouse: Warehouse
    offset: int = 0

    def __call__(self, exchange: str, trades: Iterable[Trade]) -> None:
        rows: list[BRONZE_ROW] = []
        for one in trades:
            self.offset += 1
            rows.append(one.bronze_row(self.offset))
        self.warehouse.feed(exchange, rows)


@dataclass(frozen=True)
class Run:
    """What a build said, and the results that it added."""

    output: str
    results: list[tuple[Any, ...]]

    def found(self, status: str) -> set[tuple[str, str, str]]:
        """Check, exchange and market of the results with a status."""
        return {(row[0], row[1], row[2]) for row in self.results if row[3] == status}

    def value(self, check: str, exchange: str, symbol: str) -> float:
        (value,) = [row[4] for row in self.results if row[:3] == (check, exchange, symbol)]
        return float(value)

    def rows_looked_at(self, layer: str) -> int:
        return sum(row[4] for row in self.results if (row[0], row[6]) == ("rows_looked_at", layer))

    def detail(self, check: str) -> str:
        (detail,) = {row[5] for row in self.results if row[0] == check and row[5]}
        return str(detail)


def build(warehouse: Warehouse, *select: str, variables: str = AT_ONCE) -> Run:
    before = checked(warehouse)
    arguments = ["build", "--exclude-resource-type", "unit_test", "--vars", variables]
    output = warehouse.dbt(*arguments, *(["--select", *select] if select else []))
    return Run(output, results_beside(warehouse, before))


def checked(warehouse: Warehouse) -> set[datetime]:
    """The runs so far."""
    exists = warehouse.query(
        "select count() from system.tables where database = currentDatabase() "
        "and name = 'quality_results'"
    )
    if exists == [(0,)]:
        return set()
    return {row[0] for row in warehouse.query("select distinct checked_at from quality_results")}


def results_beside(warehouse: Warehouse, runs: set[datetime]) -> list[tuple[Any, ...]]:
    return [
        row[1:]
        for row in warehouse.query(
            "select checked_at, check_name, exchange, symbol, status, value, detail, layer "
            "from quality_results order by all"
        )
        if row[0] not in runs
    ]


@dataclass(frozen=True)
class Story:
    """Clean trades, then one fault of each kind that warns, then nothing new."""

    warehouse: Warehouse
    feed: Feed
    clean: Run
    faulty: Run
    nothing_new: Run


@pytest.fixture(scope="module")
def story(warehouse: Warehouse) -> Story:
    now = datetime.now(UTC).replace(second=0, microsecond=0)

    def ago(minutes: int) -> datetime:
        return now - timedelta(minutes=minutes)

    feed = Feed(warehouse)
    bitcoin = Market("binance", "BTCUSDT", next_id=1_000)
    ether = Market("binance", "ETHUSDT", next_id=50)
    feed("binance", bitcoin.minutes(ago(55), ago(15)))
    feed("binance", ether.minutes(ago(55), ago(40)))
    feed("kraken", Market("kraken", "BTC/USD").minutes(ago(55), ago(15)))
    # An archive without ids of its own, replayed: years old, and its ids mean no order of trades.
    then = datetime(2021, 3, 1, tzinfo=UTC)
    derived = [int((then + timedelta(hours=n)).timestamp()) * 1_000_000 + 1 for n in range(5)]
    feed(
        "kraken",
        [trade(one, "BCH/EUR", then + timedelta(hours=n)) for n, one in enumerate(derived)],
    )
    clean = build(warehouse)

    bitcoin.next_id += 3
    feed("binance", bitcoin.minutes(ago(15), ago(5)))
    feed("binance", bitcoin.minutes(ago(5), ago(3), price="150"))
    ahead = datetime.now(UTC) + timedelta(minutes=5)
    feed("kraken", [trade(41, "BTC/USD", ahead, "100.01")])
    warehouse.command(
        "insert into dead_letters "
        "(exchange, topic, kafka_partition, kafka_offset, raw_message, reason) "
        "select 'kraken', 'trades', 0, number, 'x', 'is not valid JSON' from numbers(4)"
    )
    # Of four dead letters one was read again after a fix, one is about to be.
    warehouse.command(
        "insert into dead_letter_replays (exchange, topic, kafka_partition, kafka_offset, reason,"
        " replayed_partition, replayed_offset, state) select 'kraken', 'trades', 0, number,"
        " 'is not valid JSON', 65535, number, ['planned', 'done'][number - 1] from numbers(2, 2)"
    )
    return Story(warehouse, feed, clean, build(warehouse), build(warehouse))


def test_clean_trades_are_ok_in_every_check(story: Story) -> None:
    assert {row[3] for row in story.clean.results} == {"ok"}
    assert "WARN=0 ERROR=0" in story.clean.output


def test_clean_trades_have_been_looked_at_by_every_check(story: Story) -> None:
    assert story.clean.found("ok") >= {
        ("rows_looked_at", "binance", ""),
        ("not_positive", "binance", "BTCUSDT"),
        ("ahead_of_clock", "binance", "BTCUSDT"),
        ("far_ahead_of_clock", "kraken", "BTC/USD"),
        ("dead_letters", "kraken", ""),
        ("silent_exchange", "kraken", ""),
        ("trade_id_gaps", "binance", "BTC/USDT"),
        ("trade_id_gaps", "kraken", "BTC/USD"),
        ("price_jumps", "binance", "BTC/USDT"),
        ("silent_symbols", "binance", "ETH/USDT"),
    }
    assert {layer: story.clean.rows_looked_at(layer) for layer in TABLES} == {
        "bronze": 100,
        "silver": 100,
        "gold": 100,
    }


def test_a_replayed_archive_has_no_gaps_and_is_not_silent(story: Story) -> None:
    judged = {row[0] for row in story.clean.results if row[2] in {"BCH/EUR"}}
    assert judged == {"not_positive", "ahead_of_clock", "far_ahead_of_clock"}


def test_each_fault_warns_once_and_nothing_else_does(story: Story) -> None:
    assert story.faulty.found("warn") == {
        ("trade_id_gaps", "binance", "BTC/USDT"),
        ("price_jumps", "binance", "BTC/USDT"),
        ("silent_symbols", "binance", "ETH/USDT"),
        ("ahead_of_clock", "kraken", "BTC/USD"),
        ("dead_letters", "kraken", ""),
    }
    assert story.faulty.found("error") == set()


def test_results_say_how_bad_it_is(story: Story) -> None:
    assert story.faulty.value("trade_id_gaps", "binance", "BTC/USDT") == 3
    assert story.faulty.detail("trade_id_gaps").startswith("3 of the 15 ids from 1040 to 1054")
    assert story.faulty.value("dead_letters", "kraken", "") == 0.75
    assert "is not valid JSON" in story.faulty.detail("dead_letters")
    assert story.faulty.value("silent_symbols", "binance", "ETH/USDT") == 37
    assert 200 < story.faulty.value("ahead_of_clock", "kraken", "BTC/USD") <= 300
    assert "to 150" in story.faulty.detail("price_jumps")


def test_warnings_do_not_fail_the_build_and_are_in_its_output(story: Story) -> None:
    assert "WARN=3 ERROR=0" in story.faulty.output
    assert (
        "quality warn: trade_id_gaps binance BTC/USDT: "
        "3 of the 15 ids from 1040 to 1054 are missing" in story.faulty.output
    )


def test_what_was_judged_once_is_not_judged_again(story: Story) -> None:
    """Only silence lasts; the other checks look at new rows."""
    assert story.nothing_new.found("warn") == {("silent_symbols", "binance", "ETH/USDT")}
    assert {story.nothing_new.rows_looked_at(layer) for layer in TABLES} == {0}


def test_ids_that_come_late_or_fill_a_gap_are_no_gap(story: Story) -> None:
    now = datetime.now(UTC)
    story.feed("binance", [trade(n, "BTCUSDT", now) for n in (1055, 1057)])
    waiting = build(story.warehouse, "silver", variables=LATE_IDS_MAY_COME)
    assert "trade_id_gaps" not in {row[0] for row in waiting.results}
    story.feed("binance", [trade(n, "BTCUSDT", now) for n in (1040, 1056, 1057)])
    come = build(story.warehouse, "silver", variables=AT_ONCE)
    assert come.value("trade_id_gaps", "binance", "BTC/USDT") == 0


def correct(warehouse: Warehouse) -> None:
    for table in ("bronze_trades_kraken", "silver_trades"):
        warehouse.command(f"delete from {table} where startsWith(symbol, 'WRONG')")


def test_errors_stop_their_layer_until_they_are_corrected(story: Story) -> None:
    warehouse = story.warehouse
    now = datetime.now(UTC)
    story.feed(
        "kraken",
        [
            trade(7, "WRONG/USD", now, price="0"),
            trade(7, "WRONG/EUR", now, quantity="0"),
            trade(7, "WRONG/GBP", now + timedelta(hours=2)),
        ],
    )
    for _ in range(2):
        before = checked(warehouse)
        with pytest.raises(TransformError, match="no_findings_bronze_quality_error"):
            build(warehouse, "bronze")
        newest = newest_findings(warehouse.settings.clickhouse)
        assert {(one.layer, one.symbol) for one in newest if one.status == "error"} == {
            ("bronze", "WRONG/USD"),
            ("bronze", "WRONG/EUR"),
            ("bronze", "WRONG/GBP"),
        }
        results = Run("", results_beside(warehouse, before))
        assert results.found("error") == {
            ("not_positive", "kraken", "WRONG/USD"),
            ("not_positive", "kraken", "WRONG/EUR"),
            ("far_ahead_of_clock", "kraken", "WRONG/GBP"),
        }
        assert "trade 7 at partition 0, offset" in results.detail("far_ahead_of_clock")
    correct(warehouse)
    assert build(warehouse, "bronze").found("error") == set()


def test_an_error_that_is_accepted_stops_nothing_any_more(story: Story) -> None:
    warehouse = story.warehouse
    story.feed("kraken", [trade(8, "WRONG/CHF", datetime.now(UTC), "0")])
    with pytest.raises(TransformError, match="no_findings_bronze_quality_error"):
        build(warehouse, "bronze")
    warehouse.dbt("run-operation", "accept_findings", "--args", "{layer: bronze}")
    assert build(warehouse, "bronze").found("error") == set()
    assert warehouse.query(
        "select status, check_name, symbol from quality_results where symbol = 'WRONG/CHF' "
        "and check_name = 'not_positive' order by checked_at"
    ) == [("error", "not_positive", "WRONG/CHF"), ("accepted", "not_positive", "WRONG/CHF")]
    correct(warehouse)


def test_results_are_forgotten_after_their_days(story: Story) -> None:
    story.warehouse.command(
        "insert into bronze_quality select * replace ("
        "checked_at - toIntervalDay(120) as checked_at, 'long ago' as detail) "
        "from bronze_quality limit 5"
    )
    story.warehouse.command("optimize table bronze_quality final")
    assert story.warehouse.query(
        "select count() from bronze_quality where detail = 'long ago'"
    ) == [(0,)]


def rows_read(warehouse: Warehouse, layer: str) -> int:
    """Rows that a run of a layer's checks reads, its own results left out."""
    model = f"{layer}/quality/{TABLES[layer]}.sql"
    sql = (warehouse.state / "target" / "compiled" / "k2" / "models" / model).read_text()
    with connect(warehouse.settings.clickhouse) as client:
        return int(client.query(sql).summary["read_rows"])


def test_the_cost_of_checks_does_not_grow_with_what_was_checked(story: Story) -> None:
    warehouse = story.warehouse
    minutes = Market("binance", "ETHUSDT", 100).minutes
    now = datetime.now(UTC)
    story.feed("binance", minutes(now - timedelta(minutes=9), now - timedelta(minutes=2)))
    warehouse.dbt("run", "--select", "ohlcv_1m")
    before = {layer: rows_read(warehouse, layer) for layer in TABLES}
    assert min(before.values()) > 0
    long_ago = "now64(3) - toIntervalDay(40) - toIntervalMinute(number % 20000)"
    warehouse.command(
        "insert into bronze_trades_binance "
        "(exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, "
        "event_time, kafka_offset, kafka_partition, ingestion_timestamp) "
        "select long_ago, number, 'ETHUSDT', 'buy', 100, 1, 100, long_ago, number, 3, long_ago "
        f"from (select number, {long_ago} as long_ago from numbers(1000000))"
    )
    warehouse.command(
        "insert into ohlcv_1m select candle.* replace (window_start - toIntervalMinute(n + 80000) "
        "as window_start, settled_at - toIntervalDay(50) as settled_at) "
        "from (select number as n from numbers(1000000)) as minutes_ago "
        "cross join (select * from ohlcv_1m final where canonical_symbol = 'ETH/USDT' limit 1) "
        "as candle"
    )
    for table in ("silver_trades", "ohlcv_1m"):
        assert warehouse.query(f"select count() > 1000000 from {table}") == [(1,)]
    # Merges of parts move it by a few rows; a look at the old ones would add a million.
    assert all(rows_read(warehouse, layer) < before[layer] + 1000 for layer in TABLES)
