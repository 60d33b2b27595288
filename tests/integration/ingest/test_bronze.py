"""Bronze on the real engine: what becomes of a message."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2.ingest import bronze as bronze_module
from k2.ingest.bronze import BronzeError, create_bronze
from k2.registry import registry

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Bronze

BINANCE = (
    '{"e":"trade","E":1700000000124,"s":"BTCUSDT","t":5,"p":"37000.12345678","q":"0.00001000",'
    '"T":1700000000123,"m":true,"M":true}'
)
KRAKEN_TRADE = (
    '{"symbol":"BTC/USD","side":"buy","price":26247.1,"qty":0.00300000,"ord_type":"market",'
    '"trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}'
)


def utc(*parts: int) -> datetime:
    """A time as clickhouse-connect gives a UTC column: without a zone."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[misc,arg-type]


def kraken(*trades: str, kind: str = "update") -> str:
    return f'{{"channel":"trade","type":"{kind}","data":[{",".join(trades)}]}}'


def prices_and_quantities(bronze: Bronze, exchange: str) -> list[tuple[object, ...]]:
    return bronze.rows(
        "select price, quantity, quote_volume from "
        f"{{db}}.bronze_trades_{exchange} final order by kafka_offset, sequence_number"
    )


def test_a_binance_trade_becomes_a_typed_row(bronze: Bronze) -> None:
    bronze.send("binance", [BINANCE], first_offset=41)
    assert bronze.rows(
        "select exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, "
        "event_time, kafka_offset, kafka_partition from {db}.bronze_trades_binance"
    ) == [
        (
            utc(2023, 11, 14, 22, 13, 20, 123_000),
            5,
            "BTCUSDT",
            "sell",
            Decimal("37000.12345678"),
            Decimal("0.00001"),
            Decimal("0.37000123"),
            utc(2023, 11, 14, 22, 13, 20, 124_000),
            41,
            1,
        )
    ]


def test_a_kraken_message_holds_several_trades_and_microseconds_are_cut(bronze: Bronze) -> None:
    second = KRAKEN_TRADE.replace("4665906", "4665907").replace("708706", "708999")
    bronze.send("kraken", [kraken(KRAKEN_TRADE, second, kind="snapshot")])
    time = utc(2023, 9, 25, 7, 49, 37, 708_000)
    assert bronze.rows(
        "select exchange_timestamp, event_time, sequence_number, symbol, side, price, quantity "
        "from {db}.bronze_trades_kraken order by sequence_number"
    ) == [
        (time, time, number, "BTC/USD", "buy", Decimal("26247.1"), Decimal("0.003"))
        for number in (4665906, 4665907)
    ]


@pytest.mark.parametrize(
    "message",
    [
        f'{{"stream":"btcusdt@trade","data":{BINANCE}}}',
        json.dumps(json.loads(BINANCE), indent=2),
        json.dumps(dict(reversed(json.loads(BINANCE).items()))),
        BINANCE.replace('"trade"', '"aggTrade"').replace('"t":5', '"a":5,"f":1,"l":3'),
        BINANCE.replace("1700000000123", "1700000000123999").replace("0124,", "0124000,"),
        BINANCE.replace('"37000.12345678"', '"37000.1234567800"'),
    ],
    ids=["envelope", "spaces", "other order", "aggTrade", "microseconds", "trailing zeros"],
)
def test_a_binance_trade_is_the_same_in_every_dress(bronze: Bronze, message: str) -> None:
    bronze.send("binance", [BINANCE, message])
    columns = "exchange_timestamp, event_time, sequence_number, symbol, side, price, quantity"
    rows = bronze.rows(f"select {columns} from {{db}}.bronze_trades_binance")
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert bronze.reasons() == []


