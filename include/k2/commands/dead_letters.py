"""Messages that could not become a trade."""

from __future__ import annotations

from typing import Annotated

import typer

from k2 import terminal
from k2.commands.common import (
    HELP,
    Json,
    Of,
    current_settings,
    exchange_name,
    open_clickhouse,
)
from k2.registry import registry

dead_letters = typer.Typer(context_settings=HELP)


@dead_letters.callback(invoke_without_command=True)
def list_dead_letters(
    context: typer.Context,
    exchange: Of = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many.")] = 20,
    json: Json = False,
) -> None:
    """List the messages that could not become a trade, count them, read them again after a fix.

    Without a command, they are listed, the newest first.

    Example: k2 deadletters --exchange kraken --limit 5
    """
    if context.invoked_subcommand is not None:
        return
    from rich.markup import escape

    from k2.ingest.dead_letters import newest_dead_letters

    only = exchange_name(exchange)
    with open_clickhouse() as client:
        letters = newest_dead_letters(client, client.database or "", exchange=only, limit=limit)
    if json:
        terminal.show_json(letters)
        return
    terminal.show_table(
        "Dead letters",
        ["arrived (UTC)", "exchange", "partition", "offset", "reason", "message"],
        [
            [
                f"{one.arrived_at:%Y-%m-%d %H:%M:%S}",
                one.exchange,
                one.partition,
                one.offset,
                escape(one.reason),
                escape(" ".join(one.raw_message.split())[:60]),
            ]
            for one in letters
        ],
    )


@dead_letters.command("reasons")
def dead_letter_reasons(exchange: Of = None, json: Json = False) -> None:
    """Count the dead letters by exchange and reason.

    Example: k2 deadletters reasons
    """
    from k2.ingest.dead_letters import count_reasons

    only = exchange_name(exchange)
    with open_clickhouse() as client:
        counts = count_reasons(client, client.database or "", exchange=only)
    if json:
        terminal.show_json(counts)
        return
    terminal.show_table(
        "Dead letters by reason",
        ["exchange", "reason", "dead letters", "newest (UTC)"],
        [
            [one.exchange, one.reason, one.dead_letters, f"{one.newest:%Y-%m-%d %H:%M:%S}"]
            for one in counts
        ],
    )


@dead_letters.command("replay")
def replay_dead_letters(
    exchange: Of = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
) -> None:
    """Read the dead letters again through the views as they are now, after a fix.

    Those that are trades now appear in Bronze, and go on to Silver, Gold and Iceberg.

    Example: k2 deadletters replay --exchange binance
    """
    from k2.ingest.dead_letter_replay import replay_dead_letters as replay_letters
    from k2.offload.watermark import DATABASE

    settings = current_settings()
    only = exchange_name(exchange)
    for one in registry().exchanges:
        if only in (None, one.name):
            with open_clickhouse() as client:
                done = replay_letters(
                    client,
                    registry(),
                    one.name,
                    conninfo=settings.postgres.conninfo(DATABASE),
                    database=settings.clickhouse.database,
                    dry_run=dry_run,
                )
            terminal.say(
                f"{one.name}: {done.read:,} dead letters read, {done.settled:,} "
                f"{'would be ' if dry_run else ''}settled, {done.read - done.settled:,} left"
            )
