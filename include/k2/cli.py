"""The command line `k2`."""

from __future__ import annotations

import logging
import sys

import psycopg
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError

from k2 import terminal
from k2.commands import asking, feeding, monitoring, offloading, stack
from k2.commands.bench import bench
from k2.commands.common import HELP
from k2.commands.dead_letters import dead_letters
from k2.commands.doctor import doctor
from k2.errors import K2Error
from k2.logs import configure_logs

app = typer.Typer(
    help="Crypto trades from Kafka to ClickHouse (bronze, silver, gold) and to Apache Iceberg.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=HELP,
)
for command in (
    stack.demo,
    stack.up,
    stack.down,
    stack.init,
    feeding.replay,
    feeding.ingest,
    offloading.offload,
    offloading.maintain,
    offloading.audit,
    offloading.repair,
    offloading.restore,
    offloading.status,
    offloading.soak,
    asking.quality,
    asking.sql,
    monitoring.metrics,
    doctor,
):
    app.command()(command)
app.add_typer(dead_letters, name="deadletters")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; errors of K2 end it with one line and status 1."""
    configure_logs(logging.WARNING)
    try:
        app()
    except (K2Error, ClickHouseError, psycopg.Error) as error:
        terminal.fail(str(error).splitlines()[0] if str(error) else type(error).__name__)
        sys.exit(1)
    except KeyboardInterrupt:
        terminal.fail("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
