"""Airflow's assets: one for each Iceberg table, updated by the offloads of the table, with figures.

A mapped task has the same outlets for all its tables. So its outlet is an alias, and each run of it
says which asset it has updated
(https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/assets.html).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

LAKE: Final = AssetAlias("k2-lake")


def asset_of(table: str) -> Asset:
    """The asset of a table of the lake; a DAG that is scheduled on it runs after its offloads."""
    return Asset(name=f"lake.cold.{table}", uri=f"k2://lake/cold/{table}")


def offloaded(context: Mapping[str, Any], _result: object = None) -> None:
    """Say that the table of an offload is updated: `post_execute` of the mapped task.

    What the run did is told with the asset's event, and batch by batch as the task's XCom
    `offloaded`: rows, files, bytes, seconds, and the seconds of each step.
    """
    (table,) = context["task"].application_args
    batches = _batches_of_run(table)
    context["ti"].xcom_push(key="offloaded", value=batches)
    figures = {"batches": len(batches), "rows": sum(batch["rows"] for batch in batches)}
    context["outlet_events"][LAKE].add(asset_of(table), extra=figures)


def _batches_of_run(table: str) -> list[dict[str, Any]]:
    from k2.offload.history import read_last_run
    from k2.offload.watermark import connect
    from k2.settings import load_settings

    with connect(load_settings(os.environ).postgres) as connection:
        return list(read_last_run(connection, table))
