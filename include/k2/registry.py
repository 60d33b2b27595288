"""The table and exchange registries: `include/tables.yaml` and `include/exchanges.yaml`, typed.

One loader refuses a bad entry with the entry's name and the reason, so that nothing downstream
has to doubt what it reads.
"""

from __future__ import annotations

import functools
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from k2.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable

REGISTRY_DIRECTORY = Path(__file__).resolve().parent.parent

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Days = Annotated[int, Field(gt=0)]
Megabytes = Annotated[int, Field(gt=0, le=4096)]


class Layer(StrEnum):
    """The layers, in the order in which they are built and offloaded."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class OffsetCursor(_Entry):
    """New rows are those above the highest offset of their log partition."""

    kind: Literal["kafka_offset"]
    partition: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    offset: Name

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.partition, self.offset)


class TimestampCursor(_Entry):
    """New rows are those after a time; rows younger than the safety lag wait for the next run."""

    kind: Literal["timestamp"]
    column: Name
    tie_breakers: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    safety_lag_seconds: Annotated[int, Field(ge=0)] = 60

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, *self.tie_breakers)


class VersionCursor(_Entry):
    """New rows are those written anew after a time."""

    kind: Literal["version"]
    column: Name

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)


Cursor = Annotated[OffsetCursor | TimestampCursor | VersionCursor, Field(discriminator="kind")]


class PartitionRule(_Entry):
    """How an Iceberg table is partitioned: one time column, by day, month or year (UTC)."""

    column: Name
    by: Literal["day", "month", "year"]


class Table(_Entry):
    """One table and how it is offloaded."""

    name: Name
    layer: Annotated[Layer, Field(strict=False)]
    exchange: Name | None = None
    cursor: Cursor
    commit: Literal["append", "overwrite"]
    partition: PartitionRule
    order: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    exclude: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    transfer: Literal["unload", "scan"]
    max_batch_rows: Annotated[int, Field(gt=0)]
    retention_days: Days | None = None
    lake_retention_days: Days | None = None
    target_file_mb: Megabytes
    snapshot_days: Days
    orphan_days: Days

    @model_validator(mode="after")
    def _modes_fit(self) -> Table:
        if self.cursor.kind == "version" and self.commit != "overwrite":
            raise ValueError("a version cursor reads corrected rows: commit must be overwrite")
        if self.cursor.kind != "version" and self.commit != "append":
            raise ValueError(
                f"a {self.cursor.kind} cursor reads new rows, so commit must be append"
            )
        if (self.exchange is None) == (self.layer is Layer.BRONZE):
            raise ValueError("a bronze table names its exchange, and no other table does")
        if self.retention_days is not None and self.commit != "append":
            raise ValueError("retention_days counts from ingestion, so commit must be append")
        if self.columns & set(self.exclude):
            raise ValueError("a column under exclude is used by cursor, partition or order")
        return self

    @property
    def columns(self) -> frozenset[str]:
        """The source columns that this entry relies on."""
        return frozenset((*self.cursor.columns, self.partition.column, *self.order))

    def require_columns(self, present: Iterable[str]) -> None:
        """Raise RegistryError unless the source has every column this entry names."""
        missing = sorted(self.columns - set(present))
        if missing:
            raise RegistryError(
                f"tables.yaml: {self.name}: the source table has no column "
                f"{', '.join(missing)}; correct the entry or add the column"
            )


class Exchange(_Entry):
    """One exchange: where its messages come from and how it writes a market."""

    name: Name
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    consumer_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    consumers: Annotated[int, Field(gt=0, le=64)]
    symbol_rule: Literal["joined", "slashed"]
    retention_days: Days
    target_file_mb: Megabytes


E = TypeVar("E", Table, Exchange)


class Registry(BaseModel):
    """Both registries, checked against each other."""

    model_config = ConfigDict(frozen=True)

    tables: tuple[Table, ...]
    exchanges: tuple[Exchange, ...]

    def table(self, name: str) -> Table:
        """The table of that name. Raises RegistryError for an unknown one."""
        return _find("table", name, self.tables)

    def exchange(self, name: str) -> Exchange:
        """The exchange of that name. Raises RegistryError for an unknown one."""
        return _find("exchange", name, self.exchanges)

    def layer(self, layer: Layer) -> tuple[Table, ...]:
        """The tables of one layer, in registry order."""
        return tuple(table for table in self.tables if table.layer is layer)


def load_registry(directory: Path = REGISTRY_DIRECTORY) -> Registry:
    """Both registries of a directory.

    Raises:
        RegistryError: a file is missing or not YAML, or an entry has an unknown key, a wrong
            type, a duplicate name or an unknown exchange. The message names file and entry.
    """
    document = _document(directory / "exchanges.yaml", "exchanges", also=())
    exchanges = tuple(
        _validated("exchanges.yaml", Exchange, entry) for entry in document["exchanges"]
    )
    _refuse_duplicates("exchanges.yaml", [exchange.name for exchange in exchanges])
    by_name = {exchange.name: exchange for exchange in exchanges}
    document = _document(directory / "tables.yaml", "tables", also=("defaults",))
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise RegistryError("tables.yaml: 'defaults' must be a mapping")
    tables = tuple(
        _validated("tables.yaml", Table, {**defaults, **_inherited(entry, by_name), **entry})
        for entry in document["tables"]
    )
    _refuse_duplicates("tables.yaml", [table.name for table in tables])
    return Registry(tables=tables, exchanges=exchanges)


@functools.cache
def registry() -> Registry:
    """The registries of this bundle, or of the directory K2_REGISTRY, loaded once a process."""
    return load_registry(Path(os.environ.get("K2_REGISTRY") or REGISTRY_DIRECTORY))


def _find(kind: str, name: str, entries: tuple[E, ...]) -> E:
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries)
    raise RegistryError(f"unknown {kind} '{name}'; {kind}s of the registry: {known}")


def _document(path: Path, key: str, *, also: tuple[str, ...]) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegistryError(f"{path.name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path.name}: cannot be read (not UTF-8)") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RegistryError(f"{path.name}: not valid YAML: {reason}") from error
    if not isinstance(document, dict) or not isinstance(document.get(key), list):
        raise RegistryError(f"{path.name}: must have a list under the key '{key}'")
    for unknown in document.keys() - {key, *also}:
        raise RegistryError(f"{path.name}: unknown key '{unknown}' beside '{key}'")
    for position, entry in enumerate(document[key], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RegistryError(f"{path.name}: entry {position} has no name")
    return document


def _inherited(entry: dict[str, Any], exchanges: dict[str, Exchange]) -> dict[str, Any]:
    """What a bronze table takes from its exchange unless it says otherwise."""
    name = entry.get("exchange")
    if name is None:
        return {}
    if not isinstance(name, str) or name not in exchanges:
        raise RegistryError(
            f"tables.yaml: {entry['name']}: unknown exchange '{name}'; "
            f"exchanges.yaml has: {', '.join(exchanges)}"
        )
    exchange = exchanges[name]
    return {"retention_days": exchange.retention_days, "target_file_mb": exchange.target_file_mb}


def _validated(file: str, model: type[E], entry: dict[str, Any]) -> E:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = "unknown key"
        where = f"{place}: " if place else ""
        raise RegistryError(f"{file}: {entry['name']}: {where}{reason}") from error


def _refuse_duplicates(file: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RegistryError(f"{file}: the name '{name}' is there twice; rename one entry")
