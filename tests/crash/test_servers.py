"""ClickHouse or PostgreSQL dies, or cannot be reached: the run stops, the next one goes on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from .matrix import CRASH, MODES, MakeCase, cases, heavy
from .servers import stopped

if TYPE_CHECKING:
    from .servers import ClickHouseServer, PostgresServer

pytestmark = CRASH


@pytest.mark.parametrize("layer", MODES)
def test_clickhouse_killed_while_it_writes(
    make_case: MakeCase, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = heavy(make_case, layer, "unload", "ClickHouse killed: while writing")
    driver = case.start_writing(case.start)
    clickhouse_server.kill()
    case.kills += 1
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    clickhouse_server.start()
    case.reconnect()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", ["bronze", pytest.param("gold", marks=pytest.mark.short)])
def test_clickhouse_killed_in_the_middle_of_a_scan(
    make_case: MakeCase, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = heavy(make_case, layer, "scan", "ClickHouse killed: in a scan")
    driver, network = case.start_scanning()
    clickhouse_server.kill()
    case.kills += 1
    network.go_on()
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    clickhouse_server.start()
    case.reconnect()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", MODES)
def test_clickhouse_killed_before_the_files_are_verified(
    make_case: MakeCase, layer: str, clickhouse_server: ClickHouseServer
) -> None:
    case = make_case(layer, "unload", "ClickHouse killed: unloaded")
    with case.paused_at("unloaded") as driver:
        clickhouse_server.kill()
        case.kills += 1
    case.require_refused(driver)
    clickhouse_server.start()
    case.reconnect()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", [pytest.param("bronze", marks=pytest.mark.short), "gold"])
def test_the_network_cut_while_clickhouse_writes(make_case: MakeCase, layer: str) -> None:
    case = heavy(make_case, layer, "unload", "network cut: while writing")
    network = case.network()
    driver = case.start_writing(lambda: case.start(network=network))
    network.cut()
    case.clickhouse.go_on()
    case.kills += 1
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", MODES)
def test_the_network_cut_in_the_middle_of_a_scan(make_case: MakeCase, layer: str) -> None:
    case = heavy(make_case, layer, "scan", "network cut: in a scan")
    driver, network = case.start_scanning()
    network.cut()
    case.kills += 1
    case.require_refused(driver)
    assert "event=unloaded" not in driver.output()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("point", ["recovered", "unloaded"])
def test_the_network_cut_between_two_steps(make_case: MakeCase, point: str) -> None:
    case = make_case("bronze", "unload", f"network cut: {point}")
    network = case.network()
    driver = case.start(f"{point}:pause", network)
    driver.wait_until_paused()
    network.cut()
    case.kills += 1
    driver.go_on()
    case.require_refused(driver)
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(("transfer", "layer"), cases(unload=MODES, scan=["bronze"]))
def test_postgresql_stopped_before_the_claim(
    make_case: MakeCase, transfer: str, layer: str, postgres_server: PostgresServer
) -> None:
    case = make_case(layer, transfer, "PostgreSQL stopped: before the claim")
    with stopped(postgres_server):
        case.kills += 1
        case.require_refused(case.start())
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(
    ("transfer", "layer", "point"),
    cases(
        unload=itertools.product(MODES, ("verified", "committing", "swapping", "committed")),
        scan=itertools.product(MODES, ("committing", "committed")),
        short={("unload", "bronze", "swapping"), ("unload", "gold", "committed")},
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
