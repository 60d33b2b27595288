"""What commands share: options, and the services that they are about."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from k2.embedded.state import read_state, running_owner, state_directory
from k2.errors import SettingsError
from k2.registry import registry
from k2.settings import Settings, load_settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

HELP = {"help_option_names": ["-h", "--help"]}
Trades = Annotated[
    list[str] | None,
    typer.Option(
        "--trades",
        metavar="EXCHANGE:MARKET=PATH",
        help="An archive file of the exchange, csv or zip. Can be given several times.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Send broken archive rows to the dead letters.")
]
Seed = Annotated[int, typer.Option(help="Seed of the simulator; the same gives the same trades.")]
Count = Annotated[int, typer.Option(min=1, help="Trades to simulate, over all exchanges.")]
Hours = Annotated[float, typer.Option(min=0.1, help="Hours that the simulated trades span.")]
Brokers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...", envvar="K2_KAFKA_BROKERS", help="Kafka bootstrap servers."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Of = Annotated[
    str | None, typer.Option("--exchange", metavar="EXCHANGE", help="Of this exchange only.")
]


def current_settings() -> Settings:
    """Of the environment when it names a ClickHouse, else of the stack that is running."""
    return load_settings(current_environment())


def current_environment() -> dict[str, str]:
    """The variables that a command, or a job that it starts, finds the services by.

    Raises:
        SettingsError: the environment names no ClickHouse, and no stack is running.
    """
    if "K2_CLICKHOUSE_HOST" in os.environ:
        return dict(os.environ)
    directory = state_directory()
    state = read_state(directory)
    if state is None or running_owner(directory) is None:
        raise SettingsError(
            "no stack is running; start one with 'make up', or set K2_CLICKHOUSE_HOST and the "
            "other K2_ variables to reach services of your own"
        )
    from k2.embedded.airflow import airflow_environment
    from k2.embedded.java import java_home

    return airflow_environment(state, directory, java_home())


def open_clickhouse() -> Client:
    """A client of that ClickHouse."""
    from k2.clickhouse import connect

    return connect(current_settings().clickhouse)


def exchange_name(name: str | None) -> str | None:
    """The same name, if the registry has it."""
    return None if name is None else registry().exchange(name).name
