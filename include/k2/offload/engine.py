"""The offload of one table, step by step; it may die anywhere and be run again.

claim, recover, and for each batch: plan, unload, verify, commit, advance.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from k2.errors import OffloadError
from k2.logs import get_logger
from k2.offload.arrivals import require_no_strangers
from k2.offload.cursor import Token, parse_token
from k2.offload.faults import fault
from k2.offload.lineage import require_intact
from k2.offload.plan import (
    Intent,
    parse_intent,
    partition_documents,
    plan_batch,
    require_source_not_behind,
)
from k2.offload.ranges import Range, next_range, range_between
from k2.offload.schema import new_columns, source_columns
from k2.offload.steps import Steps
from k2.offload.unload import WrittenFile, cancel_unload, unload, verify
from k2.offload.watermark import Batch, Watermark

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping, Sequence

    from clickhouse_connect.driver.client import Client
    from pyiceberg.table import Table as IcebergTable
    from pyspark.sql import SparkSession
    from structlog.typing import FilteringBoundLogger

    from k2.offload.claim import Claim
    from k2.offload.lineage import LakeState
    from k2.offload.schema import Column
    from k2.offload.storage import Storage
    from k2.registry import Table


class LakeTable(Protocol):
    """What the engine needs of an Iceberg table."""

    @property
    def location(self) -> str: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def column_types(self) -> dict[str, str]: ...
    def state(self) -> LakeState: ...
    def open_reader(self) -> IcebergTable: ...
    def add_columns(self, columns: Sequence[Column], *, epoch: int) -> None: ...
    def fence(self, epoch: int) -> None: ...
    def remove(self, location: str) -> None: ...
    def snapshot_of(self, batch: str) -> Snapshot | None: ...
    def read_files(self, table: Table, files: Sequence[WrittenFile]) -> list[Any]: ...
    def commit(
        self,
        table: Table,
        files: Sequence[Any],
        *,
        expected: str | None,
        token: str,
        epoch: int,
        batch: str,
    ) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """A committed snapshot: what it added, and when (UTC)."""

    snapshot_id: int
    committed_at: dt.datetime
    files: int
    bytes: int


@dataclass(frozen=True)
class Offload:
    """What one run did: batches and rows moved, wall seconds."""

    table: str
    batches: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class Driver:
    """Everything one offload works with."""

    client: Client
    lake: LakeTable
    claim: Claim
    table: Table
    now: Callable[[], dt.datetime]
    spark: Callable[[], SparkSession]


def run(driver: Driver) -> Offload:
    """Offload everything that is new in one table.

    Raises:
        OffloadError: a step refused to go on; the lake is as it was before the step.
    """
    started = time.monotonic()
    fault("claimed")
    columns = source_columns(driver.client, driver.table)
    added = new_columns(driver.table, columns, driver.lake.column_types)
    token, upper = _recover(driver)
    fault("recovered")
    if token is not None:
        require_source_not_behind(
            driver.client, driver.table, token, driver.claim.dropped_positions
        )
        require_no_strangers(
            driver.client,
            driver.table,
            [column for column in columns if column not in added],
            token,
            driver.lake.open_reader,
        )
    if added:
        driver.claim.renew()
        driver.lake.add_columns(added, epoch=driver.claim.epoch)
        _log(driver).info("columns added", columns=[column.name for column in added])
    batches = rows = 0
    unfinished = range_between(driver.client, driver.table, token, upper) if upper else None
    while new := unfinished or next_range(driver.client, driver.table, token):
        rows += _move(driver, columns, new)
        batches += 1
        token, unfinished = new.upper, None
    seconds = round(time.monotonic() - started, 3)
    _log(driver).info("offloaded", batches=batches, rows=rows, seconds=seconds)
    return Offload(driver.table.name, batches, rows, seconds)


def _recover(driver: Driver) -> tuple[Token | None, Token | None]:
    """Where the table stands, and the end of an unfinished batch that must be taken again.

    Iceberg's token is the truth; PostgreSQL's copy is made equal to it.
    """
    watermark = driver.claim.read()
    state = driver.lake.state()
    require_intact(driver.table, state, watermark)
    truth = state.token
    token = None if truth is None else parse_token(truth, driver.table.cursor)
    driver.claim.outrun(state.epoch)
    intent = _unfinished(driver, watermark)
    if intent is not None and token == intent.lower:
        _log(driver).warning("unfinished batch", batch=intent.batch, rows=intent.rows)
        driver.lake.fence(driver.claim.epoch)
        fault("fenced")
        _discard(driver, intent)
        fault("cleared")
        # Corrected rows may be gone from the source by now, so their range is planned anew.
        return token, intent.upper if driver.table.commit == "append" else None
    if intent is not None and token == intent.upper:
        _log(driver).warning("batch was committed, not recorded", batch=intent.batch)
        _record(driver, intent)
    elif (truth, state.table_uuid) != (watermark.token, watermark.table_uuid):
        _log(driver).info("watermark taken from Iceberg", was=watermark.token, now=truth)
        driver.claim.set_token(truth, state.table_uuid)
    return token, None


def _move(driver: Driver, columns: Sequence[Column], new: Range) -> int:
    """One batch from plan to advance; the rows moved."""
    started, began = driver.now(), time.monotonic()
    intent = plan_batch(
        driver.client,
        driver.table,
        columns,
        new,
        directory=f"{driver.lake.location}/data",
        # PostgreSQL made anew counts epochs anew; the time keeps the paths of two attempts apart.
        attempt=f"{driver.claim.epoch}-{started:%Y%m%dT%H%M%S%f}",
    )
    steps = Steps(_log(driver).bind(batch=intent.batch), intent.rows, began)
    fault("planned")
    driver.claim.write_intent(intent.to_document())
    steps.end("planned")
    fault("intended")
    files = _write(driver, columns, intent, steps)
    fault("committing")
    driver.lake.commit(
        driver.table,
        files,
        expected=new.lower.to_json() if new.lower else None,
        token=new.upper.to_json(),
        epoch=driver.claim.epoch,
        batch=intent.batch,
    )
    steps.end("committed")
    fault("committed")
    _record(driver, intent, started, steps.seconds)
    fault("advanced")
    return intent.rows


def _write(
    driver: Driver, columns: Sequence[Column], intent: Intent, steps: Steps
) -> Sequence[Any]:
    """The files of an intent, verified, as the lake commits them; a failure leaves none behind."""
    try:
        files = _transfer(driver, columns, intent)
        steps.end("unloaded")
        fault("unloaded")
        # The lake reads the files' footers meanwhile; without the verification it gets no commit.
        with ThreadPoolExecutor(1) as beside:
            reading = beside.submit(driver.lake.read_files, driver.table, files)
            _verify(driver, columns, intent)
            read = reading.result()
        steps.end("verified")
        fault("verified")
        driver.claim.renew()
    except Exception:
        # Nobody else may come to remove them: a driver that was asleep writes to a path that the
        # next one has removed already. What cannot be removed now, the next run finds.
        with suppress(Exception):
            _discard(driver, intent)
        raise
    return read


def _transfer(driver: Driver, columns: Sequence[Column], intent: Intent) -> Sequence[WrittenFile]:
    if driver.table.transfer == "unload":
        return unload(driver.client, driver.lake.storage, driver.table, columns, intent)
    from k2.offload.scan import scan  # a Spark session is paid for only where rows go through it

    return scan(driver.spark(), driver.client, driver.lake.storage, driver.table, columns, intent)


def _verify(driver: Driver, columns: Sequence[Column], intent: Intent) -> None:
    if driver.table.transfer == "unload":
        verify(driver.client, driver.lake.storage, columns, intent)
        return
    from k2.offload.scan import verify_scan

    verify_scan(driver.spark(), columns, intent)


def _discard(driver: Driver, intent: Intent) -> None:
    """Remove what was written for an intent that is not committed."""
    cancel_unload(driver.client, intent)
    driver.lake.remove(intent.path)


def _unfinished(driver: Driver, watermark: Watermark) -> Intent | None:
    """The batch that an earlier run did not record; an unreadable one is as good as none."""
    if watermark.intent is None:
        return None
    try:
        return parse_intent(watermark.intent, driver.table)
    except OffloadError as error:
        _log(driver).warning("intent forgotten", reason=str(error))
        driver.lake.fence(driver.claim.epoch)
        driver.claim.set_token(watermark.token)
        return None


def _record(
    driver: Driver,
    intent: Intent,
    started: dt.datetime | None = None,
    step_seconds: Mapping[str, float] | None = None,
) -> None:
    """Advance PostgreSQL to a batch that is in Iceberg. Of a dead run's, the times are unknown."""
    snapshot = driver.lake.snapshot_of(intent.batch)
    if snapshot is None:
        # Expired since: the token says that the batch is in, its figures are gone.
        driver.claim.set_token(intent.upper.to_json())
        return
    driver.claim.advance(
        Batch(
            name=intent.batch,
            lower_token=intent.lower.to_json() if intent.lower else None,
            upper_token=intent.upper.to_json(),
            partitions=partition_documents(intent.partitions),
            rows=intent.rows,
            files=snapshot.files,
            bytes=snapshot.bytes,
            started_at=started or snapshot.committed_at,
            committed_at=snapshot.committed_at,
            snapshot_id=snapshot.snapshot_id,
            step_seconds=step_seconds,
        )
    )


def _log(driver: Driver) -> FilteringBoundLogger:
    return get_logger(table=driver.table.name)