BAD_BINANCE = {
    "": "is not valid JSON",
    "junk": "is not valid JSON",
    BINANCE[:-1]: "is not valid JSON",
    "[1]": "is not a JSON object",
    "{}": "event type (e) is missing",
    BINANCE.replace('"trade"', '"kline"'): 'event type (e) is not trade or aggTrade: "kline"',
    BINANCE.replace('"s":"BTCUSDT",', ""): "symbol (s) is missing",
    BINANCE.replace('"BTCUSDT"', "7"): "symbol (s) is not a market: 7",
    BINANCE.replace('"t":5,', ""): "trade id (t) is missing",
    BINANCE.replace(
        '"t":5', '"t":"5"'
    ): 'trade id (t) is not a whole number of at most 63 bits: "5"',
    BINANCE.replace('"t":5', '"t":"#5"'): "trade id or a time is a text",
    BINANCE.replace('"t":5', r'"t":"\u00235"'): "trade id or a time is a text",
    BINANCE.replace('"T":1700000000123', '"T":"#1700000000123"'): "trade id or a time is a text",
    f'{{"stream":"x","data":{BINANCE}}}'.replace('"t":5', '"t":"#5"'): (
        "trade id or a time is a text"
    ),
    BINANCE.replace('"t":5', '"t":5.0'): (
        "trade id (t) is not a whole number of at most 63 bits: 5.0"
    ),
    BINANCE.replace('"t":5', '"t":[5]'): (
        'trade id (t) is not a whole number of at most 63 bits: "[5]"'
    ),
    BINANCE.replace('"t":5', '"t":null'): "trade id (t) is missing",
    BINANCE.replace('"T":1700000000123', '"T":"1700000000123"'): (
        'trade time (T) is not a whole number of at most 63 bits: "1700000000123"'
    ),
    BINANCE.replace('"M":true', '"M":{"s":01}'): "is not valid JSON",
    f"[{BINANCE}]": "is not a JSON object",
    '["trade",1700000000124,"BTCUSDT",5,null,"1","1",1700000000124,true]': "is not a JSON object",
    BINANCE.replace('"t":5', '"t":-5'): "trade id (t) is not a whole number of at most 63 bits: -5",
    BINANCE.replace('"t":5', '"t":9223372036854775808'): (
        "trade id (t) is not a whole number of at most 63 bits: 9223372036854775808"
    ),
    BINANCE.replace('"T":1700000000123', '"T":1700000000'): (
        "trade time (T) is not a time between 2009 and 2100: 1700000000"
    ),
    BINANCE.replace('"E":1700000000124,', ""): "event time (E) is missing",
    BINANCE.replace('"m":true', '"m":1'): "buyer is maker (m) is not true or false",
    BINANCE.replace('"m":true', '"m":"true"'): "buyer is maker (m) is not true or false",
    BINANCE.replace('"37000.12345678"', "37000.12345678"): (
        "price (p) is not a decimal text: 37000.12345678"
    ),
    BINANCE.replace('"37000.12345678"', "null"): "price (p) is missing",
    BINANCE.replace('"37000.12345678"', '"-1"'): 'price (p) is not positive: "-1"',
    BINANCE.replace('"0.00001000"', '"0.00"'): 'quantity (q) is not positive: "0.00"',
    BINANCE.replace('"0.00001000"', '"0.000010001"'): (
        'quantity (q) has more than 8 fractional digits: "0.000010001"'
    ),
    BINANCE.replace('"0.00001000"', '"10000000000"'): (
        'quantity (q) does not fit Decimal(18, 8): "10000000000"'
    ),
    BINANCE.replace('"0.00001000"', '"9999999999.99999999"'): (
        "price * quantity does not fit Decimal(18, 8)"
    ),
}


def test_a_bad_binance_message_is_a_dead_letter_and_its_batch_goes_on(bronze: Bronze) -> None:
    bronze.send("binance", [BINANCE, *BAD_BINANCE, BINANCE])
    assert bronze.reasons() == list(enumerate(BAD_BINANCE.values(), start=1))
    assert bronze.rows("select count() from {db}.bronze_trades_binance") == [(2,)]
    kept = bronze.rows(
        "select raw_message, exchange, topic, kafka_partition from {db}.dead_letters "
        "order by kafka_offset"
    )
    assert kept == [(message, "binance", "topic", 1) for message in BAD_BINANCE]


BAD_KRAKEN = {
    "nope": "is not valid JSON",
    "{}": "channel is missing",
    '{"channel":"ticker","data":[]}': 'channel is not trade: "ticker"',
    '{"method":"subscribe","success":false,"error":"no"}': "request refused (subscribe): no",
    '{"channel":"trade","type":"update"}': "data is not a list of trades",
    '{"channel":"trade","type":"update","data":[1]}': "data is not a list of trades",
    kraken(KRAKEN_TRADE, kind="delete"): 'type is not update or snapshot: "delete"',
    kraken(KRAKEN_TRADE.replace("26247.1", '"26247.1"')): 'price is not a JSON number: "26247.1"',
    kraken(KRAKEN_TRADE.replace("26247.1", '"#26247.1"')): "trade_id, price or qty is a text",
    kraken(KRAKEN_TRADE.replace("0.00300000", r'"\u00233"')): "trade_id, price or qty is a text",
    kraken(KRAKEN_TRADE.replace("4665906", '"#4665906"')): "trade_id, price or qty is a text",
    kraken(KRAKEN_TRADE.replace("26247.1", "-0.1")): "price is not positive: -0.1",
    kraken(
        KRAKEN_TRADE.replace("26247.1", "1e-9")
    ): "price has more than 8 fractional digits: 1e-9",
    kraken(KRAKEN_TRADE.replace("26247.1", "1e400")): "is not valid JSON",
    kraken(KRAKEN_TRADE.replace("26247.1", "1e10")): "price does not fit Decimal(18, 8): 1e10",
    kraken(KRAKEN_TRADE.replace('"side":"buy",', "")): "side is missing",
    kraken(KRAKEN_TRADE.replace('"buy"', '"hold"')): 'side is not buy or sell: "hold"',
    kraken(KRAKEN_TRADE.replace("BTC/USD", "BTCUSD")): 'symbol is not a market: "BTCUSD"',
    kraken(KRAKEN_TRADE.replace("2023-09-25", "2023-02-30")): (
        'timestamp is not a time in UTC: "2023-02-30T07:49:37.708706Z"'
    ),
}


