"""Reading dead letters again, after the views to Bronze have learned what they mean.

The place of a dead letter lies behind what was offloaded: a trade put there would never reach
Iceberg. So its trades get the next place of a partition of their own, and `dead_letter_replays`
says which. The steps of a batch, each of them safe to die in:

1. plan: the places are written down.
2. insert: the trades go to Bronze, as one block, at these places.
3. done: the dead letters are settled.

A run first looks at what the one before it left: a plan whose places are in Bronze is done, any
other is abandoned and made anew, at later places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from k2.clickhouse import quote_identifier, quote_string
from k2.errors import IngestError
from k2.ingest.dead_letter_plan import Letter, Outcome, ReplayPlan, plan_replay
from k2.ingest.dead_letters import open_letters_sql
from k2.ingest.lock import only_feed_of, require_lock
from k2.ingest.offsets import REPLAYED, next_offsets, wait_for_inserts
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    from clickhouse_connect.driver.client import Client

    from k2.registry import Exchange, Registry

BATCH_MESSAGES: Final = 1_000

_PLACE: Final = "topic, kafka_partition, kafka_offset"
_KEY: Final = f"exchange, {_PLACE}, reason"
_TRADE_COLUMNS: Final = (
    "exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, event_time,"
    " kafka_offset, kafka_partition"
)
# What is inserted is one block, so that an offload sees all of it or nothing.
_ONE_BLOCK: Final = {
    "max_threads": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 100_000_000,
    "min_insert_block_size_bytes": 4_000_000_000,
}


class ReplayError(IngestError):
    """Dead letters cannot be read again."""


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did: dead letters read, settled, and found in messages that were settled."""

    read: int = 0
    settled: int = 0
    found: int = 0

    def add(self, read: int, plan: ReplayPlan) -> ReplayResult:
        """With one more batch."""
        return ReplayResult(
            self.read + read, self.settled + len(plan.settled), self.found + len(plan.found)
        )


def replay_dead_letters(
    client: Client,
    registry: Registry,
    exchange: str,
    *,
    conninfo: str,
    database: str = "k2",
    batch_messages: int = BATCH_MESSAGES,
    dry_run: bool = False,
) -> ReplayResult:
    """Read the open dead letters of an exchange again, through the views as they are now.

    Run it after a fix: once more it changes nothing. What is no trade still stays a dead letter.

    Args:
        conninfo: PostgreSQL, where a lock makes sure that one process hands out places.
        dry_run: only say what would happen.

    Raises:
        FeedError: the exchange is being fed or replayed, or PostgreSQL does not answer.
        ReplayError: the view that reads the queue is not there.
        RegistryError: unknown exchange.
    """
    entry = registry.exchange(exchange)
    with only_feed_of(exchange, conninfo) as connection:
        replay = _Replay(client, database, entry)
        free = replay.settle_left(connection, registry)
        result = ReplayResult()
        for letters in replay.batches(batch_messages):
            require_lock(exchange, connection)
            plan = plan_replay(letters, replay.outcomes(letters), free)
            if not dry_run:
                replay.carry_out(plan)
            free += len({one.offset for one in plan.settled})
            result = result.add(len(letters), plan)
    get_logger(exchange=exchange).info(
        "dead_letters.replayed", rows=result.read, settled=result.settled, found=result.found
    )
    return result


