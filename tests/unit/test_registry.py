"""The registries: the real ones, and what the loader says about bad ones."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from k2.errors import RegistryError
from k2.registry import REGISTRY_DIRECTORY, Layer, load_registry, registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Document = dict[str, Any]


def test_nine_tables_in_the_order_of_their_layers() -> None:
    assert [table.name for table in registry().tables] == [
        "bronze_trades_binance",
        "bronze_trades_kraken",
        "silver_trades",
        "ohlcv_1m",
        "ohlcv_5m",
        "ohlcv_15m",
        "ohlcv_30m",
        "ohlcv_1h",
        "ohlcv_1d",
    ]
    by_layer = {layer: len(registry().layer(layer)) for layer in Layer}
    assert by_layer == {Layer.BRONZE: 2, Layer.SILVER: 1, Layer.GOLD: 6}


@pytest.mark.parametrize(
    ("exchange", "retention_days", "target_file_mb"), [("binance", 7, 128), ("kraken", 14, 64)]
)
def test_a_bronze_table_takes_retention_and_file_size_of_its_exchange(
    exchange: str, retention_days: int, target_file_mb: int
) -> None:
    for entry in (registry().exchange(exchange), registry().table(f"bronze_trades_{exchange}")):
        assert (entry.retention_days, entry.target_file_mb) == (retention_days, target_file_mb)


def test_iceberg_keeps_rows_for_ever_unless_an_entry_says_otherwise(
    changed: Callable[..., Path],
) -> None:
    assert {table.lake_retention_days for table in registry().tables} == {None}
    assert {(table.snapshot_days, table.orphan_days) for table in registry().tables} == {(5, 3)}
    table = load_registry(changed("tables.yaml", entry(3, lake_retention_days=30))).table(
        "ohlcv_1m"
    )
    assert table.lake_retention_days == 30


def test_two_exchanges() -> None:
    assert {(one.name, one.symbol_rule) for one in registry().exchanges} == {
        ("binance", "joined"),
        ("kraken", "slashed"),
    }


def test_candles_are_replaced_and_trades_are_added() -> None:
    modes = {(table.layer, table.cursor.kind, table.commit) for table in registry().tables}
    assert modes == {
        (Layer.BRONZE, "kafka_offset", "append"),
        (Layer.SILVER, "kafka_offset", "append"),
        (Layer.GOLD, "version", "overwrite"),
    }


@pytest.mark.parametrize("kind", ["table", "exchange"])
def test_an_unknown_name_is_answered_with_the_known_ones(kind: str) -> None:
    with pytest.raises(RegistryError) as error:
        getattr(registry(), kind)("nope")
    known = ", ".join(one.name for one in getattr(registry(), f"{kind}s"))
    assert str(error.value) == f"unknown {kind} 'nope'; {kind}s of the registry: {known}"


def test_a_source_without_a_column_of_the_entry_is_refused() -> None:
    table = registry().table("silver_trades")
    present = ["exchange", "canonical_symbol", "trade_id", "kafka_partition", "price"]
    with pytest.raises(RegistryError) as error:
        table.require_columns(present)
    assert str(error.value) == (
        "tables.yaml: silver_trades: the source table has no column kafka_offset, timestamp; "
        "correct the entry or add the column"
    )
    table.require_columns([*present, "kafka_offset", "timestamp"])


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of the registries in which one document has been changed."""

    def make(file: str, change: Callable[[Document], object]) -> Path:
        for name in ("tables.yaml", "exchanges.yaml"):
            shutil.copy(REGISTRY_DIRECTORY / name, tmp_path / name)
        document = yaml.safe_load((tmp_path / file).read_text())
        change(document)
        (tmp_path / file).write_text(yaml.safe_dump(document, sort_keys=False))
        return tmp_path

    return make


def entry(position: int, **values: object) -> Callable[[Document], object]:
    return lambda document: document["tables"][position].update(values)