def test_a_bad_kraken_message_is_a_dead_letter_and_its_batch_goes_on(bronze: Bronze) -> None:
    good = kraken(KRAKEN_TRADE)
    bronze.send("kraken", [good, *BAD_KRAKEN, good])
    assert bronze.reasons() == list(enumerate(BAD_KRAKEN.values(), start=1))
    assert bronze.rows("select count() from {db}.bronze_trades_kraken") == [(2,)]


def test_of_a_kraken_message_only_the_bad_trade_is_a_dead_letter(bronze: Bronze) -> None:
    bad = KRAKEN_TRADE.replace('"qty":0.00300000', '"qty":0')
    third = KRAKEN_TRADE.replace("4665906", "4665908")
    bronze.send("kraken", [kraken(KRAKEN_TRADE, bad, third)])
    assert bronze.rows(
        "select sequence_number from {db}.bronze_trades_kraken order by sequence_number"
    ) == [(4665906,), (4665908,)]
    assert bronze.reasons() == [(0, "trade 2 of 3: qty is not positive: 0")]


def test_what_the_protocol_says_is_neither_trade_nor_dead_letter(bronze: Bronze) -> None:
    bronze.send("binance", ['{"result":null,"id":1}'])
    bronze.send(
        "kraken",
        [
            '{"channel":"heartbeat"}',
            '{"channel":"status","type":"update","data":[{"system":"online"}]}',
            '{"method":"subscribe","success":true,"result":{"channel":"trade"}}',
            '{"method":"pong","req_id":1}',
            kraken(kind="snapshot"),
        ],
    )
    assert bronze.reasons() == []
    assert bronze.rows("select count() from {db}.bronze_trades_kraken") == [(0,)]


@pytest.mark.parametrize("exchange", ["binance", "kraken"])
def test_a_message_that_the_engine_could_not_read_is_a_dead_letter(
    bronze: Bronze, exchange: str
) -> None:
    bronze.send(exchange, ["{broken"], error="Cannot parse JSON object")
    assert bronze.rows("select reason, raw_message from {db}.dead_letters") == [
        ("cannot be read: Cannot parse JSON object", "{broken")
    ]


def test_a_replayed_message_changes_nothing(bronze: Bronze) -> None:
    messages = [BINANCE, "junk", BINANCE.replace('"t":5', '"t":6')]
    bronze.send("binance", messages)
    query = "select * from {db}.bronze_trades_binance final order by kafka_offset"
    dead = "select * from {db}.dead_letters final"
    first, first_dead = bronze.rows(query), bronze.rows(dead)
    bronze.send("binance", messages)
    assert bronze.rows("select count() from {db}.bronze_trades_binance") == [(4,)]
    assert bronze.rows(query) == first
    assert bronze.rows(dead) == first_dead


def test_the_quote_volume_is_rounded_half_even(bronze: Bronze) -> None:
    cases = {"0.00000005": "0", "0.00000015": "0.00000002", "0.00000025": "0.00000002"}
    bronze.send(
        "kraken",
        [kraken(KRAKEN_TRADE.replace("26247.1", "0.1").replace("0.00300000", q)) for q in cases],
    )
    volumes = [row[2] for row in prices_and_quantities(bronze, "kraken")]
    assert volumes == [Decimal(volume) for volume in cases.values()]


def test_a_block_with_more_trades_than_a_block_holds_lands_as_one_part(bronze: Bronze) -> None:
    trades = [KRAKEN_TRADE.replace("4665906", str(number)) for number in range(20)]
    bronze.send("kraken", [kraken(*trades)] * 10_000)
    # Not merged from several: its block numbers span one insert.
    assert bronze.rows(
        "select rows, min_block_number = max_block_number from system.parts "
        "where database = '{db}' and table = 'bronze_trades_kraken' and active"
    ) == [(200_000, 1)]


