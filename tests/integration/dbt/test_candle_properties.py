"""Any trades, in any order, as often as it takes, in any batches: the candles of the reference.

An example is a story: batches of messages and runs of the settling SQL, on a clock of its own. The
SQL is that of the models, compiled by dbt once for all examples.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2.clickhouse import connect

from .conftest import BRONZE_COLUMNS, GOLD_TABLES, Warehouse
from .reference import CANDLE_COLUMNS, Trade, reference_candles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from clickhouse_connect.driver.client import Client

MARKETS = {"XRPETH": "XRP/ETH", "BTCUSDT": "BTC/USDT"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LENGTHS = dict(zip(GOLD_TABLES, (60, 300, 900, 1800, 3600, 86400), strict=True))
# Around the ends of windows of all lengths.
MINUTES = st.sampled_from(
    (-1441, -1440, -61, -60, -31, -16, -6, -1, 0, 1, 4, 5, 14, 15, 29, 30, 59, 60, 1439, 1440)
)
MILLISECONDS = st.sampled_from((0, 1, 30_000, 59_999))

Candles = dict[tuple[str, str], list[tuple[object, ...]]]
Versions = dict[tuple[object, ...], tuple[tuple[object, ...], datetime]]


@dataclass(frozen=True)
class Message:
    """A trade at a place of the log."""

    trade: Trade
    partition: int
    offset: int


@dataclass(frozen=True)
class Batch:
    """Messages that are inserted at once, so long after the batch before; then settling, or not."""

    messages: tuple[Message, ...]
    pause: timedelta
    settles: bool


@dataclass(frozen=True)
class Engine:
    """The tables of a warehouse and the SQL that settles them, with a clock that tests set."""

    client: Client
    sql: dict[str, str]

    def empty(self) -> None:
        tables = ("bronze_trades_binance", "silver_trades", "ohlcv_live", "settlement_progress")
        for table in (*tables, *GOLD_TABLES):
            self.client.command(f"truncate table {table}")

    def insert(self, batch: Batch, now: datetime) -> None:
        rows = [(*m.trade.bronze_row(m.offset, m.partition), now) for m in batch.messages]
        names = (*BRONZE_COLUMNS, "ingestion_timestamp")
        self.client.insert("bronze_trades_binance", rows, column_names=names)

    def settle(
        self, since: datetime, now: datetime, between: Callable[[str], object] = lambda _table: None
    ) -> None:
        """What dbt's run does, model by model; after each statement `between` gets the model."""
        for table in GOLD_TABLES:
            sql = self.sql[table].replace("{since}", _text(since))
            sql = sql.replace("{until}", _text(now)).replace("{now}", _text(now))
            self.client.command(f"insert into {table} {sql}")
            between(table)
            progress = f"('{table}', '{_text(now)}', '{_text(now)}')"
            self.client.command(f"insert into settlement_progress values {progress}")
            between(table)

    def candles(self, suffix: str, tables: Sequence[str] = GOLD_TABLES) -> Candles:
        """All candles by table and market, in the order of CANDLE_COLUMNS."""
        found: Candles = {(table, market): [] for table in tables for market in MARKETS.values()}
        for table in tables:
            for market, *candle in self._rows(
                f"select canonical_symbol, {', '.join(CANDLE_COLUMNS)} from {table}{suffix}"
                " order by window_start"
            ):
                found[table, market].append(tuple(candle))
        return found

    def versions(self) -> Versions:
        """Each settled candle with the time at which it was written."""
        found: Versions = {}
        for table in GOLD_TABLES:
            for market, settled_at, *candle in self._rows(
                f"select canonical_symbol, settled_at, {', '.join(CANDLE_COLUMNS)}"
                f" from {table} final"
            ):
                found[table, market, candle[0]] = (tuple(candle), settled_at)
        return found

    def _rows(self, sql: str) -> list[Any]:
        return list(self.client.query(sql).result_rows)


@pytest.fixture(scope="module")
def engine(warehouse: Warehouse) -> Iterator[Engine]:
    selected = ("--select", "path:models/gold/live", "+path:models/gold/views")
    warehouse.dbt("build", *selected, "--exclude-resource-type", "unit_test", "test")
    with connect(warehouse.settings.clickhouse) as client:
        yield Engine(client, _compiled(warehouse, client))


