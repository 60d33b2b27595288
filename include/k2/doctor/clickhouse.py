"""ClickHouse: its tables, the grants of a login, and what guards Silver."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

import yaml

from k2.doctor.result import Result, failed, ok, warning
from k2.ingest.bronze import SQL_DIRECTORY, bronze_definitions
from k2.registry import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.registry import Registry

SECONDS: Final = 5
START: Final = "start it; its login is K2_CLICKHOUSE_USER and K2_CLICKHOUSE_PASSWORD"
USERS: Final = SQL_DIRECTORY / "access" / "users.xml"
_GRANT: Final = re.compile(r"grant (?P<rights>.+) on (?P<where>\S+)")
# As the comment says when a view has read what was there before it (macros/catch_up.sql).
_CAUGHT_UP: Final = "Holds what its source held when it was created."
_FULL_REFRESH: Final = re.compile(r"full_refresh\s*=\s*true", re.IGNORECASE)


def tables(client: Client, registry: Registry) -> Result:
    """Every table of the registry, the queues, and Bronze as its SQL files say."""
    there = _comments(client)
    bronze = {one.name: one.comment for one in bronze_definitions(registry)}
    queues = [f"trades_{exchange.name}_queue" for exchange in registry.exchanges]
    wanted = [*queues, *bronze, *(table.name for table in registry.tables)]
    missing = [name for name in dict.fromkeys(wanted) if name not in there]
    if missing:
        return failed(f"missing: {', '.join(missing)}", "k2 init")
    old = [name for name, comment in bronze.items() if there[name] != comment]
    if old:
        return warning(
            f"made from other SQL than include/clickhouse has now: {', '.join(old)}", "k2 init"
        )
    return ok(f"{len(there)}, Bronze as its SQL files say")


def _comments(client: Client) -> dict[str, str]:
    rows = client.query(
        "select name, comment from system.tables where database = {database:String}",
        parameters={"database": client.database},
    ).result_rows
    return {str(name): str(comment) for name, comment in rows}


def grants(client: Client, user: str, users: Path = USERS) -> Result:
    """What users.xml grants to a login, as the server sees it; to the owner, all of it."""
    needed = list(dict.fromkeys(_needed(user, str(client.database), users)))
    lacking = [grant for grant in needed if client.command(f"check grant {grant}") != 1]
    if lacking:
        return failed(
            f"{user} lacks {'; '.join(lacking)}",
            "include/clickhouse/access/users.xml must be the server's users.d/k2.xml: restart it"
            if _of_file(users, user)
            else f"as an administrator: grant {lacking[0]} to {user}",
        )
    return ok(f"{user} has all {len(needed)}")


def unloads(user: str, users: Path = USERS) -> bool:
    """Whether a login is meant to write files: the offload's, and the owner."""
    own = _of_file(users, user)
    return not own or any("file" in _rights(statement) for statement in own)


def _needed(user: str, database: str, users: Path) -> Iterator[str]:
    """Single rights, as CHECK GRANT takes them."""
    own = _of_file(users, user)
    statements = own or [grant for name in _names(users) for grant in _of_file(users, name)]
    # A right on all tables that was taken back on some is checked on one where it must be left.
    narrow = any(statement.startswith("revoke") for statement in own)
    for statement in statements:
        found = _GRANT.fullmatch(statement)
        if found is None:
            continue
        where = re.sub(r"^k2\.", f"{database}.", found["where"])
        for right in _rights(statement):
            if narrow and where == f"{database}.*":
                # ALTER holds rights on the database that no table has.
                yield f"{'alter table' if right == 'alter' else right} on {database}.silver_trades"
            else:
                yield f"{right} on {where}"


def _rights(statement: str) -> list[str]:
    found = _GRANT.fullmatch(statement)
    return found["rights"].split(", ") if found else []


def _of_file(users: Path, user: str) -> list[str]:
    found = ET.parse(users).getroot().find("users")  # noqa: S314 - a file of this project
    own = None if found is None else next((one for one in found if one.tag == user), None)
    return [] if own is None else [query.text or "" for query in own.iter("query")]


def _names(users: Path) -> list[str]:
    found = ET.parse(users).getroot().find("users")  # noqa: S314 - a file of this project
    return [] if found is None else [one.tag for one in found]


def silver(client: Client, registry: Registry) -> Result:
    """Silver keeps the first arrival of each trade, and every exchange's view fills it."""
    rows = client.query(
        "select name, comment, engine_full, sorting_key, create_table_query from system.tables"
        " where database = {database:String}",
        parameters={"database": client.database},
    ).result_rows
    found = {row[0]: row[1:] for row in rows}
    if "silver_trades" not in found:
        return failed("silver_trades is not there", "k2 init")
    _, engine, key, statement = found["silver_trades"]
    wrong = []
    if not engine.startswith("ReplacingMergeTree(arrival_rank)"):
        wrong.append(f"its engine is {engine.split(' ')[0]}, not ReplacingMergeTree(arrival_rank)")
    (table,) = (table for table in registry.tables if table.layer is Layer.SILVER)
    if key != ", ".join(table.order):
        wrong.append(f"its sorting key is {key}, not {', '.join(table.order)}")
    if wrong:
        return failed(
            "; ".join(wrong),
            "rename the table, 'k2 init' makes it anew and fills it from Bronze; what Bronze has "
            "dropped must be inserted from the renamed one",
        )
    views = [f"bronze_{exchange.name}_to_silver_mv" for exchange in registry.exchanges]
    target = f"to {client.database}.silver_trades ".lower()
    astray = [name for name in views if name not in found or target not in found[name][3].lower()]
    if astray:
        return failed(f"does not fill it: {', '.join(astray)}", "k2 init")
    behind = [name for name in views if found[name][0] != _CAUGHT_UP]
    if behind:
        return warning(f"has not caught up with Bronze: {', '.join(behind)}", "k2 init")
    if "log_range" not in statement:
        return warning("no index log_range: each offload reads all of it", "see CHANGELOG.md")
    return ok(f"ReplacingMergeTree(arrival_rank), filled by {len(views)} views")


def full_refresh(dbt_project: Path, layers: Sequence[str] = ("silver", "gold")) -> Result:
    """`dbt run --full-refresh` would empty a layer that does not refuse it."""
    project = yaml.safe_load((dbt_project / "dbt_project.yml").read_text())
    models = project.get("models", {}).get(project["name"], {})
    open_layers = [
        layer for layer in layers if models.get(layer, {}).get("+full_refresh") is not False
    ]
    if open_layers:
        return failed(
            f"'--full-refresh' would empty {' and '.join(open_layers)}",
            f"+full_refresh: false below models: {project['name']} in dbt_project.yml",
        )
    files = sorted((dbt_project / "models").rglob("*.sql"))
    wrong = [file.name for file in files if _FULL_REFRESH.search(file.read_text())]
    if wrong:
        return failed(f"'--full-refresh' would empty {', '.join(wrong)}", "take full_refresh out")
    return ok(f"refused in {' and '.join(layers)}")
