"""What every step of a table's maintenance works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2.errors import K2Error

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from psycopg import Connection

    from k2.offload.lake import LakeTable
    from k2.registry import Table

# Fewer small files, or small manifests, than this are no reason to write them anew. It is what
# Iceberg's compaction has as its default.
MIN_INPUTS = 5
# Of what is smaller than this part of its target size; it is Iceberg's as well.
SMALL = 0.75


class MaintenanceError(K2Error):
    """A table cannot be maintained now; its rows are as they were."""


@dataclass(frozen=True)
class Keeper:
    """A table in the lake, its registry entry, and the means to keep it in order.

    `spark` gives the JVM's Spark session, which costs seconds when it is asked for the first time.
    """

    lake: LakeTable
    table: Table
    jvm: Any
    postgres: Connection[dict[str, Any]]
    now: Callable[[], dt.datetime]
    spark: Callable[[], Any]

    @property
    def target_bytes(self) -> int:
        """The size of file that compaction aims at."""
        return self.table.target_file_mb * 1024 * 1024

    def time_before(self, days: int) -> int:
        """The time so many days ago, in milliseconds since 1970 (UTC)."""
        return round(self.now().timestamp() * 1000) - days * 86_400_000

    def actions(self) -> Any:
        """Iceberg's actions that need a Spark session."""
        return self.jvm.org.apache.iceberg.spark.actions.SparkActions.get(self.spark())
