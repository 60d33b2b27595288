"""A real Prometheus for tests, on a configuration of theirs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.integration.ingest.kafka import wait_until

from k2.embedded import processes
from k2.embedded.go import find_go
from k2.embedded.prometheus import DIRECTORY, Programs, programs
from k2.embedded.state import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def built_programs() -> Programs:
    """Prometheus and promtool; without them and without Go, the test is skipped."""
    if not (DIRECTORY / "promtool").exists() and find_go() is None:
        pytest.skip("Prometheus is built by Go, which is not installed")
    return programs()


@contextmanager
def running_prometheus(directory: Path, configuration: str, *options: str) -> Iterator[str]:
    """The address of a Prometheus on a configuration, in a directory of its own, for the block."""
    file, address = directory / "prometheus.yml", f"127.0.0.1:{free_port()}"
    file.write_text(configuration)
    process = processes.start(
        [
            str(built_programs().prometheus),
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
            *options,
        ],
        log=directory / "log",
        environment=os.environ,
        directory=directory,
    )
    try:
        # Until then it answers, but not in JSON.
        wait_until(lambda: _is_ready(address))
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").is_success
    except httpx.HTTPError:
        return False
