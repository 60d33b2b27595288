"""Dead letters on the real engine: listed, counted, and read again after a fix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from k2 import cli
from k2.ingest.dead_letter_replay import ReplayError, ReplayResult, replay_dead_letters
from k2.ingest.dead_letters import count_reasons, newest_dead_letters
from k2.ingest.offsets import REPLAYED
from k2.ingest.queues import FeedError
from k2.registry import registry
from k2.settings import ClickHouse, Lake, Postgres, Settings, environment_of

from .conftest import PASSWORD
from .messages import binance, kraken, kraken_trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bronze

TRADES = (
    "select kafka_partition, kafka_offset, sequence_number from {db}.bronze_trades_EXCHANGE final "
    "order by kafka_partition, kafka_offset, sequence_number"
)


def trades(bronze: Bronze, exchange: str) -> list[tuple[object, ...]]:
    return bronze.rows(TRADES.replace("EXCHANGE", exchange))


def open_letters(bronze: Bronze) -> list[tuple[int, str]]:
    letters = newest_dead_letters(bronze.client, bronze.database, limit=1000)
    return sorted((one.offset, one.reason) for one in letters)


@pytest.fixture
def replay(bronze: Bronze, conninfo: str) -> Callable[..., ReplayResult]:
    def run(exchange: str, **options: object) -> ReplayResult:
        return replay_dead_letters(
            bronze.client,
            registry(),
            exchange,
            conninfo=conninfo,
            database=bronze.database,
            **options,  # type: ignore[arg-type]
        )

    return run


def change_view(bronze: Bronze, exchange: str, old: str, new: str) -> None:
    """Fix a view: make it anew with another text."""
    name = f"{bronze.database}.trades_{exchange}_checked_mv"
    ((statement,),) = bronze.rows(
        "select create_table_query from system.tables where database = '{db}'"
        f" and name = 'trades_{exchange}_checked_mv'"
    )
    assert isinstance(statement, str)
    assert old in statement
    bronze.client.command(f"drop table {name} sync")
    bronze.client.command(statement.replace(old, new))


def accept_fills(bronze: Bronze) -> None:
    """The fix of these tests: another event type is a trade, too."""
    change_view(bronze, "binance", "'trade', 'aggTrade'", "'trade', 'aggTrade', 'fill'")


def accept_zero(bronze: Bronze) -> None:
    change_view(
        bronze,
        "kraken",
        "toDecimal256OrNull(substring(text, 2), 38) <= 0",
        "toDecimal256OrNull(substring(text, 2), 38) < 0",
    )


def test_the_newest_dead_letters_come_first(bronze: Bronze) -> None:
    bronze.send("binance", ["first"])
    bronze.send("kraken", ["second", "{}"])
    everything = newest_dead_letters(bronze.client, bronze.database)
    assert [(one.exchange, one.raw_message) for one in everything] == [
        ("kraken", "{}"),
        ("kraken", "second"),
        ("binance", "first"),
    ]
    assert everything[0].arrived_at >= everything[-1].arrived_at
    of_binance = newest_dead_letters(bronze.client, bronze.database, exchange="binance")
    assert [one.raw_message for one in of_binance] == ["first"]
    assert len(newest_dead_letters(bronze.client, bronze.database, limit=2)) == 2


def test_reasons_are_counted_without_the_values_in_them(bronze: Bronze) -> None:
    bad = [kraken_trade(7, qty="0"), kraken_trade(8, qty="-1")]
    bronze.send("kraken", [kraken(kraken_trade(1), *bad), kraken(bad[0]), "junk"])
    bronze.send("binance", ["junk"])
    assert [
        (one.exchange, one.reason, one.dead_letters)
        for one in count_reasons(bronze.client, bronze.database)
    ] == [
        ("kraken", "qty is not positive", 3),
        ("binance", "is not valid JSON", 1),
        ("kraken", "is not valid JSON", 1),
    ]


def test_after_a_fix_dead_letters_become_trades_at_places_of_their_own(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    fills = [binance(number).replace('"trade"', '"fill"') for number in (11, 12)]
    bronze.send("binance", [binance(10), fills[0], "junk", fills[1], binance(13)])
    assert replay("binance") == ReplayResult(read=3)
    accept_fills(bronze)
    assert replay("binance", dry_run=True) == ReplayResult(read=3, settled=2)
    assert len(trades(bronze, "binance")) == 2
    assert replay("binance") == ReplayResult(read=3, settled=2)
    assert trades(bronze, "binance") == [
        (1, 0, 10),
        (1, 4, 13),
        (REPLAYED, 0, 11),
        (REPLAYED, 1, 12),
    ]
    assert open_letters(bronze) == [(2, "is not valid JSON")]
    assert bronze.rows(
        "select kafka_partition, kafka_offset, replayed_partition, replayed_offset, state"
        " from {db}.dead_letter_replays final order by kafka_offset"
    ) == [(1, 1, REPLAYED, 0, "done"), (1, 3, REPLAYED, 1, "done")]
    # Once more: nothing is left to do. What was replayed is kept, byte for byte.
    assert replay("binance") == ReplayResult(read=1)
    assert len(trades(bronze, "binance")) == 4
    assert bronze.rows("select count() from {db}.dead_letters final") == [(3,)]


def test_of_a_message_only_the_trades_that_were_wrong_are_replayed(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    bronze.send(
        "kraken",
        [
            kraken(kraken_trade(1), kraken_trade(2, qty="0"), kraken_trade(3, side="hold")),
            kraken(kraken_trade(4, qty="0")),
        ],
    )
    accept_zero(bronze)
    assert replay("kraken") == ReplayResult(read=3, settled=2)
    assert trades(bronze, "kraken") == [(1, 0, 1), (REPLAYED, 0, 2), (REPLAYED, 1, 4)]
    assert open_letters(bronze) == [(0, 'trade 3 of 3: side is not buy or sell: "hold"')]
    # The next fix gets its trade a later place: the first may have been offloaded.
    change_view(bronze, "kraken", "'buy', 'sell'", "'buy', 'sell', 'hold'")
    assert replay("kraken") == ReplayResult(read=1, settled=1)
    assert trades(bronze, "kraken")[-1] == (REPLAYED, 2, 3)
    assert open_letters(bronze) == []


def test_a_message_that_was_wrong_as_a_whole_leaves_its_wrong_trades_behind(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    message = kraken(kraken_trade(1), kraken_trade(2, qty="0"), kind="delete")
    bronze.send("kraken", [message])
    change_view(bronze, "kraken", "'update', 'snapshot'", "'update', 'snapshot', 'delete'")
    assert replay("kraken") == ReplayResult(read=1, settled=1, found=1)
    assert trades(bronze, "kraken") == [(REPLAYED, 0, 1)]
    assert open_letters(bronze) == [(0, "trade 2 of 2: qty is not positive: 0")]
    assert bronze.rows("select distinct raw_message from {db}.dead_letters") == [(message,)]
    assert replay("kraken") == ReplayResult(read=1)
    accept_zero(bronze)
    assert replay("kraken") == ReplayResult(read=1, settled=1)
    assert trades(bronze, "kraken") == [(REPLAYED, 0, 1), (REPLAYED, 1, 2)]


def test_a_message_that_turns_out_to_be_no_trade_at_all_is_settled(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    bronze.send("kraken", ['{"channel":"ticker","data":[]}'])
    change_view(bronze, "kraken", "'heartbeat', 'status'", "'heartbeat', 'status', 'ticker'")
    assert replay("kraken") == ReplayResult(read=1, settled=1)
    assert trades(bronze, "kraken") == []
    assert open_letters(bronze) == []


def test_many_dead_letters_are_replayed_batch_by_batch(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    bronze.send("binance", [binance(n).replace('"trade"', '"fill"') for n in range(25)])
    accept_fills(bronze)
    assert replay("binance", batch_messages=10) == ReplayResult(read=25, settled=25)
    assert trades(bronze, "binance") == [(REPLAYED, number, number) for number in range(25)]


class Killed(BaseException):
    """The replay dies here."""


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["dead_letter_replays", "bronze_trades_binance", "'done'"])
def test_a_replay_that_is_killed_at_any_step_is_run_again(
    bronze: Bronze,
    replay: Callable[..., ReplayResult],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: bool,
) -> None:
    bronze.send("binance", [binance(n).replace('"trade"', '"fill"') for n in range(5)])
    accept_fills(bronze)
    client = bronze.client
    insert, command = client.insert, client.command

    def dying_insert(table: str, *arguments: object, **options: object) -> None:
        if done or table != step:
            insert(table, *arguments, **options)  # type: ignore[arg-type]
        if table == step:
            raise Killed

    def dying_command(statement: str, **options: object) -> None:
        meant = step in statement.split("select", 2)[0 if step != "'done'" else 1]
        if done or not meant:
            command(statement, **options)  # type: ignore[arg-type]
        if meant:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(client, "insert", dying_insert)
        patch.setattr(client, "command", dying_command)
        with pytest.raises(Killed):
            replay("binance", batch_messages=3)
    first = trades(bronze, "binance")
    replay("binance", batch_messages=3)
    rows = trades(bronze, "binance")
    assert [row[2] for row in rows] == list(range(5))
    # What was there, and perhaps offloaded, has kept its place; all else came after it.
    assert rows[: len(first)] == first
    assert open_letters(bronze) == []
    assert replay("binance") == ReplayResult()


def test_a_plan_that_died_is_not_taken_for_done_when_later_ones_are(
    bronze: Bronze, replay: Callable[..., ReplayResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    bronze.send("binance", [binance(1).replace('"trade"', '"fill"'), binance(2)[:-1] + "!"])
    accept_fills(bronze)
    with monkeypatch.context() as patch:
        patch.setattr(bronze.client, "command", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            replay("binance")
    change_view(bronze, "binance", "'trade', 'aggTrade', 'fill'", "'trade', 'aggTrade'")
    assert replay("binance") == ReplayResult(read=2)
    bronze.send("binance", [binance(3).replace('"trade"', '"lot"')], first_offset=7)
    change_view(bronze, "binance", "'trade', 'aggTrade'", "'trade', 'aggTrade', 'lot'")
    assert replay("binance") == ReplayResult(read=3, settled=1)
    assert replay("binance") == ReplayResult(read=2)
    assert [row[2] for row in trades(bronze, "binance")] == [3]
    assert [offset for offset, _ in open_letters(bronze)] == [0, 1]


def test_a_replay_beside_a_feed_of_the_exchange_ends_at_once(
    bronze: Bronze, conninfo: str, replay: Callable[..., ReplayResult]
) -> None:
    from k2.ingest.lock import only_feed_of

    with only_feed_of("binance", conninfo), pytest.raises(FeedError, match="another feed of"):
        replay("binance")


def test_the_command_lists_counts_and_replays(
    bronze: Bronze,
    conninfo: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clickhouse, postgres = urlsplit(bronze.client.url), urlsplit(conninfo)
    settings = Settings(
        ClickHouse("127.0.0.1", clickhouse.port or 0, "k2", PASSWORD, bronze.database),
        Postgres("127.0.0.1", postgres.port or 0, postgres.username or "", PASSWORD),
        Lake("file:/nowhere"),
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)

    def k2(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["k2", "deadletters", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr()

    bronze.send("binance", ["junk", binance(1).replace('"trade"', '"fill"')])
    (letter,) = json.loads(k2("--exchange", "binance", "--limit", "1", "--json")[0])
    assert letter["raw_message"] == binance(1).replace('"trade"', '"fill"')
    assert "is not valid JSON" in k2("reasons")[0]
    bronze.send("kraken", ["[bold]"])
    assert "[bold]" in k2("--exchange", "kraken")[0]
    accept_fills(bronze)
    assert k2("replay", "--exchange", "binance", "--dry-run")[1] == (
        "binance: 2 dead letters read, 1 would be settled, 1 left\n"
    )
    assert k2("replay")[1] == (
        "binance: 2 dead letters read, 1 settled, 1 left\n"
        "kraken: 1 dead letters read, 0 settled, 1 left\n"
    )
    assert [one["raw_message"] for one in json.loads(k2("--json")[0])] == ["[bold]", "junk"]


def test_without_its_view_a_replay_says_what_to_do(
    bronze: Bronze, replay: Callable[..., ReplayResult]
) -> None:
    bronze.client.command(f"drop table {bronze.database}.trades_binance_checked_mv sync")
    with pytest.raises(ReplayError, match="run 'k2 init' first"):
        replay("binance")
