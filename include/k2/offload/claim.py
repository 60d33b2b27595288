"""Claims: one driver offloads a table at a time, and only its claim writes the watermark.

A claim is held twice over: by a session-level advisory lock, which PostgreSQL frees the moment a
dead driver's connection ends, and by a lease, which frees it from a driver that hangs. Either way
the next claim has a higher epoch, and nothing is written under an older one. The lock is that of
the epoch: what a driver leaves behind that was taken over concerns nobody any more.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from k2.errors import OffloadError
from k2.offload.drops import dropped_positions
from k2.offload.faults import fault
from k2.offload.watermark import connect, read_watermark, record_batch, record_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from k2.offload.cursor import Position
    from k2.offload.watermark import Batch, Watermark
    from k2.settings import Postgres

LEASE_SECONDS = 120


class ClaimHeldError(OffloadError):
    """Another driver is offloading the table."""


class ClaimLostError(OffloadError):
    """The claim was taken over; this driver's work is void."""


class Claim:
    """A table, claimed: the only way to write its watermark.

    Made by `claim`. Every write carries the epoch and raises ClaimLostError when a later claim
    exists.
    """

    def __init__(
        self, connection: psycopg.Connection[dict[str, Any]], table: str, epoch: int
    ) -> None:
        self._connection = connection
        self._mutex = threading.Lock()
        self.table = table
        self.epoch = epoch

    def read(self) -> Watermark:
        """The token's copy, the intent, and which Iceberg table they belong to."""
        self._write("epoch = epoch", {})
        with self._mutex:
            return read_watermark(self._connection, self.table)

    def dropped_positions(self) -> dict[Position, datetime]:
        """Which positions retention has dropped from ClickHouse, and when."""
        with self._mutex:
            return dropped_positions(self._connection, self.table)

    def renew(self) -> None:
        """Extend the lease."""
        self._write("lease_until = now() + make_interval(secs => %(lease)s)", {})

    def outrun(self, epoch: int) -> None:
        """Go beyond an epoch that Iceberg has seen: PostgreSQL was made anew or restored."""
        if epoch < self.epoch:
            return
        with self._mutex:
            with self._connection.transaction():
                self._update("epoch = %(later)s", {"later": epoch + 1})
                _lock(self._connection, self.table, epoch + 1)
            self.epoch = epoch + 1

    def write_intent(self, intent: Mapping[str, Any]) -> None:
        """Write down what is about to be unloaded, before any row moves."""
        self._write("intent = %(intent)s", {"intent": Jsonb(dict(intent))})

    def set_token(self, token: str | None, table_uuid: str | None = None) -> None:
        """Make the copy equal to the token in Iceberg, and forget the intent.

        A UUID given is that of the Iceberg table which the token was read from.
        """
        self._write(
            "token = %(token)s, intent = null, table_uuid = coalesce(%(uuid)s, table_uuid)",
            {"token": token, "uuid": table_uuid},
        )

    def advance(self, batch: Batch) -> None:
        """Record a committed batch: token, history, and no intent any more."""
        with self._mutex, self._connection.transaction():
            self._update("token = %(token)s, intent = null", {"token": batch.upper_token})
            record_batch(self._connection, self.table, self.epoch, batch)

    def record_end(self, *, success: bool) -> None:
        """Count a run that has ended, well or with an error."""
        with self._mutex, self._connection.transaction():
            self._update("epoch = epoch", {})
            record_end(self._connection, self.table, success=success)

    def release(self) -> None:
        """Free the table for the next driver."""
        self._write("holder = null, lease_until = null", {})

    def _write(self, assignment: LiteralString, values: Mapping[str, Any]) -> dict[str, Any]:
        with self._mutex:
            return self._update(assignment, values)

    def _update(self, assignment: LiteralString, values: Mapping[str, Any]) -> dict[str, Any]:
        row = self._connection.execute(
            "update offload_watermarks set updated_at = now(), "
            + assignment
            + " where table_name = %(table)s and epoch = %(epoch)s returning epoch",
            {"table": self.table, "epoch": self.epoch, "lease": LEASE_SECONDS, **values},
        ).fetchone()
        if row is None:
            raise ClaimLostError(
                f"{self.table}: the claim was taken over by a later run; this run adds nothing"
            )
        return row


@contextmanager
def claim(postgres: Postgres, table: str) -> Iterator[Claim]:
    """Hold a table for the duration of the block; the lease is kept fresh meanwhile.

    Raises:
        ClaimHeldError: another driver holds it; the message says who, and since when.
    """
    with connect(postgres) as connection:
        held = Claim(connection, table, _take(connection, table))
        done = threading.Event()
        keeper = threading.Thread(target=_keep_lease, args=(held, done), daemon=True)
        keeper.start()
        try:
            yield held
        finally:
            done.set()
            keeper.join()
            with suppress(ClaimLostError, psycopg.Error):
                held.release()
                fault("released")


@contextmanager
def offload_claim(postgres: Postgres, table: str) -> Iterator[Claim]:
    """The claim of an offload: how the run ended is counted, unless another took the table over.

    Raises:
        ClaimHeldError: another driver holds it.
    """
    with claim(postgres, table) as held:
        success = False
        try:
            yield held
            success = True
        finally:
            # A run is not worse for being uncounted.
            with suppress(ClaimLostError, psycopg.Error):
                held.record_end(success=success)


def _take(connection: psycopg.Connection[dict[str, Any]], table: str) -> int:
    """Claim a table; the epoch. The row is locked meanwhile, so claims come one by one."""
    with connection.transaction():
        connection.execute(
            "insert into offload_watermarks (table_name) values (%s) on conflict do nothing",
            (table,),
        )
        (current,) = connection.execute(
            "select epoch, holder, claimed_at, coalesce(lease_until < now(), true) as expired"
            " from offload_watermarks where table_name = %s for update",
            (table,),
        ).fetchall()
        if not (_lock(connection, table, current["epoch"]) or current["expired"]):
            raise ClaimHeldError(
                f"{table}: is being offloaded by {current['holder']} since "
                f"{current['claimed_at']:%H:%M:%S} UTC; this run ends and adds nothing"
            )
        epoch = int(current["epoch"]) + 1
        _lock(connection, table, epoch)
        connection.execute(
            """
            update offload_watermarks
            set epoch = %(epoch)s, holder = %(holder)s, claimed_at = now(),
                lease_until = now() + make_interval(secs => %(lease)s)
            where table_name = %(table)s
            """,
            {
                "table": table,
                "epoch": epoch,
                "holder": f"{socket.gethostname()} process {os.getpid()}",
                "lease": LEASE_SECONDS,
            },
        )
    return epoch


def _lock(connection: psycopg.Connection[dict[str, Any]], table: str, epoch: int) -> bool:
    """Lock an epoch of a table until the connection ends, unless another connection has it."""
    row = connection.execute(
        "select pg_try_advisory_lock("
        "hashtext('k2.offload ' || %s::text), (%s::bigint %% 2147483647)::integer) as locked",
        (table, epoch),
    ).fetchone()
    return row is not None and bool(row["locked"])


def _keep_lease(held: Claim, done: threading.Event) -> None:
    while not done.wait(LEASE_SECONDS / 4):
        try:
            held.renew()
        except (ClaimLostError, psycopg.Error):
            # The next write of the driver itself meets the same fact, and reports it.
            return
