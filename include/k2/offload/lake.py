"""The Iceberg lake from the driver's side: read the token, commit files, fence a table.

Everything goes through the Iceberg library in the JVM that spark-submit started. No Spark session
is needed for it, so none is paid for.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from k2.errors import OffloadError
from k2.offload.engine import Snapshot
from k2.offload.faults import fault
from k2.offload.lineage import BATCH, EPOCH, SINCE, TOKEN, LakeState, problem, trace
from k2.offload.partition import partition_range
from k2.offload.storage import require_in_lake, storage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyiceberg.table import Table as IcebergTable

    from k2.offload.schema import Column
    from k2.offload.storage import Storage
    from k2.offload.unload import WrittenFile
    from k2.registry import PartitionRule, Table
    from k2.settings import Lake, Settings


class CommitConflictError(OffloadError):
    """Another driver committed first; this one added nothing."""


class JvmLake:
    """The lake behind a Py4J gateway."""

    def __init__(self, gateway: Any, settings: Settings) -> None:
        self._gateway = gateway
        self._jvm = gateway.jvm
        self._catalog = self._open(settings)
        self._settings = settings

    def load(self, name: str) -> LakeTable:
        """The table as it is now.

        Raises:
            OffloadError: it is not in the catalog, or in another lake.
        """
        identifier = self._jvm.org.apache.iceberg.catalog.TableIdentifier.parse(
            f"{self._settings.lake.namespace}.{name}"
        )
        if not self._catalog.tableExists(identifier):
            raise OffloadError(f"{name}: not in the Iceberg catalog; create it with 'k2 init'")
        table = LakeTable(self._gateway, self._settings, self._catalog, identifier)
        require_in_lake(table.location, self._settings.lake)
        return table

    def _open(self, settings: Settings) -> Any:
        postgres, lake = settings.postgres, settings.lake
        properties = self._jvm.java.util.HashMap()
        properties["uri"] = f"jdbc:postgresql://{postgres.host}:{postgres.port}/lake"
        properties["jdbc.user"] = postgres.user
        properties["jdbc.password"] = postgres.password
        properties["jdbc.schema-version"] = "V1"
        properties["warehouse"] = lake.warehouse
        for name, value in storage_of(lake).catalog_properties.items():
            properties[name] = value
        self._require_access(lake, properties)
        catalog = self._jvm.org.apache.iceberg.jdbc.JdbcCatalog()
        catalog.setConf(self._jvm.org.apache.hadoop.conf.Configuration())
        catalog.initialize(lake.catalog, properties)
        return catalog

    def _require_access(self, lake: Lake, properties: Any) -> None:
        """Ask an object store for something small first, and once.

        Iceberg asks twenty times, a minute and a half, for the metadata of a table that it may not
        read, before it gives up.
        """
        if lake.store is None:
            return
        storage = self._jvm.org.apache.iceberg.CatalogUtil.loadFileIO(
            properties["io-impl"], properties, None
        )
        try:
            storage.listPrefix(f"{lake.warehouse}/.k2").iterator().hasNext()
        finally:
            storage.close()


class LakeTable:
    """One Iceberg table."""

    def __init__(self, gateway: Any, settings: Settings, catalog: Any, identifier: Any) -> None:
        self._gateway = gateway
        self._settings = settings
        self._jvm = gateway.jvm
        self._catalog = catalog
        self._identifier = identifier
        self._table = catalog.loadTable(identifier)

    @property
    def location(self) -> str:
        return str(self._table.location())

    @property
    def storage(self) -> Storage:
        return storage_of(self._settings.lake)

    @property
    def column_types(self) -> dict[str, str]:
        """Iceberg's types by column name, as `Column.lake_type` writes them."""
        return {
            field.name(): field.type().toString().replace(", ", ",")
            for field in self._table.schema().columns()
        }

    @property
    def in_jvm(self) -> Any:
        """Iceberg's own object of the table, as of the last look: for what is no offload."""
        return self._table

    def state(self) -> LakeState:
        """Where the table stands now."""
        self._table.refresh()
        return _state(self._table)

    def open_reader(self) -> IcebergTable:
        """The same table through PyIceberg, to look at rows: the JVM has no session for it."""
        # A second to import, and seldom needed.
        from k2.offload.catalog import load_table, open_catalog

        return load_table(open_catalog(self._settings), self._settings, self._identifier.name())

    def add_columns(self, columns: Sequence[Column], *, epoch: int) -> None:
        """Append columns to the schema; they are null in the rows up to the token.

        One commit writes the schema, the name mapping (Iceberg keeps it up to date), the token as
        of which each column is there, and the fence: it fails if anything was committed meanwhile,
        and no older driver commits files without the columns after it.

        Raises:
            CommitConflictError: another commit came first.
        """
        transaction = self._table.newTransaction()
        token = transaction.table().properties().get(TOKEN)
        schema = transaction.updateSchema()
        for column in columns:
            kind = self._jvm.org.apache.iceberg.types.Types.fromPrimitiveString(column.lake_type)
            schema.addColumn(None, column.name, kind, column.comment or None)
        schema.commit()
        properties = transaction.updateProperties().set(EPOCH, str(epoch))
        for column in columns:
            if token is None:
                properties.remove(f"{SINCE}{column.name}")
            else:
                properties.set(f"{SINCE}{column.name}", token)
        properties.commit()
        try:
            transaction.commitTransaction()
        except Exception as error:
            if "CommitFailedException" in str(error):
                raise CommitConflictError(
                    f"{self._identifier.name()}: another program committed while columns were "
                    "added; run the offload again"
                ) from error
            raise
        self._table.refresh()

    def fence(self, epoch: int) -> None:
        """Make every later commit of an older epoch fail.

        Written when a claim is taken over from an unfinished batch: the older driver may only be
        asleep, and its files are about to be removed.
        """
        self._table.updateProperties().set(EPOCH, str(epoch)).commit()

    def remove(self, location: str) -> None:
        """Remove whatever lies below a location of this table's data."""
        if not location.startswith(f"{self.location}/data/"):
            raise OffloadError(f"{location} is not below the data of {self._identifier}")
        # Of an object store, every key that begins so: the slash keeps it to this one.
        self._table.io().deletePrefix(f"{location}/")

    def read_files(self, table: Table, files: Sequence[WrittenFile]) -> list[Any]:
        """Files as Iceberg commits them, with the metrics of their footers."""
        return [self._data_file(table.partition, file) for file in files]

    def commit(
        self,
        table: Table,
        files: Sequence[Any],
        *,
        expected: str | None,
        token: str,
        epoch: int,
        batch: str,
    ) -> None:
        """Add files that were read, and set the token, in one transaction.

        The commit is a compare-and-swap: it happens only if the token is `expected` and no later
        epoch has fenced the table at that very moment. Iceberg validates an update against the
        metadata that its commit replaces, and repeats both when another commit came in between.

        Raises:
            CommitConflictError: the token or the epoch is another one.
        """
        transaction = self._table.newTransaction()
        update = (
            transaction.newAppend()
            if table.commit == "append"
            else transaction.newReplacePartitions()
        )
        add = update.appendFile if table.commit == "append" else update.addFile
        for file in files:
            add(file)
        update.set(TOKEN, token).set(BATCH, batch)
        update.validateWith(_TokenUnchanged(table, self._current_state, expected, epoch))
        try:
            update.commit()
            properties = transaction.updateProperties()
            properties.set(TOKEN, token).set(EPOCH, str(epoch)).commit()
            fault("swapping")
            transaction.commitTransaction()
        except Exception as error:
            if "ValidationException" in str(error):
                raise CommitConflictError(
                    f"{table.name}: another run committed first, or the table was rolled back; "
                    "this run adds nothing"
                ) from error
            raise

    def snapshot_of(self, batch: str) -> Snapshot | None:
        """The newest snapshot that a batch committed, or None when it is not there any more."""
        self._table.refresh()
        found = None
        for snapshot in self._table.snapshots():
            if snapshot.summary().get(BATCH) == batch:
                found = snapshot
        if found is None:
            return None
        summary = found.summary()
        return Snapshot(
            snapshot_id=int(found.snapshotId()),
            committed_at=dt.datetime.fromtimestamp(found.timestampMillis() / 1000, dt.UTC),
            files=int(summary.get("added-data-files") or 0),
            bytes=int(summary.get("added-files-size") or 0),
        )

    def snapshots_to_token(self) -> int:
        """How many of the newest snapshots lead to the one that carries the token, it included.

        1 when that one has expired: then only the property has the token.
        """
        for number, snapshot in enumerate(_ancestors(self._table), start=1):
            if snapshot.summary().get(TOKEN) is not None:
                return number
        return 1

    def _current_state(self) -> LakeState:
        return _state(self._catalog.loadTable(self._identifier))

    def _data_file(self, rule: PartitionRule, file: WrittenFile) -> Any:
        iceberg = self._jvm.org.apache.iceberg
        table = self._table
        input_file = table.io().newInputFile(file.location)
        mapping = iceberg.mapping.NameMappingParser.fromJson(
            table.properties().get("schema.name-mapping.default")
        )
        metrics = iceberg.parquet.ParquetUtil.fileMetrics(
            input_file, iceberg.MetricsConfig.forTable(table), mapping
        )
        field = table.spec().fields()[0].name()
        return (
            iceberg.DataFiles.builder(table.spec())
            .withInputFile(input_file)
            .withMetrics(metrics)
            .withFormat("PARQUET")
            .withPartitionPath(f"{field}={partition_value(rule, file.partition)}")
            .build()
        )