digits = st.integers(min_value=1, max_value=10**18 - 1).map(lambda units: Decimal(units).scaleb(-8))


def number_texts(number: Decimal) -> list[str]:
    """One number in the ways in which JSON writes it."""
    exponent = f"{number:E}"
    return [f"{number:f}", exponent, exponent.lower(), str(number.normalize())]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(digits, min_size=1, max_size=50), shape=st.integers(0, 3))
def test_every_digit_of_a_number_arrives(
    bronze: Bronze, numbers: list[Decimal], shape: int
) -> None:
    bronze.client.command(f"truncate table {bronze.database}.bronze_trades_kraken")
    bronze.client.command(f"truncate table {bronze.database}.bronze_trades_binance")
    # The smallest quantity keeps every quote volume within bounds.
    kraken_texts = [
        kraken(
            KRAKEN_TRADE.replace("0.00300000", "1e-8").replace(
                "26247.1", number_texts(number)[shape]
            )
        )
        for number in numbers
    ]
    binance_texts = [
        BINANCE.replace("0.00001000", "0.00000001").replace("37000.12345678", f"{number:f}")
        for number in numbers
    ]
    bronze.send("kraken", kraken_texts)
    bronze.send("binance", binance_texts)
    for exchange in ("kraken", "binance"):
        assert [row[0] for row in prices_and_quantities(bronze, exchange)] == numbers


def test_creating_bronze_again_changes_nothing(bronze: Bronze) -> None:
    bronze.send("binance", [BINANCE])
    query = "select name, uuid, comment from system.tables where database = '{db}' order by name"
    before = bronze.rows(query)
    create_bronze(bronze.client, registry(), queue="embedded", database=bronze.database)
    assert bronze.rows(query) == before
    assert bronze.rows("select count() from {db}.bronze_trades_binance") == [(1,)]


@pytest.fixture
def sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the SQL files that a test may change."""
    for source in bronze_module.SQL_DIRECTORY.rglob("*.sql"):
        target = tmp_path / source.relative_to(bronze_module.SQL_DIRECTORY)
        target.parent.mkdir(exist_ok=True)
        target.write_text(source.read_text())
    monkeypatch.setattr(bronze_module, "SQL_DIRECTORY", tmp_path)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_changed_view_takes_over_and_no_row_is_lost(bronze: Bronze, sql: Path) -> None:
    bronze.send("kraken", ["{}"])
    bronze.send("kraken", [kraken(KRAKEN_TRADE)], first_offset=1)
    change(sql / "bronze" / "kraken.sql", "channel is missing", "there is no channel")
    create_bronze(bronze.client, registry(), queue="embedded", database=bronze.database)
    bronze.send("kraken", ["{}"], first_offset=2)
    assert bronze.reasons() == [(0, "channel is missing"), (2, "there is no channel")]
    assert bronze.rows("select count() from {db}.bronze_trades_kraken") == [(1,)]


def test_a_changed_column_comment_keeps_the_table(bronze: Bronze, sql: Path) -> None:
    bronze.send("kraken", [kraken(KRAKEN_TRADE)])
    change(sql / "bronze" / "kraken.sql", "Trade id (trade_id)", "The trade id")
    create_bronze(bronze.client, registry(), queue="embedded", database=bronze.database)
    assert bronze.rows("select count() from {db}.bronze_trades_kraken") == [(1,)]


def test_a_kept_table_with_other_columns_is_refused_and_keeps_its_rows(
    bronze: Bronze, sql: Path
) -> None:
    bronze.send("kraken", [kraken(KRAKEN_TRADE)])
    change(sql / "bronze" / "kraken.sql", "price Decimal(18, 8)", "price Decimal(38, 18)")
    with pytest.raises(BronzeError, match="bronze_trades_kraken has other columns or keys"):
        create_bronze(bronze.client, registry(), queue="embedded", database=bronze.database)
    assert bronze.rows("select count() from {db}.bronze_trades_kraken") == [(1,)]


def test_every_column_of_every_table_has_a_comment(bronze: Bronze) -> None:
    # Views repeat the columns of the tables they write to.
    assert (
        bronze.rows(
            "select table, name from system.columns where database = '{db}' and comment = '' "
            "and table not like '%_mv'"
        )
        == []
    )


def test_kafka_queues_need_a_broker(clickhouse: Any) -> None:
    with pytest.raises(BronzeError, match="need a broker"):
        create_bronze(clickhouse, registry(), queue="kafka", database="k2_none")