def _compiled(warehouse: Warehouse, client: Client) -> dict[str, str]:
    """The SQL of each settled model for a later run, with {since}, {until} and {now} in it.

    dbt writes times into the SQL; those of the record are told apart by their values.
    """
    since, until = "2001-01-01 00:00:00.000", "2002-02-02 00:00:00.000"
    client.command("truncate table settlement_progress")
    for table in GOLD_TABLES:
        # The newest record says how far a table is settled, the highest how far the minutes are.
        client.command(f"insert into settlement_progress values ('{table}', '{since}', now64(3))")
    client.command(
        f"insert into settlement_progress values ('ohlcv_1m', '{until}', '2000-01-01 00:00:00.000')"
    )
    warehouse.dbt("compile", "--select", "path:models/gold/settled")
    manifest = json.loads((warehouse.state / "target" / "manifest.json").read_text())
    found = {}
    for table in GOLD_TABLES:
        sql = manifest["nodes"][f"model.k2.{table}"]["compiled_code"]
        settled_at = re.search(r"toDateTime64\('([^']+)', 3, 'UTC'\) as settled_at", sql)
        assert settled_at, f"{table} does not say when it was settled"
        sql = (
            sql.replace(settled_at[1], "{now}").replace(since, "{since}").replace(until, "{until}")
        )
        assert "{since}" in sql, f"{table} does not look back"
        found[table] = sql
    return found


def _text(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03}"


@st.composite
def _trades(draw: st.DrawFn, midnight: datetime) -> list[Trade]:
    """Trades of some markets around a midnight: many in one millisecond, ids in any order."""
    moments = draw(st.lists(st.tuples(MINUTES, MILLISECONDS), min_size=1, max_size=8))
    trade = st.builds(
        lambda trade_id, moment, **values: Trade(
            trade_id,
            (midnight - EPOCH) // timedelta(milliseconds=1) + 60_000 * moment[0] + moment[1],
            **values,
        ),
        trade_id=st.integers(0, 30) | st.integers(2**62, 2**63 - 1),
        moment=st.sampled_from(moments),
        price=st.sampled_from(
            [Decimal("0.00000001"), Decimal("0.99999999"), Decimal(7), Decimal(9)]
        ),
        quantity=st.sampled_from([Decimal("0.00000001"), Decimal("1.5"), Decimal(1000)]),
        side=st.sampled_from(["buy", "sell"]),
        market=st.sampled_from(sorted(MARKETS)),
    )
    return draw(
        st.lists(trade, min_size=1, max_size=30, unique_by=lambda t: (t.market, t.trade_id))
    )


@st.composite
def _stories(
    draw: st.DrawFn, midnight: datetime, pauses: st.SearchStrategy[timedelta]
) -> list[Batch]:
    """The messages of some trades, in batches: produced once or twice, delivered once or twice."""
    trades = draw(_trades(midnight))
    produced = draw(st.permutations(trades + draw(st.lists(st.sampled_from(trades), max_size=6))))
    messages = [
        Message(trade, partition=draw(st.integers(0, 1)), offset=offset)
        for offset, trade in enumerate(produced)
    ]
    cuts = draw(st.lists(st.integers(1, len(messages)), max_size=4))
    edges = sorted({0, *cuts, len(messages)})
    batches = []
    for start, end in itertools.pairwise(edges):
        # A consumer that starts again reads again what it did not commit.
        again = draw(st.integers(max(0, start - 5), start))
        batch = Batch(tuple(messages[again:end]), draw(pauses), draw(st.booleans()))
        batches.append(batch)
    return batches


def _reference(trades: set[Trade], ended_by: datetime | None = None) -> Candles:
    """The candles of trades; with a time, of the windows that have ended by then."""
    found: Candles = {}
    for table in GOLD_TABLES:
        for name, market in MARKETS.items():
            own = [t for t in trades if t.market == name and _ended(t, table, ended_by)]
            found[table, market] = reference_candles(own, table) if own else []
    return found


def _ended(trade: Trade, table: str, by: datetime | None) -> bool:
    if by is None:
        return True
    window = (trade.time - EPOCH) // timedelta(seconds=LENGTHS[table])
    return window < (by - EPOCH) // timedelta(seconds=LENGTHS[table])


def _midnight(days_ago: int) -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=days_ago)


# Each example runs some hundred statements.
FEW = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
LONG_AGO, LATELY = _midnight(100), _midnight(1)
DAYS = st.sampled_from([timedelta(milliseconds=1), timedelta(minutes=16), timedelta(days=3)])
MOMENTS = st.sampled_from([timedelta(milliseconds=1), timedelta(seconds=40), timedelta(minutes=16)])


