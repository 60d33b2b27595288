"""Bronze in ClickHouse: the queues, the bronze tables and the views between them.

The SQL is in `include/clickhouse/`, one file an exchange; this module applies it. Applying it again
changes nothing. Where a definition has changed, the views and queues of that exchange, which hold
no rows, are made anew; a table that holds rows is never dropped or altered.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from k2.clickhouse import quote_identifier, quote_string
from k2.errors import IngestError
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clickhouse_connect.driver.client import Client

    from k2.registry import Exchange, Registry

SQL_DIRECTORY = Path(__file__).resolve().parent.parent.parent / "clickhouse"

Queue = Literal["kafka", "embedded"]

_CREATE = re.compile(
    r"create (table|materialized view) if not exists \S+?\.(?P<name>\w+)(?P<rest>.*)"
    r"\ncomment '(?P<comment>[^']*)'",
    re.DOTALL,
)
_KEEPS_ROWS = re.compile(r"^engine = \w*MergeTree", re.MULTILINE)
_BROKERS = re.compile(r"[\w.:\[\]-]+:[0-9]+(,[\w.:\[\]-]+:[0-9]+)*", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_SQL_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)


class BronzeError(IngestError):
    """Bronze cannot be created as its SQL files say."""


@dataclass(frozen=True)
class Definition:
    """One table or view of a SQL file: its name, whether it holds rows, how to create it.

    Its fingerprint is part of the comment that it gets in ClickHouse: that is how a later run
    knows whether the definition has changed.
    """

    name: str
    keeps_rows: bool
    statement: str
    comment: str


def create_bronze(
    client: Client,
    registry: Registry,
    *,
    queue: Queue,
    broker: str | None = None,
    database: str = "k2",
) -> None:
    """Create the database, the dead letters and, for each exchange, queue, bronze and views.

    Args:
        client: any connection that may create databases; its current database does not matter.
        queue: `kafka` reads the exchanges' topics, `embedded` takes inserts.
        broker: the Kafka bootstrap servers, `host:port,...`; needed with `kafka` only.

    Raises:
        BronzeError: an exchange has no SQL file, `kafka` has no broker or one that is no address,
            or a table that holds rows has other columns or keys than its SQL file says.
    """
    if queue == "kafka":
        _require_brokers(broker)
    names = {"database": quote_identifier(database)}
    client.command(f"create database if not exists {names['database']}", use_database=False)
    _apply(client, database, _definitions("dead_letters.sql", names))
    for exchange in registry.exchanges:
        names |= _queue_names(exchange, broker or "")
        definitions = _definitions(f"queue_{queue}.sql", names)
        definitions += _definitions(f"bronze/{exchange.name}.sql", names)
        _apply(client, database, definitions)


def bronze_definitions(registry: Registry, *, database: str = "k2") -> list[Definition]:
    """What `create_bronze` creates, but for the queues: those go by their kind and its broker."""
    names = {"database": quote_identifier(database)}
    definitions = _definitions("dead_letters.sql", names)
    for exchange in registry.exchanges:
        definitions += _definitions(
            f"bronze/{exchange.name}.sql", names | _queue_names(exchange, "")
        )
    return definitions


def _require_brokers(broker: str | None) -> None:
    if not broker:
        raise BronzeError("Kafka queues need a broker; give its address as host:port")
    if not _BROKERS.fullmatch(broker):
        raise BronzeError(f"broker {broker!r} is not host:port, or several with commas between")


def _queue_names(exchange: Exchange, broker: str) -> dict[str, str]:
    return {
        "queue": quote_identifier(f"trades_{exchange.name}_queue"),
        "broker": quote_string(broker),
        "topic": quote_string(exchange.topic),
        "consumer_group": quote_string(exchange.consumer_group),
        "consumers": str(exchange.consumers),
    }


def _definitions(file: str, names: dict[str, str]) -> list[Definition]:
    """The definitions of a SQL file, in its order, with its {placeholders} filled in."""
    try:
        text = (SQL_DIRECTORY / file).read_text()
    except FileNotFoundError as error:
        raise BronzeError(
            f"include/clickhouse/{file} is missing; an exchange of exchanges.yaml needs one"
        ) from error
    # Split before and filled in at once: a value is never read as a part of the file.
    statements = [part.strip() for part in _SQL_COMMENT.sub("", text).split(";\n")]
    return [
        _definition(file, _PLACEHOLDER.sub(lambda found: names[found[1]], statement))
        for statement in statements
        if statement
    ]


def _definition(file: str, statement: str) -> Definition:
    found = _CREATE.fullmatch(statement.replace("`", ""))
    if found is None:
        raise BronzeError(
            f"include/clickhouse/{file}: a statement is not 'create ... if not exists "
            f"{{database}}.name ... comment ...': {statement.splitlines()[0]}"
        )
    fingerprint = hashlib.sha256(" ".join(statement.split()).encode()).hexdigest()[:12]
    comment = f"{found['comment']} [definition {fingerprint}]"
    return Definition(
        name=found["name"],
        keeps_rows=_KEEPS_ROWS.search(found["rest"]) is not None,
        statement=statement.removesuffix(f"'{found['comment']}'") + quote_string(comment),
        comment=comment,
    )


def _apply(client: Client, database: str, definitions: list[Definition]) -> None:
    """Bring one file's tables and views to their definitions.

    What has changed goes in reverse order: the view that reads the queue first, so that a Kafka
    queue rests until the rest is there again and no message meets half a pipeline.
    """
    comments = _comments(client, database)
    changed = [
        definition
        for definition in definitions
        if comments.get(definition.name, definition.comment) != definition.comment
    ]
    for definition in changed:
        if definition.keeps_rows:
            _accept_kept_table(client, database, definition)
    if any(not definition.keeps_rows for definition in changed):
        for definition in reversed(definitions):
            if not definition.keeps_rows:
                client.command(
                    f"drop table if exists {_qualified(database, definition.name)} sync",
                    use_database=False,
                )
    for definition in definitions:
        client.command(definition.statement, use_database=False)
    get_logger().info(
        "bronze.applied", tables=",".join(d.name for d in definitions), changed=len(changed)
    )


def _accept_kept_table(client: Client, database: str, definition: Definition) -> None:
    """Take note of a new definition that means the same table; refuse any other."""
    wanted = f"{definition.name}_wanted"
    client.command(f"drop table if exists {_qualified(database, wanted)} sync", use_database=False)
    client.command(
        re.sub(rf"\.{definition.name}\b", f".{wanted}", definition.statement, count=1),
        use_database=False,
    )
    try:
        same = _structure(client, database, definition.name) == _structure(client, database, wanted)
    finally:
        client.command(f"drop table {_qualified(database, wanted)} sync", use_database=False)
    if not same:
        raise BronzeError(
            f"{database}.{definition.name} has other columns or keys than include/clickhouse "
            "gives it; it keeps its rows, so bring it up to date with ALTER TABLE yourself"
        )
    client.command(
        f"alter table {_qualified(database, definition.name)} "
        f"modify comment {quote_string(definition.comment)}",
        use_database=False,
    )


def _structure(client: Client, database: str, table: str) -> list[Sequence[object]]:
    """Columns with types and defaults, then engine and keys."""
    parameters = {"database": database, "table": table}
    columns = client.query(
        "select name, type, default_kind, default_expression from system.columns "
        "where database = {database:String} and table = {table:String} order by position",
        parameters=parameters,
    )
    keys = client.query(
        "select engine, sorting_key, partition_key from system.tables "
        "where database = {database:String} and name = {table:String}",
        parameters=parameters,
    )
    return [*columns.result_rows, *keys.result_rows]


def _comments(client: Client, database: str) -> dict[str, str]:
    rows = client.query(
        "select name, comment from system.tables where database = {database:String}",
        parameters={"database": database},
    ).result_rows
    return {str(name): str(comment) for name, comment in rows}


def _qualified(database: str, name: str) -> str:
    return f"{quote_identifier(database)}.{quote_identifier(name)}"
