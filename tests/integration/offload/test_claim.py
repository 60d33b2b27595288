"""One driver a table: claims in PostgreSQL."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from k2.errors import StackError
from k2.offload import watermark
from k2.offload.claim import ClaimHeldError, ClaimLostError, claim
from k2.settings import Postgres, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_numbers = itertools.count(1)

LOCKS = (
    "select distinct pid from pg_locks"
    " where locktype = 'advisory' and classid = hashtext('k2.offload ' || %s)::oid"
)


@pytest.fixture
def table() -> str:
    return f"claimed_{next(_numbers)}"


@pytest.fixture
def postgres(services: Settings) -> Postgres:
    return services.postgres


@pytest.fixture
def ask(postgres: Postgres) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    with watermark.connect(postgres) as connection:

        def ask(statement: str, *values: object) -> list[dict[str, Any]]:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

        yield ask


def expire(ask: Callable[..., Any], table: str) -> None:
    ask(
        "update offload_watermarks set lease_until = now() - interval '1 second'"
        " where table_name = %s",
        table,
    )


def test_a_second_claim_ends_at_once_and_names_the_holder(postgres: Postgres, table: str) -> None:
    holder = f"{socket.gethostname()} process {os.getpid()} since ..:..:.. UTC"
    expected = rf"^{table}: is being offloaded by {holder}; this run ends and adds nothing$"
    with (
        claim(postgres, table) as held,
        pytest.raises(ClaimHeldError, match=expected),
        claim(postgres, table),
    ):
        pytest.fail("claimed twice")
    assert held.epoch == 1


def test_other_tables_are_free_meanwhile(postgres: Postgres, table: str) -> None:
    with claim(postgres, table), claim(postgres, f"{table}_b") as other:
        other.renew()


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_claim_ends_with_its_block_and_the_epoch_grows(
    postgres: Postgres, ask: Callable[..., Any], table: str, error: type[Exception] | None
) -> None:
    try:
        with claim(postgres, table):
            if error:
                raise error
    except KeyError:
        pass
    (row,) = ask("select * from offload_watermarks where table_name = %s", table)
    assert (row["holder"], row["lease_until"]) == (None, None)
    with claim(postgres, table) as later:
        assert later.epoch == 2


def test_the_claim_of_a_killed_driver_can_be_taken_at_once(
    postgres: Postgres, ask: Callable[..., Any], table: str
) -> None:
    with claim(postgres, table) as killed:
        ask("select pg_terminate_backend(pid, 10000) from (" + LOCKS + ") as locks", table)
        with claim(postgres, table) as later:
            assert later.epoch == killed.epoch + 1
            later.renew()
        with pytest.raises(psycopg.OperationalError):
            killed.renew()


def test_an_expired_lease_is_taken_over_and_the_old_claim_writes_nothing_more(
    postgres: Postgres, ask: Callable[..., Any], table: str
) -> None:
    with claim(postgres, table) as hung:
        hung.set_token("before")
        expire(ask, table)
        with claim(postgres, table) as later:
            later.set_token("later")
            for write in (
                hung.read,
                hung.renew,
                hung.release,
                lambda: hung.set_token("late"),
                lambda: hung.write_intent({"batch": "late"}),
                lambda: hung.outrun(99),
            ):
                with pytest.raises(ClaimLostError, match=f"^{table}: the claim was taken over"):
                    write()
            assert later.read() == watermark.Watermark("later", None)
    (row,) = ask("select * from offload_watermarks where table_name = %s", table)
    assert (row["token"], row["intent"], row["holder"]) == ("later", None, None)


def test_the_death_of_a_driver_that_was_taken_over_does_not_free_the_table(
    postgres: Postgres, ask: Callable[..., Any], table: str
) -> None:
    with claim(postgres, table):
        (hung,) = ask(LOCKS, table)
        expire(ask, table)
        with claim(postgres, table) as later:
            ask("select pg_terminate_backend(%s, 10000)", hung["pid"])
            assert hung not in ask(LOCKS, table)
            with pytest.raises(ClaimHeldError), claim(postgres, table):
                pytest.fail("taken from a driver that lives")
            later.renew()


def test_a_claim_that_outran_epochs_in_iceberg_is_still_one(
    postgres: Postgres, ask: Callable[..., Any], table: str
) -> None:
    with claim(postgres, table) as held:
        held.outrun(41)
        with pytest.raises(ClaimHeldError), claim(postgres, table):
            pytest.fail("claimed twice")
        ask("select pg_terminate_backend(pid, 10000) from (" + LOCKS + ") as locks", table)
        with claim(postgres, table) as later:
            assert later.epoch == 43


def test_a_lease_is_renewed_while_the_driver_works(
    postgres: Postgres, ask: Callable[..., Any], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2.offload.claim.LEASE_SECONDS", 0.2)
    with claim(postgres, table), watermark.connect(postgres) as other:
        leases = {
            other.execute(
                "select lease_until, pg_sleep(0.1) from offload_watermarks where table_name = %s",
                (table,),
            ).fetchone()["lease_until"]
            for _ in range(5)
        }
    assert len(leases) > 1


def test_migrations_can_be_run_again(postgres: Postgres, table: str) -> None:
    with claim(postgres, table) as held:
        held.set_token("kept")
    with watermark.connect(postgres) as connection:
        watermark.migrate(connection)
    with claim(postgres, table) as held:
        assert held.read().token == "kept"


def test_without_postgresql_the_error_says_where_it_was_looked_for(postgres: Postgres) -> None:
    nowhere = Postgres("127.0.0.1", 1, postgres.user, postgres.password)
    with pytest.raises(StackError, match=r"^PostgreSQL at 127\.0\.0\.1:1 cannot be used: "):
        watermark.connect(nowhere)


def test_a_wrong_password_is_reported_without_the_password(postgres: Postgres) -> None:
    wrong = Postgres("127.0.0.1", postgres.port, postgres.user, "wrong one")
    with pytest.raises(StackError, match="password authentication failed") as error:
        watermark.connect(wrong)
    assert "wrong one" not in str(error.value)
