"""Airflow's assets: one for each Iceberg table, updated by the offloads of the table.

A mapped task has the same outlets for all its tables. So its outlet is an alias, and each run of it
says which asset it has updated
(https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/assets.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

LAKE: Final = AssetAlias("k2-lake")


def asset_of(table: str) -> Asset:
    """The asset of a table of the lake; a DAG that is scheduled on it runs after its offloads."""
    return Asset(name=f"lake.cold.{table}", uri=f"k2://lake/cold/{table}")


def offloaded(context: Mapping[str, Any], _result: object = None) -> None:
    """Say that the table of an offload is updated: `post_execute` of the mapped task."""
    (table,) = context["task"].application_args
    context["outlet_events"][LAKE].add(asset_of(table))
