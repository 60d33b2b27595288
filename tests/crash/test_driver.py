"""The driver dies or sleeps: a plain rerun leaves every row in Iceberg once."""

from __future__ import annotations

import itertools

import pytest

from .matrix import CRASH, LAYERS, MODES, STEPS, MakeCase, cases, heavy

pytestmark = CRASH

AGAIN_AND_AGAIN = (("swapping", "fenced", "cleared"), ("committed", "recovered", "unloaded"))


@pytest.mark.parametrize(
    ("transfer", "layer", "point"),
    cases(
        unload=itertools.product(LAYERS, STEPS),
        scan=[
            *(
                ("bronze", point)
                for point in ("claimed", "recovered", "planned", "intended", "unloaded", "verified")
            ),
            *itertools.product(MODES, ("swapping", "committed")),
            ("gold", "intended"),
            ("gold", "unloaded"),
        ],
        short={("unload", "silver", "committed"), ("unload", "gold", "swapping")},
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


@pytest.mark.parametrize(
    ("transfer", "layer", "point"),
    cases(
        unload=itertools.product(MODES, ("unloaded", "committed")),
        scan=[("bronze", "unloaded")],
    ),
)
def test_a_driver_killed_in_the_first_batch_of_a_table(
    make_case: MakeCase, transfer: str, layer: str, point: str
) -> None:
    case = make_case(layer, transfer, f"driver killed in first batch: {point}", offloaded=False)
    case.kill_at(point)
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", MODES)
def test_spark_killed_under_its_driver(make_case: MakeCase, layer: str) -> None:
    """As by the kernel when memory runs out: the driver must not live on with its claim."""
    case = make_case(layer, "unload", "Spark killed: unloaded")
    driver = case.start("unloaded:pause")
    driver.wait_until_paused()
    driver.kill_spark()
    case.kills += 1
    driver.wait_until_gone()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize("layer", MODES)
def test_a_driver_killed_between_two_groups_of_partitions(make_case: MakeCase, layer: str) -> None:
    case = make_case(
        layer, "unload", "driver killed: between groups", days=40, max_batch_rows=100_000
    )
    case.kill_at("unloading")
    written = len(case.bench.files()) - len(case.bench.committed_files())
    assert 0 < written < 40
    case.feed()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(
    "layer", [pytest.param("bronze", marks=pytest.mark.short), "silver", "gold"]
)
def test_a_driver_killed_while_clickhouse_writes(make_case: MakeCase, layer: str) -> None:
    case = heavy(make_case, layer, "unload", "driver killed: while writing")
    driver = case.start_writing(case.start)
    driver.kill()
    driver.end()
    case.kills += 1
    # It goes on for a driver that is dead.
    case.clickhouse.go_on()
    assert "event=unloaded" not in driver.output()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(
    "layer", [pytest.param("bronze", marks=pytest.mark.short), "silver", "gold"]
)
def test_a_driver_killed_in_the_middle_of_a_scan(make_case: MakeCase, layer: str) -> None:
    case = heavy(make_case, layer, "scan", "driver killed: in a scan")
    driver, network = case.start_scanning()
    driver.kill()
    driver.end()
    case.kills += 1
    # Its Python workers still wait for rows, and get them while the next driver works.
    network.go_on()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(
    ("transfer", "layer", "points"),
    cases(
        unload=itertools.product(MODES, AGAIN_AND_AGAIN),
        scan=zip(MODES, AGAIN_AND_AGAIN, strict=True),
    ),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_drivers_killed_again_and_again(
    make_case: MakeCase, transfer: str, layer: str, points: tuple[str, ...]
) -> None:
    case = make_case(layer, transfer, f"drivers killed: {', '.join(points)}")
    for point in points:
        case.kill_at(point)
        case.feed()
    case.rerun()
    case.conclude()


@pytest.mark.parametrize(
    ("transfer", "layer", "point"),
    cases(
        unload=[
            *(
                ("bronze", point)
                for point in ("recovered", "planned", "intended", "unloaded", "verified")
            ),
            *itertools.product(MODES, ("committing", "swapping", "committed")),
        ],
        scan=[("bronze", "unloaded"), ("gold", "committing")],
        short={("unload", "bronze", "swapping"), ("unload", "bronze", "intended")},
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
        case.bench.expire_lease()
        case.rerun()
        snapshots = case.bench.snapshots()
    case.require_refused(asleep)
    assert case.bench.snapshots() == snapshots
    case.conclude()


def test_a_driver_that_wakes_up_in_the_middle_of_a_scan(make_case: MakeCase) -> None:
    case = heavy(make_case, "bronze", "scan", "driver asleep: in a scan")
    asleep, network = case.start_scanning()
    asleep.freeze()
    case.kills += 1
    case.feed()
    case.bench.expire_lease()
    case.rerun()
    snapshots = case.bench.snapshots()
    network.go_on()
    asleep.go_on()
    case.require_refused(asleep)
    assert case.bench.snapshots() == snapshots
    case.conclude()
