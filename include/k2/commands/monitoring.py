"""Metrics for Prometheus."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from k2 import terminal
from k2.commands.common import Brokers, current_settings
from k2.registry import registry

DEFAULT_PORT = 18090


def metrics(
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve them over HTTP until Ctrl-C or SIGTERM.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = DEFAULT_PORT,
    brokers: Brokers = None,
) -> None:
    """Print what Prometheus would get: lag, rates, freshness, failures, sizes; or serve it.

    Example: k2 metrics --serve --port 18090
    """
    from k2.ingest.consume import stop_on_signals
    from k2.monitoring import exporter as monitoring

    exporter = monitoring.Exporter(current_settings(), registry(), brokers=brokers)
    if not serve:
        sys.stdout.write(monitoring.exposition(exporter))
        return
    stop = stop_on_signals()
    with monitoring.serving(exporter, host, port):
        terminal.say(f"metrics at http://{host}:{port}/metrics; stop with Ctrl-C")
        stop.wait()
