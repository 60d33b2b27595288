"""The maintenance of one table, step by step; it may die anywhere and be run again.

retention, compaction, expiry, manifests, orphans: each makes the next one's work smaller, and each
looks for what there is to do, so that a second run finds nothing.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from k2.logs import get_logger
from k2.maintenance.files import compact, delete_old_rows
from k2.maintenance.keeper import MaintenanceError
from k2.maintenance.metadata import expire_snapshots, merge_manifests
from k2.maintenance.orphans import remove_orphans
from k2.offload.lineage import require_intact
from k2.offload.watermark import read_watermark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    from k2.maintenance.keeper import Keeper

STEPS: dict[str, Callable[[Keeper], dict[str, Any]]] = {
    "retention": delete_old_rows,
    "compaction": compact,
    "expiry": expire_snapshots,
    "manifests": merge_manifests,
    "orphans": remove_orphans,
}


@dataclass(frozen=True)
class Figures:
    """What the current snapshot of a table holds."""

    rows: int
    files: int
    bytes: int


def maintain(keeper: Keeper) -> None:
    """Take every step, and log each with its figures.

    A table that was rolled back or replaced is left alone: expiry would take away the snapshot to
    which it can be restored, and the removal of orphans the files of the table that it replaced.

    Raises:
        LakeChangedError: the table does not stand where K2 left it.
        MaintenanceError: another run is at it, PostgreSQL's intent cannot be read, or a rewrite has
            lost or doubled rows.
    """
    with _only_run(keeper.postgres, keeper.table.name):
        for name, step in STEPS.items():
            _take(keeper, name, step)


def _take(keeper: Keeper, name: str, step: Callable[[Keeper], dict[str, Any]]) -> None:
    started, table = time.monotonic(), keeper.table
    require_intact(table, keeper.lake.state(), read_watermark(keeper.postgres, table.name))
    before = asdict(_figures(keeper))
    did = step(keeper)
    keeper.lake.in_jvm.refresh()
    get_logger(table=table.name).info(
        name,
        **did,
        **asdict(_figures(keeper)),
        **{f"{figure}_before": number for figure, number in before.items()},
        seconds=round(time.monotonic() - started, 3),
    )


def _figures(keeper: Keeper) -> Figures:
    snapshot = keeper.lake.in_jvm.currentSnapshot()
    if snapshot is None:
        return Figures(0, 0, 0)
    summary = snapshot.summary()
    rows, files, size = (
        int(summary.get(f"total-{what}") or 0) for what in ("records", "data-files", "files-size")
    )
    return Figures(rows, files, size)


@contextmanager
def _only_run(connection: Connection[dict[str, Any]], table: str) -> Iterator[None]:
    """Keep a second run of the same table away: it would do the same work, and lose it.

    PostgreSQL frees the lock when a dead holder's connection ends.
    """
    key = "(hashtext('k2.maintenance'), hashtext(%s))"
    (row,) = connection.execute(f"select pg_try_advisory_lock{key} as locked", (table,)).fetchall()
    if not row["locked"]:
        raise MaintenanceError(
            f"{table}: is being maintained by another run; this run ends and changes nothing"
        )
    try:
        yield
    finally:
        connection.execute(f"select pg_advisory_unlock{key}", (table,))