def partition_value(rule: PartitionRule, partition: str) -> str:
    """A partition as Iceberg's transforms count it: a day's date, months or years since 1970."""
    start, _ = partition_range(rule, partition)
    if rule.by == "month":
        return str((start.year - 1970) * 12 + start.month - 1)
    if rule.by == "year":
        return str(start.year - dt.date(1970, 1, 1).year)
    return partition


def _state(table: Any) -> LakeState:
    token = table.properties().get(TOKEN)
    lineage = trace(
        (snapshot.summary().get(TOKEN), snapshot.parentId() is not None)
        for snapshot in _ancestors(table)
    )
    return LakeState(
        table_uuid=str(table.uuid().toString()),
        token=token,
        epoch=int(table.properties().get(EPOCH) or 0),
        lineage=lineage,
        # With a token in the lineage the two are compared; only without one is it looked for.
        token_elsewhere=token is not None
        and lineage.token is None
        and any(snapshot.summary().get(TOKEN) == token for snapshot in table.snapshots()),
    )


def _ancestors(table: Any) -> Iterator[Any]:
    """The current snapshot and those before it, as far as they were not expired."""
    snapshot = table.currentSnapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parentId()
        snapshot = None if parent is None else table.snapshot(parent)


class _TokenUnchanged:
    """Iceberg's SnapshotAncestryValidator: true while token, epoch and lineage allow the commit."""

    def __init__(
        self, table: Table, state: Callable[[], LakeState], expected: str | None, epoch: int
    ) -> None:
        self._table = table
        self._state = state
        self._expected = expected
        self._epoch = epoch

    def validate(self, snapshots: Any) -> bool:  # noqa: ARG002 - Iceberg's signature
        fault("validating")
        state = self._state()
        fits = state.token == self._expected and state.epoch <= self._epoch
        return fits and problem(self._table, state) is None

    def errorMessage(self) -> str:  # noqa: N802 - Iceberg's name
        return "the token or the epoch of the table has changed"

    class Java:
        """What Py4J reads to make this a Java object."""

        implements = ("org.apache.iceberg.SnapshotAncestryValidator",)
