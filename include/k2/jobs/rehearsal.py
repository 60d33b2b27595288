"""The Spark job that does to a throwaway Iceberg table what an offload does to a real one.

`spark-submit rehearsal.py DIRECTORY`. Java archives the classes that this loads, so that no offload
has to load them one by one (`k2.embedded.spark`). Beside the empty DIRECTORY it needs no service.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError

from k2.offload.cursor import make_token
from k2.offload.gateway import open_gateway
from k2.offload.lake import JvmLake, LakeTable
from k2.offload.unload import WrittenFile
from k2.registry import Layer, registry
from k2.settings import ClickHouse, Lake, Postgres, Settings

if TYPE_CHECKING:
    from k2.registry import Table

_SCHEMA = (
    '{{"type": "struct", "schema-id": 0, "fields":'
    ' [{{"id": 1, "name": "{time}", "required": false, "type": "timestamptz"}}]}}'
)
_PARTITIONING = (
    '{{"spec-id": 0, "fields": [{{"source-id": 1, "field-id": 1000, "name": "{time}_day",'
    ' "transform": "day"}}]}}'
)
_NAMES = '[{{"field-id": 1, "names": ["{time}"]}}]'
_DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_NOBODY_LISTENS = 1


def main(directory: Path) -> None:
    """Fail to reach a catalog in PostgreSQL; then commit a file twice, in either mode."""
    nowhere = Postgres("127.0.0.1", _NOBODY_LISTENS, "k2", "")
    settings = Settings(ClickHouse("", 0, "", ""), nowhere, Lake(f"file:{directory}"))
    gateway = open_gateway(os.environ)
    with suppress(Py4JJavaError):
        JvmLake(gateway, settings)
    table = next(table for table in registry().tables if table.layer is Layer.BRONZE)
    lake = _create(gateway, settings, table)
    previous = None
    for batch, commit in enumerate(("append", "overwrite")):
        token = make_token(table.cursor, [(0, batch)]).to_json()
        lake.commit(
            table.model_copy(update={"commit": commit}),
            lake.read_files(table, [_write(directory / f"{batch}.parquet", table)]),
            expected=previous,
            token=token,
            epoch=batch,
            batch=str(batch),
        )
        assert lake.snapshot_of(str(batch)) is not None
        previous = token
    assert lake.state().token == previous


def _create(gateway: Any, settings: Settings, table: Table) -> LakeTable:
    iceberg, time = gateway.jvm.org.apache.iceberg, table.partition.column
    catalog = iceberg.hadoop.HadoopCatalog(
        gateway.jvm.org.apache.hadoop.conf.Configuration(), settings.lake.warehouse
    )
    identifier = iceberg.catalog.TableIdentifier.parse(f"{settings.lake.namespace}.{table.name}")
    schema = iceberg.SchemaParser.fromJson(_SCHEMA.format(time=time))
    partitioning = iceberg.PartitionSpecParser.fromJson(schema, _PARTITIONING.format(time=time))
    names = {"schema.name-mapping.default": _NAMES.format(time=time)}
    catalog.createTable(identifier, schema, partitioning, names)
    return LakeTable(gateway, settings, catalog, identifier)


def _write(path: Path, table: Table) -> WrittenFile:
    rows = pa.table({table.partition.column: pa.array([_DAY], pa.timestamp("us", tz="UTC"))})
    pq.write_table(rows, path, compression="zstd")
    return WrittenFile(f"file:{path}", f"{_DAY:%Y-%m-%d}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
