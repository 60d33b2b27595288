"""Trades on their way in: from archives, the simulator and the exchanges' topics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from k2 import terminal
from k2.commands.common import (
    Brokers,
    Count,
    Hours,
    Seed,
    SkipBad,
    Trades,
    current_settings,
)
from k2.errors import SettingsError
from k2.ingest.simulation import Simulation
from k2.logs import configure_logs
from k2.registry import registry

if TYPE_CHECKING:
    from k2.ingest.sources import TradesFile
    from k2.settings import Settings


def replay(
    trades: Trades = None,
    skip_bad: SkipBad = False,
    seed: Seed = 1,
    count: Count = Simulation.trades,
    hours: Hours = Simulation.hours,
) -> None:
    """Feed trades into the queues as raw messages: of archive files, or simulated.

    Example: k2 replay --trades kraken:BCHEUR=BCHEUR.csv
    """
    files = trades_files(trades)
    feed(current_settings(), files, Simulation(seed, count, hours), skip_bad=skip_bad)


def ingest(
    exchange: Annotated[
        list[str] | None, typer.Argument(help="Exchanges of the registry; all without it.")
    ] = None,
    brokers: Brokers = None,
    interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between two inserts of an exchange, at least.")
    ] = 0.2,
    batch_messages: Annotated[
        int, typer.Option(min=1, help="Messages of an insert, at most.")
    ] = 50_000,
    session_seconds: Annotated[
        float, typer.Option(min=1.0, help="A member silent for so long loses its partitions.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every batch.")] = False,
) -> None:
    """Consume the exchanges' topics into the queues, until Ctrl-C or SIGTERM.

    Example: k2 ingest binance kraken --brokers 127.0.0.1:9092
    """
    from k2.ingest.consume import ingest as consume
    from k2.ingest.consume import stop_on_signals
    from k2.ingest.topic import Limits

    if not brokers:
        raise SettingsError("no broker is named; give --brokers HOST:PORT or set K2_KAFKA_BROKERS")
    exchanges = [registry().exchange(name) for name in exchange or []]
    configure_logs(logging.DEBUG if verbose else logging.INFO)
    consume(
        current_settings().clickhouse,
        exchanges or list(registry().exchanges),
        brokers,
        stop_on_signals(),
        limits=Limits(batch_messages, interval=interval, session_seconds=session_seconds),
    )


def trades_files(arguments: list[str] | None) -> list[TradesFile]:
    """The archive files that --trades names, each checked against the registry."""
    from k2.ingest.sources import parse_trades_argument

    return [parse_trades_argument(argument, registry()) for argument in arguments or []]


def feed(
    settings: Settings, files: list[TradesFile], simulation: Simulation, *, skip_bad: bool
) -> None:
    """Feed the files, or without any the simulation, and say how far it is."""
    from k2.trades import feed_files, feed_simulation

    progress = terminal.every(
        2.0, lambda name, count, seconds: terminal.say(f"  {name}: {count:,} ({seconds:.0f} s)")
    )
    feeds = (
        feed_files(settings, registry(), files, skip_bad=skip_bad, progress=progress)
        if files
        else feed_simulation(settings, registry(), simulation, progress=progress)
    )
    for name, result in feeds:
        terminal.say(
            f"fed {name}: {result.messages:,} messages, {result.dead_letters:,} dead letters, "
            f"{result.seconds:.1f} s"
        )
