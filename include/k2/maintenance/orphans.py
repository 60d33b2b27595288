"""Orphans: files below a table's location that no snapshot has and nobody writes any more.

They are left by a driver that died, by a compaction that died or was refused, and by metadata that
was replaced. A file is young for some days, and a batch that is intended keeps its files however
old they are: its driver may be asleep.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2.maintenance.keeper import MaintenanceError
from k2.offload.watermark import read_watermark

if TYPE_CHECKING:
    from k2.maintenance.keeper import Keeper


def remove_orphans(keeper: Keeper) -> dict[str, Any]:
    """Remove the files that no snapshot has, and the folders that are empty.

    Raises:
        MaintenanceError: PostgreSQL has an intent that does not say where its files are.
    """
    # Before the table is read: what is committed after this is intended here, what was committed
    # before it is in the table's metadata, and what is intended after it is young.
    intended = _intended_folder(keeper)
    keeper.lake.in_jvm.refresh()
    if keeper.lake.in_jvm.currentSnapshot() is None:
        # A table that was never offloaded to: the first offload removes what is left of a try.
        return {}
    removal = _Removal(keeper.lake.in_jvm.io(), intended)
    before = keeper.time_before(keeper.table.orphan_days)
    folder = keeper.lake.storage.folder(keeper.lake.location)
    action = keeper.actions().deleteOrphanFiles(keeper.lake.in_jvm)
    # By prefix, an object store is listed without Hadoop. A local folder would be listed with
    # a process for each file, and the search fail at a file that a commit takes away meanwhile.
    action = action.usePrefixListing(folder is None)
    action.olderThan(before).deleteWith(removal).execute()
    _remove_empty_folders(folder, before, intended)
    return {"removed_files": removal.files, "removed_bytes": removal.bytes}


def _intended_folder(keeper: Keeper) -> str | None:
    """The name of the folder that an unfinished batch is written to; no other batch has it."""
    name = keeper.table.name
    intent = read_watermark(keeper.postgres, name).intent
    if intent is None:
        return None
    path = intent.get("path")
    if not isinstance(path, str) or not path:
        raise MaintenanceError(
            f"{name}: the intent in PostgreSQL cannot be read, so no file is removed; run 'k2 "
            f"offload {name}', which puts it right"
        )
    return path.rstrip("/").rsplit("/", 1)[1]


def _remove_empty_folders(location: Path | None, before: int, intended: str | None) -> None:
    """Remove old folders that hold nothing: object stores have none, local disks keep them."""
    if location is None:
        return
    data = location / "data"
    for name, _, _ in os.walk(data, topdown=False):
        folder = Path(name)
        if folder == data or (intended is not None and intended in folder.parts):
            continue
        # One that is not empty, or is gone already, stays as it is.
        with suppress(OSError):
            if folder.stat().st_mtime * 1000 < before:
                folder.rmdir()


class _Removal:
    """A java.util.function.Consumer of orphans: removes each but those of an intended batch."""

    def __init__(self, storage: Any, intended: str | None) -> None:
        self._storage = storage
        self._intended = intended
        self.files = 0
        self.bytes = 0

    def accept(self, location: str) -> None:
        if self._intended is not None and f"/{self._intended}/" in location:
            return
        size = int(self._storage.newInputFile(location).getLength())
        self._storage.deleteFile(location)
        self.files += 1
        self.bytes += size

    class Java:
        """What Py4J reads to make this a Java object."""

        implements = ("java.util.function.Consumer",)
