"""Names that would break out of a statement are refused where they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.hostile import HOSTILE

from k2 import cli
from k2.errors import RegistryError, SettingsError
from k2.ingest.bronze import BronzeError, create_bronze
from k2.registry import Exchange, Table, registry
from k2.settings import load_settings

from .test_settings import ENVIRONMENT

if TYPE_CHECKING:
    from pydantic import BaseModel

NAMES = [*HOSTILE, "Ohlcv", "ohlcv_1m\n", "1m", "a b", ""]


def _refuses(model: type[BaseModel], document: dict[str, Any]) -> bool:
    try:
        model.model_validate(document)
    except ValueError:
        return True
    return False


def _changed(entry: BaseModel, **changes: Any) -> dict[str, Any]:
    return {**entry.model_dump(), **changes}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_tables_yaml_is_a_plain_one(name: str) -> None:
    table = registry().table("silver_trades")
    cursor, partition = table.cursor.model_dump(), table.partition.model_dump()
    for changes in (
        {"name": name},
        {"order": [name]},
        {"exclude": [name]},
        {"cursor": {**cursor, "offset": name}},
        {"cursor": {**cursor, "partition": [name]}},
        {"partition": {**partition, "column": name}},
    ):
        assert _refuses(Table, _changed(table, **changes)), changes


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_exchanges_yaml_is_a_plain_one(name: str) -> None:
    exchange = registry().exchange("kraken")
    assert _refuses(Exchange, _changed(exchange, name=name))
    if not name.isascii() or not name.replace("\n", " ").isalnum():
        assert _refuses(Exchange, _changed(exchange, topic=name))
        assert _refuses(Exchange, _changed(exchange, consumer_group=name))


@pytest.mark.parametrize("name", [*HOSTILE, "", "k2;", "k2\n", "1k"])
def test_a_database_name_is_a_plain_one(name: str) -> None:
    with pytest.raises(SettingsError, match="K2_CLICKHOUSE_DATABASE is"):
        load_settings({**ENVIRONMENT, "K2_CLICKHOUSE_DATABASE": name})


@pytest.mark.parametrize(
    "broker",
    [
        *HOSTILE,
        "kafka",
        "kafka:",
        ":9092",
        "kafka:9092'",
        "kafka:9092;\n",
        "kafka:9092,",
        "{topic}:1",
    ],
)
def test_a_broker_is_an_address(broker: str) -> None:
    nothing: Any = None
    with pytest.raises(BronzeError, match="host:port"):
        create_bronze(nothing, registry(), queue="kafka", broker=broker)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "command", [["offload"], ["audit"], ["repair"], ["deadletters", "--exchange"]], ids=" ".join
)
def test_an_argument_that_names_nothing_ends_in_one_line_of_error(
    command: list[str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in {**ENVIRONMENT, "K2_LAKE_WAREHOUSE": "/lake"}.items():
        monkeypatch.setenv(variable, value)
    option = ["--", name] if len(command) == 1 else [name]
    monkeypatch.setattr("sys.argv", ["k2", *command, *option])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "unknown" in lines[0]


def test_an_unknown_name_is_not_found_by_a_part_of_it() -> None:
    with pytest.raises(RegistryError):
        registry().table("silver_trades; --")
