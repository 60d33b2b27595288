"""The Iceberg catalog through PyIceberg: create tables, and read them, without a JVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import DayTransform, MonthTransform, YearTransform
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)
from sqlalchemy.exc import OperationalError

from k2.errors import OffloadError, StackError
from k2.offload.schema import Column, Kind
from k2.offload.storage import storage_of
from k2.offload.storage_errors import told_in_a_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyiceberg.table import Table as IcebergTable

    from k2.registry import PartitionRule, Table
    from k2.settings import Settings

_TYPES: dict[Kind, IcebergType] = {
    Kind.BOOLEAN: BooleanType(),
    Kind.INTEGER: IntegerType(),
    Kind.LONG: LongType(),
    Kind.FLOAT: FloatType(),
    Kind.DOUBLE: DoubleType(),
    Kind.DATE: DateType(),
    Kind.TIMESTAMP: TimestamptzType(),
    Kind.STRING: StringType(),
}
_TRANSFORMS: dict[str, Any] = {
    "day": DayTransform(),
    "month": MonthTransform(),
    "year": YearTransform(),
}


def open_catalog(settings: Settings) -> SqlCatalog:
    """The catalog; its own two tables are created when missing.

    Raises:
        StackError: PostgreSQL does not answer or refuses the login.
    """
    uri = settings.postgres.conninfo("lake").replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        return SqlCatalog(
            settings.lake.catalog,
            uri=uri,
            warehouse=settings.lake.warehouse,
            pool_pre_ping="true",
            **storage_of(settings.lake).catalog_properties,
        )
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise StackError(f"the Iceberg catalog in PostgreSQL cannot be used: {reason}") from error


def load_table(catalog: SqlCatalog, settings: Settings, name: str) -> IcebergTable:
    """A table of the lake.

    Raises:
        OffloadError: it is not in the catalog, or its storage cannot be read.
    """
    try:
        with told_in_a_line(settings.lake):
            return catalog.load_table((settings.lake.namespace, name))
    except NoSuchTableError as error:
        raise OffloadError(
            f"{name}: not in the Iceberg catalog; create it with 'k2 init'"
        ) from error


def ensure_table(
    catalog: SqlCatalog, settings: Settings, table: Table, columns: Sequence[Column]
) -> bool:
    """Create a table of the lake unless it is there; whether it was created.

    Raises:
        StorageError: the lake's object store cannot be written.
    """
    catalog.create_namespace_if_not_exists(settings.lake.namespace)
    identifier = (settings.lake.namespace, table.name)
    if catalog.table_exists(identifier):
        return False
    schema = iceberg_schema(columns)
    with told_in_a_line(settings.lake):
        catalog.create_table(
            identifier,
            schema=schema,
            partition_spec=_partition_spec(schema, table.partition),
            properties={
                "format-version": "2",
                "write.parquet.compression-codec": "zstd",
                "write.parquet.compression-level": "3",
                "write.metadata.compression-codec": "gzip",
                "write.target-file-size-bytes": str(table.target_file_mb * 1024 * 1024),
                # ClickHouse's Parquet carries names, not Iceberg's field ids.
                "schema.name-mapping.default": create_mapping_from_schema(schema).model_dump_json(),
            },
        )
    return True


def iceberg_schema(columns: Sequence[Column]) -> Schema:
    """Iceberg's schema of some columns: ids by position, comments kept, all optional.

    Optional, because a column that ClickHouse gets later has no value for the rows before it.
    """
    return Schema(
        *(
            NestedField(
                field_id=position,
                name=column.name,
                field_type=_iceberg_type(column),
                required=False,
                doc=column.comment or None,
            )
            for position, column in enumerate(columns, start=1)
        )
    )


def _iceberg_type(column: Column) -> IcebergType:
    if column.kind is Kind.DECIMAL:
        return DecimalType(column.precision, column.scale)
    return _TYPES[column.kind]


def _partition_spec(schema: Schema, rule: PartitionRule) -> PartitionSpec:
    return PartitionSpec(
        PartitionField(
            source_id=schema.find_field(rule.column).field_id,
            field_id=1000,
            transform=_TRANSFORMS[rule.by],
            name=f"{rule.column}_{rule.by}",
        )
    )
