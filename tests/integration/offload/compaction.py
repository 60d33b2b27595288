"""Compaction by a foreign program: other files, the same rows, a snapshot without a token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conftest import Bench


def prepare_compaction(bench: Bench) -> Any:
    """Copy every data file of the current snapshot; the rewrite, to be committed."""
    lake = bench.lake_table()._table  # type: ignore[attr-defined]
    rewrite = lake.newRewrite().validateFromSnapshot(lake.currentSnapshot().snapshotId())
    builder = bench.gateway.jvm.org.apache.iceberg.DataFiles.builder(lake.spec())
    for task in list(lake.newScan().planFiles().iterator()):
        file = task.file()
        path = f"{file.location()}.compacted.parquet"
        _copy(file.location(), path)
        rewrite.deleteFile(file)
        rewrite.addFile(builder.copy(file).withPath(path).build())
    return rewrite


def compact(bench: Bench) -> None:
    """The same, committed."""
    prepare_compaction(bench).commit()


def _copy(source: str, target: str) -> None:
    content = Path(source.removeprefix("file:")).read_bytes()
    Path(target.removeprefix("file:")).write_bytes(content)
