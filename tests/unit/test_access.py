"""The grants of ClickHouse's users cover what the code names, and not much more."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from k2.offload.storage import NAMED_COLLECTION
from k2.registry import Layer, registry

PROJECT = Path(__file__).resolve().parents[2]
USERS = PROJECT / "include" / "clickhouse" / "access" / "users.xml"
SYSTEM = re.compile(r"\bsystem\.([a-z_]+)")
K2 = PROJECT / "include" / "k2"

# Where each user's statements are. Benchmarks run as the owner of an embedded stack.
CODE = {
    "k2_ingest": [K2 / "ingest"],
    "k2_dbt": [PROJECT / "dbt_project"],
    "k2_offload": [K2 / "offload"],
    "k2_reader": [K2 / "status.py", K2 / "quality.py", K2 / "monitoring"],
}
# What clickhouse-connect reads: settings when it connects, a table's columns before an insert.
# dbt-clickhouse looks at databases and tables, too.
LIBRARY = {"settings", "columns", "tables"}


@cache
def _grants(user: str) -> list[str]:
    found = ET.parse(USERS).find(f"users/{user}/grants")
    assert found is not None
    return [query.text or "" for query in found]


def _named(paths: list[Path]) -> set[str]:
    """The system tables that Python and SQL files name."""
    files = [file for path in paths for file in (path, *path.rglob("*"))]
    texts = [file.read_text() for file in files if file.suffix in {".py", ".sql"}]
    return {name for text in texts for name in SYSTEM.findall(text)}


@pytest.mark.parametrize("user", CODE)
def test_every_system_table_that_a_program_reads_is_granted(user: str) -> None:
    granted = {name for grant in _grants(user) for name in SYSTEM.findall(grant)}
    assert _named(CODE[user]) | LIBRARY <= granted


def test_only_the_offload_reaches_beyond_the_database_and_only_for_files() -> None:
    wide = [(user, grant) for user in CODE for grant in _grants(user) if "*.*" in grant]
    assert wide == [("k2_offload", "grant create temporary table, file, s3 on *.*")]
    places = {re.findall(r" on (\w+)", grant)[0] for user in CODE for grant in _grants(user)
              if "*.*" not in grant}  # fmt: skip
    assert places == {"k2", "system", NAMED_COLLECTION}
    holders = [user for user in CODE for grant in _grants(user) if NAMED_COLLECTION in grant]
    assert holders == ["k2_offload"]


def test_every_table_of_the_registry_is_within_reach_of_its_programs() -> None:
    for table in registry().tables:
        bronze = table.layer is Layer.BRONZE
        assert table.name.startswith("bronze_trades_") == bronze, "grants go by a name's beginning"
        if table.retention_days is not None:
            name = "bronze_trades_*" if bronze else table.name
            assert f"grant insert, alter delete on k2.{name}" in _grants("k2_offload")
