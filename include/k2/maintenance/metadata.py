"""Metadata: old snapshots expire with the files that only they have, small manifests are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2.maintenance.keeper import MIN_INPUTS, SMALL

if TYPE_CHECKING:
    from k2.maintenance.keeper import Keeper

# Iceberg's default, where the table has no property.
_MANIFEST_BYTES = 8 * 1024 * 1024


def expire_snapshots(keeper: Keeper) -> dict[str, Any]:
    """Expire the snapshots that are older than the registry says.

    The newest one that carries the token stays, with those after it, however old: the token of the
    table's properties can always be held against it.
    """
    table = keeper.lake.in_jvm
    before = _count(table.snapshots())
    expiry = table.expireSnapshots()
    expiry = expiry.expireOlderThan(keeper.time_before(keeper.table.snapshot_days))
    expiry.retainLast(keeper.lake.snapshots_to_token()).commit()
    table.refresh()
    return {"snapshots": _count(table.snapshots()), "snapshots_before": before}


def merge_manifests(keeper: Keeper) -> dict[str, Any]:
    """Write small manifests anew as large ones, once there are enough of them."""
    table = keeper.lake.in_jvm
    manifests = _manifests(table)
    target = int(table.properties().get("commit.manifest.target-size-bytes") or _MANIFEST_BYTES)
    small = [manifest for manifest in manifests if manifest.length() < target * SMALL]
    if len(small) >= MIN_INPUTS:
        chosen = keeper.jvm.java.util.HashSet()
        for manifest in small:
            chosen.add(manifest)
        functions = keeper.jvm.com.google.common.base
        rewrite = table.rewriteManifests().clusterBy(functions.Functions.constant(""))
        # `in` is a word of Python.
        rewrite.rewriteIf(getattr(functions.Predicates, "in")(chosen)).commit()
        table.refresh()
    return {"manifests": len(_manifests(table)), "manifests_before": len(manifests)}


def _manifests(table: Any) -> list[Any]:
    snapshot = table.currentSnapshot()
    return [] if snapshot is None else list(snapshot.dataManifests(table.io()))


def _count(snapshots: Any) -> int:
    return sum(1 for _ in snapshots)
