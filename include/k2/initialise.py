"""Everything that must be there before the first trade; each step can be run again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from k2.clickhouse import connect
from k2.ingest.bronze import create_bronze
from k2.offload import watermark
from k2.offload.catalog import ensure_table, open_catalog
from k2.offload.schema import source_columns
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from k2.registry import Registry
    from k2.settings import Settings


def initialise(
    settings: Settings,
    registry: Registry,
    *,
    queue: Literal["kafka", "embedded"],
    state: Path,
    say: Callable[[str], None],
    broker: str | None = None,
) -> None:
    """Create Bronze, Silver, Gold, the watermarks and the Iceberg tables, where missing.

    `state` is the directory for dbt's `target` and `logs`.

    Raises:
        K2Error: a service cannot be used, dbt fails, or a source lacks a registry column.
    """
    with connect(settings.clickhouse, database="default") as client:
        create_bronze(client, registry, queue=queue, broker=broker)
    say("bronze tables and their queues are there")
    say("dbt builds silver and gold ...")
    run_dbt(
        ["build", "--quiet", "--resource-type", "seed", "--resource-type", "model"],
        settings,
        state=state,
    )
    say("silver and gold models are there")
    with watermark.connect(settings.postgres) as postgres:
        watermark.migrate(postgres)
    catalog = open_catalog(settings)
    with connect(settings.clickhouse) as client:
        created = [
            table.name
            for table in registry.tables
            if ensure_table(catalog, settings, table, source_columns(client, table))
        ]
    say(f"iceberg tables are there ({len(created)} new)")
