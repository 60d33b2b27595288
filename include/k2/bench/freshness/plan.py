"""What a run of the freshness benchmark is asked to do, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.errors import K2Error

if TYPE_CHECKING:
    from k2.bench.freshness.markers import Latency
    from k2.bench.freshness.usage import Sample


class FreshnessError(K2Error):
    """The benchmark cannot be run, or what it ran did not keep its trades."""


@dataclass(frozen=True)
class Rate:
    """Trades a second of each exchange."""

    binance: int
    kraken: int

    @staticmethod
    def parse(text: str) -> Rate:
        """A rate such as `1000+100`: Binance, then Kraken."""
        parts = text.split("+")
        if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) for part in parts):
            raise FreshnessError(
                f"'{text}' is no rate; write trades a second of Binance and Kraken, as 1000+100"
            )
        return Rate(*(int(part) for part in parts))

    @property
    def by_exchange(self) -> dict[str, int]:
        return {"binance": self.binance, "kraken": self.kraken}

    @property
    def total(self) -> int:
        return self.binance + self.kraken

    def times(self, factor: float) -> Rate:
        """The same mix, so much of it."""
        return Rate(max(1, round(self.binance * factor)), max(1, round(self.kraken * factor)))

    def __str__(self) -> str:
        return f"{self.binance:,} + {self.kraken:,}"


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Args:
        seconds: of measuring, after `warm_up` seconds that count for nothing but the totals.
        settle_every: seconds from one settling to the next; the first comes after half of it, or at
            half of a shorter run. None: no settling.
        period: seconds from one look of the reader to the next.
    """

    seconds: float
    warm_up: float = 5.0
    settle_every: float | None = 900.0
    period: float = 0.1
    seed: int = 1

    def settlings(self) -> list[float]:
        """Seconds after the beginning of measuring at which dbt settles."""
        if self.settle_every is None:
            return []
        times = [min(self.settle_every, self.seconds) / 2]
        while times[-1] + self.settle_every < self.seconds:
            times.append(times[-1] + self.settle_every)
        return times


@dataclass(frozen=True)
class Settling:
    """One dbt build during a run, in seconds since measuring began; `error` is one line."""

    began: float
    ended: float
    error: str | None


@dataclass(frozen=True)
class Run:
    """A run at one rate. Counts of trades are by exchange and of the whole run, warm-up included.

    `produced_rate` is what the producer made of the rate; `read_ms` is how long a look of the
    reader takes, and `look_ms` the time from one look to the next: the resolution. `series` has the
    latency of each second.
    """

    rate: Rate
    plan: Plan
    produced: dict[str, int]
    visible: dict[str, int]
    dead_letters: int
    produced_rate: float
    behind_seconds: float
    latency: Latency
    last_quarter: Latency
    by_exchange: dict[str, Latency]
    read_ms: float
    look_ms: float
    series: list[tuple[int, Latency]]
    samples: list[Sample]
    settlings: list[Settling]

    @property
    def is_complete(self) -> bool:
        """Whether every trade that was produced can be seen, once."""
        return self.produced == self.visible and not self.latency.unseen and not self.dead_letters

    def cores(self) -> dict[str, float]:
        """Processor cores that each process kept busy while it was measured, on average."""
        measured = [one for one in self.samples if 0 <= one.second <= self.plan.seconds]
        if len(measured) < 2:
            return {}
        first, last = measured[0], measured[-1]
        span = last.second - first.second
        return {
            name: round((seconds - first.cpu_seconds.get(name, 0.0)) / span, 2)
            for name, seconds in last.cpu_seconds.items()
        }
