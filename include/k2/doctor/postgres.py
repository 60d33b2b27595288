"""PostgreSQL: its tables and the rights on them, claims, the Iceberg catalog."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from k2.doctor.result import Result, failed, not_checked, ok, warning
from k2.errors import StackError
from k2.offload.watermark import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

SECONDS: Final = 5
# What the alert K2LeaseStuck goes by: longer than any task of the DAG may run.
LONGEST_CLAIM_MINUTES: Final = 90
_CREATED: Final = re.compile(r"create table (?:if not exists )?(\w+)")
START: Final = "start it; its login is K2_POSTGRES_USER and K2_POSTGRES_PASSWORD"


@contextmanager
def session(conninfo: str, name: str) -> Iterator[Connection[Any]]:
    """A connection that only reads, and gives up soon.

    Raises:
        StackError: the server does not answer or refuses the login.
    """
    options = f"-c timezone=UTC -c statement_timeout={SECONDS}s -c default_transaction_read_only=on"
    try:
        connection = psycopg.connect(
            conninfo, autocommit=True, connect_timeout=SECONDS, options=options
        )
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise StackError(f"{name} cannot be used: {reason}") from error
    with connection:
        yield connection


def describe(connection: Connection[Any]) -> str:
    """Version and login."""
    version = connection.info.parameter_status("server_version")
    return f"{version} at {connection.info.host}:{connection.info.port}, {connection.info.user}"


def tables() -> list[str]:
    """The tables that the migrations make."""
    files = sorted(MIGRATIONS.glob("*.sql"))
    return sorted({name for file in files for name in _CREATED.findall(file.read_text())})


def watermarks(connection: Connection[Any]) -> Result:
    """The tables of the watermarks, and the rights of this login on them."""
    wanted = tables()
    there = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(name) is not null",
        (wanted,),
    ).fetchall()
    missing = sorted(set(wanted) - {name for (name,) in there})
    if missing:
        return failed(f"no table {', '.join(missing)}", "k2 init")
    # The driver's own session only reads; so does a login that is made for it.
    ((reader,),) = connection.execute(
        "select exists(select from pg_db_role_setting join pg_roles on pg_roles.oid = setrole"
        " where rolname = current_user and 'default_transaction_read_only=on' = any(setconfig))"
    ).fetchall()
    rights = ["select"] if reader else ["select", "insert", "update", "delete"]
    lacking = connection.execute(
        "select name || ' (' || privilege || ')' from unnest(%s::text[]) as name,"
        " unnest(%s::text[]) as privilege where not has_table_privilege(name, privilege)",
        (wanted, rights),
    ).fetchall()
    if lacking:
        return failed(
            f"{connection.info.user} lacks {', '.join(name for (name,) in lacking)}",
            "psql --file=include/postgres/access/roles.sql as the owner, in the database k2",
        )
    return ok(f"{len(wanted)} tables, {', '.join(rights)}")


def leases(connection: Connection[Any]) -> Result:
    """Claims whose lease ran out, or that are older than any task may run."""
    try:
        held = connection.execute(
            "select table_name, holder, extract(epoch from now() - claimed_at)::bigint,"
            " extract(epoch from now() - lease_until)::bigint"
            " from offload_watermarks where holder is not null order by table_name"
        ).fetchall()
    except psycopg.errors.UndefinedTable:
        return not_checked("there are no watermarks")
    stuck = [
        f"{table}: {holder}, lease ran out {late:,} s ago"
        if late > 0
        else f"{table}: {holder}, for {age // 60} minutes"
        for table, holder, age, late in held
        if late > 0 or age > LONGEST_CLAIM_MINUTES * 60
    ]
    if stuck:
        return warning(
            "; ".join(stuck),
            "the next run takes over a lease that ran out; a driver that lives and does not end: "
            "see 'Claim held' in docs/runbook.md",
        )
    return ok(f"{len(held)} held, none stuck" if held else "none held")


def time_of(connection: Connection[Any]) -> float:
    """PostgreSQL's time, in seconds since 1970."""
    ((now,),) = connection.execute("select extract(epoch from clock_timestamp())").fetchall()
    return float(now)
