"""The search for the highest rate that holds, on machines that hold a known rate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from k2.bench.freshness.markers import Latency
from k2.bench.freshness.plan import FreshnessError, Plan, Rate, Run
from k2.bench.freshness.search import find_highest, holds, limit_of
from k2.bench.freshness.usage import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

BASE, PLAN = Rate(1_000, 100), Plan(20.0)


def run_of(rate: Rate, plan: Plan = PLAN, p99: float = 300.0) -> Run:
    figures = Latency(600, 0, p99 / 2, p99, p99)
    return Run(
        rate=rate,
        plan=plan,
        produced={"binance": 100, "kraken": 10},
        visible={"binance": 100, "kraken": 10},
        dead_letters=0,
        produced_rate=rate.total,
        behind_seconds=0.01,
        latency=figures,
        last_quarter=figures,
        by_exchange={},
        read_ms=30.0,
        look_ms=100.0,
        series=[],
        samples=[],
        settlings=[],
    )


def machine(capacity: int) -> Callable[[Rate, Plan], Run]:
    """Keeps all rates up to its capacity fresh, and none above it."""
    return lambda rate, plan: run_of(rate, plan, 300.0 if rate.total <= capacity else 900.0)


@pytest.mark.parametrize("capacity", [300, 1_500, 20_000, 137_000])
def test_the_search_comes_near_to_what_the_machine_holds(capacity: int) -> None:
    found = find_highest(machine(capacity), BASE, PLAN, say=lambda _line: None)
    assert found.rate is not None
    assert capacity / 1.13 <= found.rate.total <= capacity


def test_what_is_found_has_held_for_longer_than_a_step() -> None:
    found = find_highest(machine(20_000), BASE, PLAN, say=lambda _line: None)
    assert found.runs[-1].rate == found.rate
    assert found.runs[-1].plan.seconds == 4 * PLAN.seconds


def test_a_rate_that_holds_for_a_step_only_is_lowered() -> None:
    def tires(rate: Rate, plan: Plan) -> Run:
        return machine(20_000 if plan.seconds <= PLAN.seconds else 10_000)(rate, plan)

    found = find_highest(tires, BASE, PLAN, say=lambda _line: None)
    assert found.rate is not None
    assert 10_000 / 1.13 <= found.rate.total <= 10_000


def test_a_machine_that_holds_nothing_has_no_highest_rate() -> None:
    found = find_highest(machine(0), BASE, PLAN, say=lambda _line: None)
    assert found.rate is None


@pytest.mark.parametrize(
    "change",
    [
        {"produced_rate": 900},
        {"visible": {"binance": 99, "kraken": 10}},
        {"visible": {"binance": 101, "kraken": 10}},
        {"dead_letters": 1},
        {"last_quarter": Latency(150, 0, 300.0, 501.0, 600.0)},
        {"latency": Latency(599, 1, 100.0, 300.0, 400.0)},
        {"latency": Latency(0, 0, None, None, None)},
    ],
    ids=str,
)
def test_a_run_does_not_hold_with(change: dict[str, object]) -> None:
    run = run_of(BASE)
    assert holds(run)
    assert not holds(replace(run, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cores", "said"),
    [
        ({"ingest": 0.97, "clickhouse": 0.4, "machine": 1.4}, "ingest at one core"),
        ({"ingest": 0.10, "clickhouse": 0.2, "machine": 0.3}, "waiting, not computing"),
        ({"ingest": 0.10, "clickhouse": 99.0, "machine": 1e4}, "cores of the machine are busy"),
    ],
    ids=["ingest", "waiting", "machine"],
)
def test_what_limits_is_told_by_who_is_busy(cores: dict[str, float], said: str) -> None:
    idle = Sample(0.0, {}, dict.fromkeys(cores, 0.0), {}, 1.0)
    used = Sample(10.0, {}, {name: 10 * value for name, value in cores.items()}, {}, 1.0)
    assert said in limit_of(replace(run_of(BASE), samples=[idle, used]))


@pytest.mark.parametrize("text", ["1000", "1000+", "+100", "a+b", "1000+100+1", "0+100", "-1+5"])
def test_a_rate_that_cannot_be_read_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(FreshnessError, match=r"is no rate; write .*1000\+100$"):
        Rate.parse(text)


def test_a_rate_names_both_exchanges() -> None:
    assert Rate.parse("1000+100").by_exchange == {"binance": 1_000, "kraken": 100}


@pytest.mark.parametrize(
    ("seconds", "every", "times"),
    [
        (600.0, 900.0, [300.0]),
        (3_600.0, 900.0, [450.0, 1_350.0, 2_250.0, 3_150.0]),
        (600.0, None, []),
    ],
)
def test_settling_comes_at_half_of_its_interval(
    seconds: float, every: float | None, times: list[float]
) -> None:
    assert Plan(seconds, settle_every=every).settlings() == times