def exchange(position: int, **values: object) -> Callable[[Document], object]:
    return lambda document: document["exchanges"][position].update(values)


SILVER_CURSOR = {"kind": "kafka_offset", "partition": ["exchange"], "offset": "kafka_offset"}
BAD_TABLES: dict[str, tuple[Callable[[Document], object], str]] = {
    "unknown key": (entry(2, retention=3), "silver_trades: retention: unknown key"),
    "unknown key inside": (
        entry(2, partition={"column": "timestamp", "by": "day", "zone": "UTC"}),
        "silver_trades: partition.zone: unknown key",
    ),
    "wrong type": (
        entry(2, retention_days="30"),
        "silver_trades: retention_days: Input should be a valid integer",
    ),
    "a retention of candles": (
        entry(3, retention_days=30),
        "ohlcv_1m: retention_days counts from ingestion, so commit must be append",
    ),
    "a word for a list": (
        entry(2, order="timestamp"),
        "silver_trades: order: Input should be a valid tuple",
    ),
    "an empty list": (
        entry(2, order=[]),
        "silver_trades: order: Tuple should have at least 1 item after validation, not 0",
    ),
    "not positive": (
        entry(3, target_file_mb=0),
        "ohlcv_1m: target_file_mb: Input should be greater than 0",
    ),
    "a retention of no day": (
        entry(3, lake_retention_days=0),
        "ohlcv_1m: lake_retention_days: Input should be greater than 0",
    ),
    "orphans without an age": (
        entry(3, orphan_days=0),
        "ohlcv_1m: orphan_days: Input should be greater than 0",
    ),
    "unknown layer": (
        entry(3, layer="platinum"),
        "ohlcv_1m: layer: Input should be 'bronze', 'silver' or 'gold'",
    ),
    "unknown partitioning": (
        entry(3, partition={"column": "window_start", "by": "hour"}),
        "ohlcv_1m: partition.by: Input should be 'day', 'month' or 'year'",
    ),
    "unknown cursor": (
        entry(3, cursor={"kind": "magic"}),
        "ohlcv_1m: cursor: Input tag 'magic' found using 'kind' does not match any of the "
        "expected tags: 'kafka_offset', 'timestamp', 'version'",
    ),
    "cursor without its column": (
        entry(2, cursor={"kind": "kafka_offset", "partition": ["exchange"]}),
        "silver_trades: cursor.kafka_offset.offset: Field required",
    ),
    "missing key": (
        lambda document: document["tables"][2].pop("commit"),
        "silver_trades: commit: Field required",
    ),
    "a name that is no identifier": (
        entry(2, name="silver trades"),
        "silver trades: name: String should match pattern '^[a-z][a-z0-9_]{0,62}$'",
    ),
    "no name": (lambda document: document["tables"][2].pop("name"), "entry 3 has no name"),
    "a name that is no text": (entry(2, name=7), "entry 3 has no name"),
    "an entry that is no mapping": (
        lambda document: document["tables"].append("ohlcv_1w"),
        "entry 10 has no name",
    ),
    "duplicate name": (
        entry(2, name="ohlcv_1m"),
        "the name 'ohlcv_1m' is there twice; rename one entry",
    ),
    "unknown exchange": (
        entry(0, exchange="bitmex"),
        "bronze_trades_binance: unknown exchange 'bitmex'; exchanges.yaml has: binance, kraken",
    ),
    "an exchange that is no text": (
        entry(0, exchange=["binance"]),
        "bronze_trades_binance: unknown exchange '['binance']'; exchanges.yaml has: binance, "
        "kraken",
    ),
    "bronze without exchange": (
        entry(0, exchange=None),
        "bronze_trades_binance: a bronze table names its exchange, and no other table does",
    ),
    "silver with exchange": (
        entry(2, exchange="kraken"),
        "silver_trades: a bronze table names its exchange, and no other table does",
    ),
    "corrections appended": (
        entry(3, commit="append"),
        "ohlcv_1m: a version cursor reads corrected rows: commit must be overwrite",
    ),
    "new rows overwriting": (
        entry(2, commit="overwrite"),
        "silver_trades: a kafka_offset cursor reads new rows, so commit must be append",
    ),
    "a needed column excluded": (
        entry(2, exclude=["timestamp"]),
        "silver_trades: a column under exclude is used by cursor, partition or order",
    ),
    "unknown top-level key": (
        lambda document: document.update(table=[]),
        "unknown key 'table' beside 'tables'",
    ),
    "no list": (
        lambda document: document.update(tables={}),
        "must have a list under the key 'tables'",
    ),
    "defaults that are no mapping": (
        lambda document: document.update(defaults=[1]),
        "'defaults' must be a mapping",
    ),
    "an unknown default": (
        lambda document: document["defaults"].update(colour="red"),
        "bronze_trades_binance: colour: unknown key",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_bad_table_is_refused_with_its_name_and_the_reason(
    changed: Callable[..., Path], change: Any, reason: str
) -> None:
    with pytest.raises(RegistryError) as error:
        load_registry(changed("tables.yaml", change))
    assert str(error.value) == f"tables.yaml: {reason}"


BAD_EXCHANGES: dict[str, tuple[Callable[[Document], object], str]] = {
    "unknown key": (exchange(0, topics=2), "binance: topics: unknown key"),
    "wrong type": (
        exchange(0, retention_days=7.5),
        "binance: retention_days: Input should be a valid integer",
    ),
    "duplicate name": (
        exchange(0, name="kraken"),
        "the name 'kraken' is there twice; rename one entry",
    ),
    "a topic that Kafka would refuse": (
        exchange(1, topic="trades/kraken"),
        "kraken: topic: String should match pattern '^[A-Za-z0-9._-]{1,249}$'",
    ),
    "unknown symbol rule": (
        exchange(1, symbol_rule="dashed"),
        "kraken: symbol_rule: Input should be 'joined' or 'slashed'",
    ),
    "defaults, which only tables have": (
        lambda document: document.update(defaults={}),
        "unknown key 'defaults' beside 'exchanges'",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BAD_EXCHANGES.values(), ids=BAD_EXCHANGES.keys())
def test_a_bad_exchange_is_refused_with_its_name_and_the_reason(
    changed: Callable[..., Path], change: Any, reason: str
) -> None:
    with pytest.raises(RegistryError) as error:
        load_registry(changed("exchanges.yaml", change))
    assert str(error.value) == f"exchanges.yaml: {reason}"


def test_an_entry_overrides_the_defaults_and_its_exchange(changed: Callable[..., Path]) -> None:
    directory = changed("tables.yaml", entry(0, target_file_mb=32, transfer="scan"))
    table = load_registry(directory).table("bronze_trades_binance")
    assert (table.target_file_mb, table.transfer, table.retention_days) == (32, "scan", 7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tables: [", "not valid YAML: while parsing a flow node"),
        ("tables:\n\t- name: x", "not valid YAML: while scanning for the next token"),
        ("", "must have a list under the key 'tables'"),
        ("- name: x", "must have a list under the key 'tables'"),
        (b"tables: \xff", "cannot be read"),
    ],
    ids=["open bracket", "tab", "empty", "list", "not text"],
)
def test_a_file_that_is_no_registry_is_refused_in_one_line(
    changed: Callable[..., Path], text: str | bytes, reason: str
) -> None:
    directory = changed("tables.yaml", lambda _: None)
    (directory / "tables.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RegistryError) as error:
        load_registry(directory)
    assert str(error.value).startswith(f"tables.yaml: {reason}")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as error:
        load_registry(tmp_path)
    expected = "exchanges.yaml: cannot be read (No such file or directory)"
    assert str(error.value) == expected
