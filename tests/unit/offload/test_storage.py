"""Each client of the lake is told in its own words where the files are, and never a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2.errors import OffloadError
from k2.offload.storage import FileSystem, require_in_lake, storage_of
from k2.settings import Lake, load_lake

FOLDER = Lake("file:/lake")


def s3(**variables: str) -> Lake:
    return load_lake({"K2_LAKE_WAREHOUSE": "s3://trades/k2", **variables})


def test_a_folder_is_written_by_its_path() -> None:
    storage = storage_of(FOLDER)
    assert storage == FileSystem()
    assert storage.parquet_sql("file:/a lake/1.parquet") == "file('/a lake/1.parquet', 'Parquet')"
    assert storage.parquet_sql("file:/it's", "'x Int8'") == "file('/it\\'s', 'Parquet', 'x Int8')"
    assert storage.folder("file:/a lake") == Path("/a lake")
    assert (storage.catalog_properties, storage.query_settings) == ({}, {})


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "https://trades.s3.us-east-1.amazonaws.com"),
        ({"K2_LAKE_REGION": "eu-west-3"}, "https://trades.s3.eu-west-3.amazonaws.com"),
        ({"K2_LAKE_PATH_STYLE": "true"}, "https://s3.us-east-1.amazonaws.com/trades"),
        ({"K2_LAKE_ENDPOINT": "http://objects:7070"}, "http://objects:7070/trades"),
        (
            {"K2_LAKE_ENDPOINT": "https://s3.acme.com:9", "K2_LAKE_PATH_STYLE": "false"},
            "https://trades.s3.acme.com:9",
        ),
    ],
)
def test_an_object_is_written_by_its_address_and_a_named_collection(
    variables: dict[str, str], address: str
) -> None:
    storage = storage_of(s3(**variables))
    location = "s3://trades/k2/cold/t/data/a-1/*.parquet"
    assert storage.parquet_sql(location, "'x Int8'") == (
        f"s3(k2_lake, url = '{address}/k2/cold/t/data/a-1/*.parquet', format = 'Parquet', "
        "structure = 'x Int8')"
    )
    assert storage.folder(location) is None


def test_java_and_python_get_the_same_place_and_no_key() -> None:
    properties = storage_of(s3(K2_LAKE_ENDPOINT="http://objects:7070")).catalog_properties
    assert properties == {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.endpoint": "http://objects:7070",
        "client.region": "us-east-1",
        "s3.region": "us-east-1",
        "s3.path-style-access": "true",
        "s3.force-virtual-addressing": "false",
    }
    assert "s3.endpoint" not in storage_of(s3()).catalog_properties


@pytest.mark.parametrize(
    ("location", "lake"),
    [("s3://trades/k2/t", FOLDER), ("file:/lake/t", s3()), ("s3://trades-2/k2/t", s3())],
)
def test_a_table_that_was_made_in_another_lake_is_refused(location: str, lake: Lake) -> None:
    with pytest.raises(OffloadError, match=f"the table is at {location}, and K2_LAKE_WAREHOUSE is"):
        require_in_lake(location, lake)


@pytest.mark.parametrize(
    ("location", "lake"),
    [("file:/elsewhere/t", FOLDER), ("/lake/t", FOLDER), ("s3://trades/t", s3())],
)
def test_a_table_of_the_lake_is_taken(location: str, lake: Lake) -> None:
    require_in_lake(location, lake)
