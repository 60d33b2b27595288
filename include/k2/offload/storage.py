"""Where the lake's files are: what differs between a file system and an object store.

Both are written by ClickHouse, committed by Iceberg's library in the JVM and read by PyIceberg;
each of the three has to be told where the files are, in its own words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from k2.clickhouse import quote_string
from k2.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2.settings import Lake, ObjectStore

# On ClickHouse's side: include/clickhouse/server/object_store.xml.
NAMED_COLLECTION = "k2_lake"


class Storage(Protocol):
    """What the offload needs to know of it."""

    @property
    def catalog_properties(self) -> Mapping[str, str]:
        """By which Iceberg's catalogs, of Java and of Python, reach the files."""

    @property
    def query_settings(self) -> Mapping[str, int]:
        """Settings of the ClickHouse queries that read or write the files."""

    def has(self, location: str) -> bool:
        """Whether a location is of this kind of storage."""

    def parquet_sql(self, location: str, structure: str = "") -> str:
        """ClickHouse's table function of Parquet files; the structure is a quoted literal."""

    def text_sql(self, location: str) -> str:
        """ClickHouse's table function of one file, whose content is its column `data`."""

    def folder(self, location: str) -> Path | None:
        """The folder of a location, where it is one."""


def storage_of(lake: Lake) -> Storage:
    """The storage of a lake."""
    if lake.store is None:
        return FileSystem()
    return ObjectStorage(lake.store, lake.warehouse.split("/")[2])


@dataclass(frozen=True)
class FileSystem:
    """Folders that ClickHouse and Spark share."""

    @property
    def catalog_properties(self) -> Mapping[str, str]:
        return {}

    @property
    def query_settings(self) -> Mapping[str, int]:
        return {}

    def has(self, location: str) -> bool:
        return location.startswith(("file:/", "/"))

    def parquet_sql(self, location: str, structure: str = "") -> str:
        arguments = [quote_string(local_path(location)), "'Parquet'"]
        return f"file({', '.join([*arguments, structure] if structure else arguments)})"

    def text_sql(self, location: str) -> str:
        return f"file({quote_string(local_path(location))}, 'RawBLOB', 'data String', 'none')"

    def folder(self, location: str) -> Path | None:
        return Path(local_path(location))


@dataclass(frozen=True)
class ObjectStorage:
    """A bucket behind an S3 API.

    No key is named here: ClickHouse has them in a named collection, the AWS SDKs of Java and of
    PyArrow find them in their environments.
    """

    store: ObjectStore
    bucket: str

    @property
    def catalog_properties(self) -> Mapping[str, str]:
        style = self.store.path_style
        properties = {
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "client.region": self.store.region,
            "s3.path-style-access": str(style).lower(),
            # PyIceberg's names for the same.
            "s3.region": self.store.region,
            "s3.force-virtual-addressing": str(not style).lower(),
        }
        if self.store.endpoint is not None:
            properties["s3.endpoint"] = self.store.endpoint
        return properties

    @property
    def query_settings(self) -> Mapping[str, int]:
        return {
            # Seconds of waiting in all, no minutes: the run is tried again anyway.
            "s3_retry_attempts": 5,
            # No path is written twice. Without it each file is asked for first, and an answer to
            # that has no text to tell a wrong key from a missing bucket.
            "s3_truncate_on_insert": 1,
        }

    def has(self, location: str) -> bool:
        return location.startswith(f"s3://{self.bucket}/")

    def parquet_sql(self, location: str, structure: str = "") -> str:
        arguments = ["format = 'Parquet'", *([f"structure = {structure}"] if structure else [])]
        return self._s3(location, arguments)

    def text_sql(self, location: str) -> str:
        return self._s3(
            location,
            ["format = 'RawBLOB'", "structure = 'data String'", "compression_method = 'none'"],
        )

    def _s3(self, location: str, arguments: list[str]) -> str:
        key = location.removeprefix(f"s3://{self.bucket}/")
        url = f"url = {quote_string(f'{self._address}/{key}')}"
        return f"s3({', '.join([NAMED_COLLECTION, url, *arguments])})"

    def folder(self, location: str) -> Path | None:  # noqa: ARG002 - an object store has none
        return None

    @property
    def _address(self) -> str:
        """The bucket's address, in the style that is asked for."""
        endpoint = self.store.endpoint or f"https://s3.{self.store.region}.amazonaws.com"
        if self.store.path_style:
            return f"{endpoint}/{self.bucket}"
        return endpoint.replace("://", f"://{self.bucket}.", 1)


def require_in_lake(location: str, lake: Lake) -> None:
    """Raise OffloadError unless a table's location is of the lake's kind of storage."""
    if not storage_of(lake).has(location):
        raise OffloadError(
            f"the table is at {location}, and K2_LAKE_WAREHOUSE is {lake.warehouse}: the lake has "
            "moved since the table was made. Set it back; a lake elsewhere begins with databases "
            "of its own"
        )


def local_path(location: str) -> str:
    """The path of a file: location. Hadoop and PyIceberg take it literally, without escapes."""
    return re.sub("^file:(//)?(?=/)", "", location)
