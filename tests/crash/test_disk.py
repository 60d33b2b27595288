"""There is no room: the run stops, and once there is, the next one goes on."""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from k2.settings import Lake

from .matrix import CRASH, MODES, MakeCase, cases, payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2.settings import Settings

    from .servers import ClickHouseServer

pytestmark = CRASH


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(("transfer", "layer"), cases(unload=MODES, scan=MODES))
def test_the_disk_full_while_the_rows_are_written(
    small_disk: Path, make_case: MakeCase, transfer: str, layer: str, services: Settings
) -> None:
    settings = replace(services, lake=Lake(f"file:{small_disk}"))
    case = make_case(
        layer, transfer, "disk full: while writing", columns=payload(layer), settings=settings
    )
    fill(small_disk / "filler", leaving=100_000)
    case.kills += 1
    driver = case.start()
    case.require_refused(driver)
    # ClickHouse may say that all is written; then the files cannot be read back.
    assert "event=verified" not in driver.output()
    make_room(small_disk)
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("point", ["committing", "swapping"])
def test_the_disk_full_while_iceberg_commits(
    small_disk: Path, make_case: MakeCase, point: str, services: Settings
) -> None:
    settings = replace(services, lake=Lake(f"file:{small_disk}"))
    case = make_case("bronze", "unload", f"disk full: {point}", settings=settings)
    with case.paused_at(point) as driver:
        fill(small_disk / "filler")
        case.kills += 1
    case.require_refused(driver)
    make_room(small_disk)
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", MODES)
def test_a_file_size_limit_reached_while_clickhouse_writes(
    make_case: MakeCase, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = make_case(layer, "unload", "file size limit: while writing", columns=payload(layer))
    _, hard = resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        case.kills += 1
        case.require_refused(case.start())
    finally:
        resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    case.rerun()
    case.conclude()


def fill(path: Path, *, leaving: int = 0) -> None:
    """Write until nothing more goes on to the disk, then give some bytes back."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            continue
    os.truncate(path, path.stat().st_size - leaving)


def make_room(disk: Path) -> None:
    """The administrator gives the file system sixty megabytes more."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