class _Replay:
    """The statements of a replay of one exchange."""

    def __init__(self, client: Client, database: str, exchange: Exchange) -> None:
        self._client = client
        self._database = database
        self._exchange = exchange
        schema = quote_identifier(database)
        self._letters = f"{schema}.dead_letters"
        self._replays = f"{schema}.dead_letter_replays"
        self._bronze = f"{schema}.{quote_identifier(f'bronze_trades_{exchange.name}')}"
        self._is_ours = f"exchange = {quote_string(exchange.name)}"
        self._view = self._select_of_view()

    def settle_left(
        self, connection: psycopg.Connection[tuple[Any, ...]], registry: Registry
    ) -> int:
        """End what an earlier run has begun; the first free offset."""
        name = self._exchange.name
        # A run that was killed may have left an insert behind that is still at work.
        wait_for_inserts(self._client, f"bronze_trades_{name}")
        offloaded = next_offsets(
            self._client, connection, registry, self._database, name, [REPLAYED]
        ).get(REPLAYED, 0)
        ((planned, first, last),) = self._client.query(
            "select countIf(state = 'planned'), minIf(replayed_offset, state = 'planned'),"
            " if(count() = 0, 0, max(replayed_offset) + 1)"
            f" from {self._replays} final where {self._is_ours}"
        ).result_rows
        if planned:
            self._record("done" if offloaded > first else "abandoned", "state = 'planned'")
        return max(offloaded, int(last))

    def batches(self, messages: int) -> Iterator[list[Letter]]:
        """The open dead letters, message by message; a batch has all of each of its messages."""
        after = "('', 0, 0)"
        while True:
            rows = self._client.query(
                f"select {_PLACE}, groupArray(reason) from {open_letters_sql(self._database)}"
                f" where {self._is_ours} and ({_PLACE}) > {after}"
                f" group by {_PLACE} order by {_PLACE} limit {messages}"
            ).result_rows
            if not rows:
                return
            yield [
                Letter((topic, partition, offset), reason)
                for topic, partition, offset, reasons in rows
                for reason in reasons
            ]
            after = _place_sql(rows[-1][:3])

    def outcomes(self, letters: Sequence[Letter]) -> list[Outcome]:
        """What the views say about the messages of these letters now."""
        first, last = (end(letter.place for letter in letters) for end in (min, max))
        messages = (
            "(select raw_message as message, topic as _topic, toUInt64(kafka_partition) as"
            " _partition, kafka_offset as _offset, '' as _error, '' as _raw_message"
            f" from {open_letters_sql(self._database)} where {self._is_ours}"
            f" and ({_PLACE}) >= {_place_sql(first)} and ({_PLACE}) <= {_place_sql(last)}"
            f" limit 1 by {_PLACE}, raw_message)"
        )
        rows = self._client.query(
            f"select {_PLACE}, trade_number, reason,"
            " if(reason = '' or trade_number = 0, '', raw_message)"
            f" from ({self._reading(messages)})"
        ).result_rows
        return [Outcome((row[0], row[1], row[2]), *row[3:]) for row in rows]

    def carry_out(self, plan: ReplayPlan) -> None:
        """Write the plan down, insert its trades, settle its letters."""
        if not plan.settled:
            return
        name = self._exchange.name
        if plan.found:
            self._client.insert(
                "dead_letters",
                [(name, *one.place, one.reason, one.raw_message) for one in plan.found],
                column_names=[*_KEY.split(", "), "raw_message"],
                database=self._database,
            )
        self._client.insert(
            "dead_letter_replays",
            [
                (name, *one.letter.place, one.letter.reason, REPLAYED, one.offset,
                 "planned" if one.has_trades else "done")
                for one in plan.settled
            ],
            column_names=[*_KEY.split(", "), "replayed_partition", "replayed_offset", "state"],
            database=self._database,
        )  # fmt: skip
        if plan.offsets:
            inside = f"replayed_offset between {plan.offsets[0]} and {plan.offsets[-1]}"
            self._insert(inside)
            self._record("done", f"state = 'planned' and {inside}")

    def _insert(self, inside: str) -> None:
        """Put the trades of planned letters into Bronze: of each message those that were wrong."""
        numbers = "toUInt32OrZero(extract(reason, '^trade ([0-9]+) of [0-9]+: '))"
        places = (
            f"(select {_PLACE}, replayed_offset, groupArray({numbers}) as numbers"
            f" from {self._replays} final where {self._is_ours} and state = 'planned' and {inside}"
            f" group by {_PLACE}, replayed_offset)"
        )
        messages = (
            f"(select letter.raw_message as message, letter.topic as _topic,"
            f" toUInt64({REPLAYED}) as _partition, place.replayed_offset as _offset,"
            " '' as _error, '' as _raw_message"
            f" from (select {_PLACE}, raw_message from {self._letters} final"
            f" where {self._is_ours} and ({_PLACE}) in (select {_PLACE} from {places})"
            f" limit 1 by {_PLACE}, raw_message) as letter"
            f" inner join {places} as place using ({_PLACE}))"
        )
        self._client.command(
            f"insert into {self._bronze} ({_TRADE_COLUMNS})"
            f" select {_TRADE_COLUMNS} from ({self._reading(messages)}) as trade"
            f" inner join (select replayed_offset, numbers from {places}) as place"
            " on trade.kafka_offset = place.replayed_offset"
            " where reason = '' and (has(numbers, 0) or has(numbers, trade_number))",
            settings=_ONE_BLOCK,
        )

    def _record(self, state: str, condition: str) -> None:
        columns = f"{_KEY}, replayed_partition, replayed_offset"
        self._client.command(
            f"insert into {self._replays} ({columns}, state)"
            f" select {columns}, {quote_string(state)} from {self._replays} final"
            f" where {self._is_ours} and {condition}"
        )

    def _reading(self, messages: str) -> str:
        """The view's query, with other messages than those of the queue."""
        return self._view.replace("\0", messages)

    def _select_of_view(self) -> str:
        view, queue = (f"trades_{self._exchange.name}_{what}" for what in ("checked_mv", "unclear"))
        rows = self._client.query(
            "select as_select from system.tables where database = {database:String}"
            " and name = {view:String}",
            parameters={"database": self._database, "view": view},
        ).result_rows
        if not rows:
            raise ReplayError(f"{self._database}.{view} is not there; run 'k2 init' first")
        source = rf"`?{re.escape(self._database)}`?\.`?{queue}`?(?!\w)"
        text, count = re.subn(source, "\0", str(rows[0][0]))
        if count != 1:
            raise ReplayError(f"{self._database}.{view} does not read {queue}; run 'k2 init'")
        return text


def _place_sql(values: Sequence[str | int]) -> str:
    texts = (quote_string(value) if isinstance(value, str) else str(value) for value in values)
    return f"({', '.join(texts)})"
