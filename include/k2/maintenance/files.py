"""Data files: those of partitions past their retention are deleted, small ones are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2.logs import get_logger
from k2.maintenance.keeper import MIN_INPUTS, MaintenanceError
from k2.offload.kept import KEPT_FROM, first_kept, kept_from
from k2.offload.partition import partition_name, partition_range

if TYPE_CHECKING:
    import datetime as dt

    from k2.maintenance.keeper import Keeper

# A partition that offloads replace faster than it can be compacted is left to the next run.
ATTEMPTS = 3
# What is sorted at once is spilled to the local disk, so it is bounded.
FILES_IN_A_GROUP = 16


def delete_old_rows(keeper: Keeper) -> dict[str, Any]:
    """Delete the partitions that are past their retention in Iceberg, files and all.

    One commit deletes them and writes the first day that is kept, which only grows. It reads no
    rows: what is deleted are whole partitions.
    """
    first = first_kept(keeper.table, keeper.now().date())
    table = keeper.lake.in_jvm
    if first is None:
        return {}
    before = _compared(keeper, "lessThan", first)
    if not table.newScan().filter(before).planFiles().iterator().hasNext():
        return {"kept_from": kept_from(table.properties())}
    kept = max(first, kept_from(table.properties()) or first)
    transaction = table.newTransaction()
    transaction.newDelete().deleteFromRowFilter(before).commit()
    transaction.updateProperties().set(KEPT_FROM, kept.isoformat()).commit()
    transaction.commitTransaction()
    return {"kept_from": kept}


def compact(keeper: Keeper) -> dict[str, Any]:
    """Join the small files of each partition into sorted ones of the target size.

    Which partitions that are is Iceberg's own choice: those with enough files outside the target
    size. Each is a commit of its own; when an offload has replaced its files meanwhile, Iceberg
    refuses the commit and the partition is looked at again.

    Raises:
        MaintenanceError: a commit has added another number of rows than it took away.
    """
    newest = keeper.lake.in_jvm.currentSnapshot()
    overtaken: list[str] = []
    compacted = 0
    for _ in range(ATTEMPTS):
        planned = _in_need(keeper)
        overtaken = [partition for partition in planned if not _rewrite(keeper, partition)]
        compacted += len(planned) - len(overtaken)
        if not overtaken:
            break
        keeper.lake.in_jvm.refresh()
    if newest is not None:
        _require_same_rows(keeper, newest.snapshotId())
    if overtaken:
        get_logger(table=keeper.table.name).warning(
            "compaction overtaken by offloads, left to the next run", partitions=overtaken
        )
    return {"partitions": compacted}


def _in_need(keeper: Keeper) -> list[str]:
    """The partitions that have enough small or large files, oldest first."""
    if keeper.lake.in_jvm.currentSnapshot() is None:
        return []
    planner = keeper.jvm.org.apache.iceberg.actions.BinPackRewriteFilePlanner(keeper.lake.in_jvm)
    planner.init(_options(keeper))
    integer = keeper.jvm.java.lang.Class.forName("java.lang.Integer")
    groups = planner.plan().groups().iterator()
    values = {group.info().partition().get(0, integer) for group in groups}
    return sorted(partition_name(keeper.table.partition, value) for value in values)


def _rewrite(keeper: Keeper, partition: str) -> bool:
    """Compact a partition; False when another commit has replaced its files meanwhile."""
    first, end = partition_range(keeper.table.partition, partition)
    action = keeper.actions().rewriteDataFiles(keeper.lake.in_jvm)
    action = action.filter(_compared(keeper, "greaterThanOrEqual", first))
    action = action.filter(_compared(keeper, "lessThan", end))
    action = action.sort(_order(keeper)).options(_options(keeper))
    # One group at a time: memory and local disk do not grow with the number of partitions.
    action = action.option("max-concurrent-file-group-rewrites", "1")
    try:
        action.execute()
    except Exception as error:
        # A RuntimeException of Spark's action that has the conflict as its cause.
        if "ValidationException or CommitFailedException" in str(error):
            return False
        raise
    return True


def _require_same_rows(keeper: Keeper, since: int) -> None:
    """Count what every rewrite after a snapshot took away and added, before that can expire."""
    table = keeper.lake.in_jvm
    table.refresh()
    snapshot = table.currentSnapshot()
    while snapshot is not None and snapshot.snapshotId() != since:
        rows = [snapshot.summary().get(f"{done}-records") for done in ("deleted", "added")]
        if snapshot.operation() == "replace" and rows[0] != rows[1]:
            raise MaintenanceError(
                f"{keeper.table.name}: snapshot {snapshot.snapshotId()} replaced {rows[0]} rows by "
                f"{rows[1]}; see 'Maintenance' in docs/runbook.md"
            )
        parent = snapshot.parentId()
        snapshot = None if parent is None else table.snapshot(parent)


def _options(keeper: Keeper) -> dict[str, str]:
    return {
        "target-file-size-bytes": str(keeper.target_bytes),
        "max-file-group-size-bytes": str(keeper.target_bytes * FILES_IN_A_GROUP),
        "min-input-files": str(MIN_INPUTS),
    }


def _order(keeper: Keeper) -> Any:
    order = keeper.jvm.org.apache.iceberg.SortOrder.builderFor(keeper.lake.in_jvm.schema())
    for name in keeper.table.order:
        order = order.asc(name)
    return order.build()


def _compared(keeper: Keeper, comparison: str, day: dt.date) -> Any:
    """Iceberg's expression that compares a row's time with the beginning of a day, in UTC."""
    compare = getattr(keeper.jvm.org.apache.iceberg.expressions.Expressions, comparison)
    return compare(keeper.table.partition.column, f"{day}T00:00:00+00:00")