@FEW
@given(story=_stories(LONG_AGO, DAYS))
def test_settled_candles_are_those_of_the_trades_so_far_and_only_changed_ones_are_written(
    engine: Engine, story: list[Batch]
) -> None:
    engine.empty()
    now = since = LONG_AGO - timedelta(hours=1)
    seen: set[Trade] = set()
    for batch in [*story, Batch((), timedelta(days=3), settles=True)]:
        now += batch.pause
        if batch.messages:
            engine.insert(batch, now)
        seen |= {message.trade for message in batch.messages}
        if batch.settles:
            before = engine.versions()
            now += timedelta(milliseconds=1)
            engine.settle(since, now)
            since = now
            assert engine.candles(" final") == _reference(seen, ended_by=now)
            _assert_only_changed_candles_are_new(before, engine.versions(), now)


def _assert_only_changed_candles_are_new(
    before: Versions, after: Versions, settled_at: datetime
) -> None:
    for key, (candle, written) in after.items():
        same = key in before and before[key][0] == candle
        assert written == (before[key][1] if same else settled_at.replace(tzinfo=None)), key


@FEW
@given(story=_stories(LATELY, MOMENTS))
def test_the_views_show_the_candles_of_the_trades_so_far_at_every_moment(
    engine: Engine, story: list[Batch]
) -> None:
    engine.empty()
    now = since = LATELY - timedelta(minutes=10)
    seen: set[Trade] = set()

    for batch in story:
        now += batch.pause
        engine.insert(batch, now)
        seen |= {message.trade for message in batch.messages}
        expected = _reference(seen)
        assert engine.candles("_view") == expected
        if batch.settles:
            now += timedelta(milliseconds=1)
            engine.settle(since, now, between=functools.partial(_assert_views, engine, expected))
            since = now


def _assert_views(engine: Engine, expected: Candles, settled: str) -> None:
    """While a table is settled, its view is right, and that of the minutes below it."""
    tables = tuple(dict.fromkeys(("ohlcv_1m", settled)))
    found = engine.candles("_view", tables)
    assert found == {key: candles for key, candles in expected.items() if key[0] in tables}


def test_trades_of_one_millisecond_are_ordered_by_id_whichever_came_first(engine: Engine) -> None:
    engine.empty()
    now = LATELY + timedelta(days=1, hours=1)
    instant = (LATELY - EPOCH) // timedelta(milliseconds=1)

    def arrive(trade_id: int, price: int) -> Batch:
        trade = Trade(trade_id, instant, Decimal(price), Decimal(1), "buy", "BTCUSDT")
        return Batch((Message(trade, 0, 100 - trade_id),), timedelta(0), settles=True)

    def open_and_close(suffix: str) -> set[tuple[object, ...]]:
        candles = engine.candles(suffix)
        return {
            (candle[1], candle[4], *candle[-2:])
            for (_, market), found in candles.items()
            for candle in found
            if market == "BTC/USDT"
        }

    # In the order of arrival: the middle, the last, the first. Offsets fall as ids rise.
    for batch in (arrive(20, price=5), arrive(30, price=6), arrive(10, price=7)):
        engine.insert(batch, now)
    assert open_and_close("_view") == {(7, 6, 10, 30)}
    engine.settle(LATELY - timedelta(days=1), now)
    assert open_and_close(" final") == open_and_close("_view") == {(7, 6, 10, 30)}
    # One more trade of the same millisecond, after the candle was settled, below all ids.
    engine.insert(arrive(1, price=8), now + timedelta(seconds=1))
    assert open_and_close("_view") == {(8, 6, 1, 30)}
    engine.settle(now, now + timedelta(seconds=2))
    assert open_and_close(" final") == {(8, 6, 1, 30)}


def test_a_window_that_goes_on_without_trades_stays_in_its_view(engine: Engine) -> None:
    """Minutes are settled long before the day that they are in."""
    engine.empty()
    now = since = LATELY + timedelta(hours=12, minutes=5)
    instant = (now - EPOCH) // timedelta(milliseconds=1)
    trade = Trade(1, instant, Decimal(5), Decimal(1), "buy", "BTCUSDT")
    engine.insert(Batch((Message(trade, 0, 1),), timedelta(0), settles=True), now)
    for _ in range(5):
        now += timedelta(minutes=16)
        engine.settle(since, now)
        since = now
        assert engine.candles("_view") == _reference({trade})
