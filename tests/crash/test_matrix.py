"""The crash matrix: whatever dies, a plain rerun leaves every row in Iceberg once.

Real drivers are started with spark-submit and killed, or their servers are. `make crash-matrix`
runs all cases and prints them as a table; `make test` runs those that are marked short.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from k2.offload.faults import POINTS
from k2.settings import Lake

from .case import Case
from .conftest import is_root
from .servers import ClickHouseServer, Network, PostgresServer, stopped

if TYPE_CHECKING:
    from pathlib import Path

    from k2.settings import Settings

pytestmark = pytest.mark.crash

TRANSFERS = ("unload",)
LAYERS = ("bronze", "silver", "gold")
# One layer of each commit mode.
MODES = ("bronze", "gold")
# Points that only a recovery passes.
RECOVERY = ("fenced", "cleared")
# What identifies a row's version: the seed of the bytes that give it weight.
IDENTITY = {"bronze": "kafka_offset", "silver": "kafka_offset", "gold": "window_start, settled_at"}

transfers = pytest.mark.parametrize("transfer", TRANSFERS)
MakeCase = Callable[..., Case]


def cases(*values: tuple[str, ...], short: set[tuple[str, ...]]) -> Any:
    """Parameters; those in `short` are run by `make test`, too."""
    assert short <= set(values)
    return [
        pytest.param(*value, marks=[pytest.mark.short] if value in short else [])
        for value in values
    ]


# The driver is killed.


@transfers
@pytest.mark.parametrize(
    ("layer", "point"),
    cases(
        *((layer, point) for layer in LAYERS for point in POINTS if point not in RECOVERY),
        short={("bronze", "unloaded"), ("silver", "committed"), ("gold", "swapping")},
    ),
)
def test_a_driver_killed_at_a_step(
    make_case: MakeCase, transfer: str, layer: str, point: str
) -> None:
    case = make_case(layer, transfer, f"driver killed: {point}")
    case.kill_at(point)
    case.feed()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("point", ["unloaded", "committed"])
@pytest.mark.parametrize("layer", MODES)
def test_a_driver_killed_in_the_first_batch_of_a_table(
    make_case: MakeCase, transfer: str, layer: str, point: str
) -> None:
    case = make_case(layer, transfer, f"driver killed in first batch: {point}", offloaded=False)
    case.kill_at(point)
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("layer", MODES)
def test_a_driver_killed_between_two_groups_of_partitions(
    make_case: MakeCase, transfer: str, layer: str
) -> None:
    case = make_case(
        layer, transfer, "driver killed: between groups", days=40, max_batch_rows=100_000
    )
    case.kill_at("unloading")
    written = len(case.bench.files()) - len(case.bench.committed_files())
    assert 0 < written < 40
    case.feed()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize(
    "layer", [pytest.param("bronze", marks=pytest.mark.short), "silver", "gold"]
)
def test_a_driver_killed_while_clickhouse_writes(
    make_case: MakeCase, transfer: str, layer: str
) -> None:
    case = heavy(make_case, layer, transfer, "driver killed: while writing")
    driver = case.start()
    case.wait_until_writing(driver)
    driver.kill()
    driver.end()
    case.kills += 1
    assert "event=unloaded" not in driver.output()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize(
    "points",
    [
        ("swapping", "fenced", "cleared"),
        ("committed", "recovered", "unloaded"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("layer", MODES)
def test_drivers_killed_again_and_again(
    make_case: MakeCase, transfer: str, layer: str, points: tuple[str, ...]
) -> None:
    case = make_case(layer, transfer, f"drivers killed: {', '.join(points)}")
    for point in points:
        case.kill_at(point)
        case.feed()
    case.rerun()
    case.conclude()


# The driver is asleep while its lease runs out, and wakes up after another one has taken over.


@transfers
@pytest.mark.parametrize(
    ("layer", "point"),
    cases(
        *(
            ("bronze", point)
            for point in ("recovered", "planned", "intended", "unloaded", "verified")
        ),
        *((layer, point) for layer in MODES for point in ("committing", "swapping", "committed")),
        short={("bronze", "swapping"), ("bronze", "intended")},
    ),
)
def test_a_driver_that_wakes_up_after_its_lease(
    make_case: MakeCase, transfer: str, layer: str, point: str
) -> None:
    case = make_case(layer, transfer, f"driver asleep: {point}")
    with case.paused_at(point) as asleep:
        asleep.freeze()
        case.kills += 1
        case.feed()
        expire_lease(case)
        case.rerun()
        snapshots = case.bench.snapshots()
    case.require_refused(asleep)
    assert case.bench.snapshots() == snapshots
    case.conclude()


# ClickHouse is killed, or cannot be reached any more.


@transfers
@pytest.mark.parametrize("layer", ["bronze", pytest.param("gold", marks=pytest.mark.short)])
def test_clickhouse_killed_while_it_writes(
    make_case: MakeCase, transfer: str, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = heavy(make_case, layer, transfer, "ClickHouse killed: while writing")
    driver = case.start()
    case.wait_until_writing(driver)
    clickhouse_server.kill()
    case.kills += 1
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    clickhouse_server.start()
    case.reconnect()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("layer", MODES)
def test_clickhouse_killed_before_the_files_are_verified(
    make_case: MakeCase, transfer: str, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = make_case(layer, transfer, "ClickHouse killed: unloaded")
    with case.paused_at("unloaded") as driver:
        clickhouse_server.kill()
        case.kills += 1
    case.require_refused(driver)
    clickhouse_server.start()
    case.reconnect()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("layer", [pytest.param("bronze", marks=pytest.mark.short), "gold"])
def test_the_network_cut_while_clickhouse_writes(
    make_case: MakeCase, transfer: str, layer: str
) -> None:
    case = heavy(make_case, layer, transfer, "network cut: while writing")
    driver, network = start_through_network(case)
    case.wait_until_writing(driver)
    network.cut()
    case.kills += 1
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("point", ["recovered", "unloaded"])
def test_the_network_cut_between_two_steps(make_case: MakeCase, transfer: str, point: str) -> None:
    case = make_case("bronze", transfer, f"network cut: {point}")
    driver, network = start_through_network(case, f"{point}:pause")
    driver.wait_until_paused()
    network.cut()
    case.kills += 1
    driver.go_on()
    case.require_refused(driver)
    case.rerun()
    case.conclude()


# PostgreSQL is stopped.


@transfers
@pytest.mark.parametrize("layer", MODES)
def test_postgresql_stopped_before_the_claim(
    make_case: MakeCase, transfer: str, layer: str, postgres_server: PostgresServer
) -> None:
    case = make_case(layer, transfer, "PostgreSQL stopped: before the claim")
    with stopped(postgres_server):
        case.kills += 1
        case.require_refused(case.start())
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize(
    ("layer", "point"),
    cases(
        *(
            (layer, point)
            for layer in MODES
            for point in ("verified", "committing", "swapping", "committed")
        ),
        short={("bronze", "swapping"), ("gold", "committed")},
    ),
)
def test_postgresql_stopped_at_a_step(
    make_case: MakeCase, transfer: str, layer: str, point: str, postgres_server: PostgresServer
) -> None:
    case = make_case(layer, transfer, f"PostgreSQL stopped: {point}")
    with case.paused_at(point) as driver, stopped(postgres_server):
        case.kills += 1
        driver.go_on()
        case.require_refused(driver)
    case.rerun()
    case.conclude()


# There is no room.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if not is_root():
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@transfers
@pytest.mark.parametrize("layer", MODES)
def test_the_disk_full_while_clickhouse_writes(
    small_disk: Path, make_case: MakeCase, transfer: str, layer: str, services: Settings
) -> None:
    settings = replace(services, lake=Lake(f"file:{small_disk}"))
    case = make_case(
        layer, transfer, "disk full: while writing", columns=payload(layer), settings=settings
    )
    fill(small_disk / "filler", leaving=100_000)
    case.kills += 1
    case.require_refused(case.start())
    make_room(small_disk)
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("point", ["committing", "swapping"])
def test_the_disk_full_while_iceberg_commits(
    small_disk: Path, make_case: MakeCase, transfer: str, point: str, services: Settings
) -> None:
    settings = replace(services, lake=Lake(f"file:{small_disk}"))
    case = make_case("bronze", transfer, f"disk full: {point}", settings=settings)
    with case.paused_at(point) as driver:
        fill(small_disk / "filler")
        case.kills += 1
    case.require_refused(driver)
    make_room(small_disk)
    case.rerun()
    case.conclude()


@transfers
@pytest.mark.parametrize("layer", MODES)
def test_a_file_size_limit_reached_while_clickhouse_writes(
    make_case: MakeCase, transfer: str, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = make_case(layer, transfer, "file size limit: while writing", columns=payload(layer))
    _, hard = resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        case.kills += 1
        case.require_refused(case.start())
    finally:
        resource.prlimit(clickhouse_server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    case.rerun()
    case.conclude()


def heavy(make_case: MakeCase, layer: str, transfer: str, where: str) -> Case:
    """A case with rows of some weight, in one batch."""
    return make_case(
        layer,
        transfer,
        where,
        count=15_000,
        columns=payload(layer),
        offloaded=False,
        max_batch_rows=100_000,
    )


def payload(layer: str) -> str:
    """A column of 2880 bytes that do not compress well, the same when a row comes again."""
    return (
        ", payload String default arrayStringConcat("
        f"arrayMap(n -> hex(sipHash128({IDENTITY[layer]}, n)), range(90)))"
    )


def expire_lease(case: Case) -> None:
    """As if two minutes had passed without a sign of the driver."""
    case.bench.sql(
        "update offload_watermarks set lease_until = now() - interval '1 second'"
        " where table_name = %s",
        case.bench.name,
    )


def start_through_network(case: Case, fault: str = "") -> tuple[Any, Network]:
    """A driver whose way to ClickHouse can be cut."""
    settings = case.bench.settings
    network = Network(settings.clickhouse.port)
    around = replace(settings, clickhouse=replace(settings.clickhouse, port=network.port))
    return case.start(fault, around), network


def fill(path: Path, *, leaving: int = 0) -> None:
    """Write until nothing more goes on to the disk, then give some bytes back."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            continue
    os.truncate(path, path.stat().st_size - leaving)


def make_room(disk: Path) -> None:
    """The administrator gives the file system sixty megabytes more."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
