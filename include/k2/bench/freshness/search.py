"""The highest rate that holds: doubled until one does not, then bisected, then held for longer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from k2.bench.freshness.usage import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.bench.freshness.plan import Plan, Rate, Run

P99_MILLISECONDS: Final = 500.0
_NEAR_ENOUGH: Final = 1.12
_SMALLEST_FACTOR: Final = 1 / 16
_LARGEST_FACTOR: Final = 1024.0
_PRODUCED_SHARE: Final = 0.97
_BUSY_SHARE: Final = 0.9
_CONFIRMED_BY: Final = 4


@dataclass(frozen=True)
class Highest:
    """The highest rate that held, None if none did; what limits it; the runs in their order."""

    rate: Rate | None
    limited_by: str
    runs: list[Run]


def holds(run: Run) -> bool:
    """Whether a run kept its rate, lost nothing, and stayed fresh to its end."""
    return (
        run.is_complete
        and run.produced_rate >= _PRODUCED_SHARE * run.rate.total
        and all(
            one.p99 is not None and one.p99 <= P99_MILLISECONDS
            for one in (run.latency, run.last_quarter)
        )
    )


def find_highest(
    run: Callable[[Rate, Plan], Run], base: Rate, plan: Plan, *, say: Callable[[str], object]
) -> Highest:
    """Search multiples of a rate; the one that is found has held for four times a step.

    Args:
        run: runs at a rate; an overloaded run returns once its backlog is gone.
        base: the rate at which the search begins; its mix is kept.
        plan: of a step.
    """
    runs: list[Run] = []

    def tried(factor: float, seconds: float) -> bool:
        step = replace(plan, seconds=seconds, seed=plan.seed + len(runs))
        runs.append(run(base.times(factor), step))
        held = holds(runs[-1])
        p99 = runs[-1].latency.p99
        say(f"{runs[-1].rate} {'holds' if held else 'does not hold'}: p99 {p99} ms")
        return held

    good, bad = _bracket(lambda factor: tried(factor, plan.seconds))
    while good and bad and bad / good > _NEAR_ENOUGH:
        middle = math.sqrt(good * bad)
        if tried(middle, plan.seconds):
            good = middle
        else:
            bad = middle
    while good and not tried(good, plan.seconds * _CONFIRMED_BY):
        good /= _NEAR_ENOUGH
        if good < _SMALLEST_FACTOR:
            good = 0.0
    return Highest(base.times(good) if good else None, _limit(runs), runs)


def _bracket(holds_at: Callable[[float], bool]) -> tuple[float, float]:
    """A factor that holds and one that does not, a factor of two apart; 0 where there is none."""
    factor = 1.0
    if holds_at(factor):
        while factor < _LARGEST_FACTOR:
            factor *= 2
            if not holds_at(factor):
                return factor / 2, factor
        return factor, 0.0
    while factor > _SMALLEST_FACTOR:
        factor /= 2
        if holds_at(factor):
            return factor, factor * 2
    return 0.0, factor


def _limit(runs: list[Run]) -> str:
    """What was at its end in the slowest run that did not hold."""
    failed = [run for run in runs if not holds(run)]
    if not failed:
        return "nothing that was tried"
    return limit_of(min(failed, key=lambda run: run.rate.total))


def limit_of(run: Run) -> str:
    """Which processes kept the machine busy, and which of them had no more to give."""
    cores = run.cores()
    machine, count = cores.pop(MACHINE, 0.0), os.cpu_count() or 1
    cores["other programs"] = max(0.0, machine - sum(cores.values()))
    busiest = sorted(cores.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {value:.2f}" for name, value in busiest if value >= 0.01)
    at_one_core = [name for name in ("ingest", "producer") if cores.get(name, 0.0) >= _BUSY_SHARE]
    if at_one_core:
        why = f"{' and '.join(at_one_core)} at one core, which is all that one interpreter uses"
    elif machine >= _BUSY_SHARE * count:
        why = f"all {count} cores of the machine are busy"
    else:
        why = f"waiting, not computing: {machine:.1f} of {count} cores are busy"
    return f"at {run.rate} trades a second {why} (cores: {shares})"
