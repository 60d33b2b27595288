"""Markers: the sampled trades, by which it is measured how long a trade takes to be visible.

One trade in so many is turned into one of a market of its own, which is small enough to be read
often. Its ids are consecutive, and all of it goes through one partition, so the candle of a minute
says by its count and its last id which of them a reader can see.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

PRICE: Final = Decimal("100.00")


@dataclass(frozen=True)
class MarkerMarket:
    """The market of an exchange's markers, as the exchange writes it and as Silver does."""

    symbol: str
    canonical_symbol: str
    each_second: int


MARKETS: Final = {
    "binance": MarkerMarket("MARKERUSDT", "MARKER/USDT", 20),
    "kraken": MarkerMarket("MARKER/USD", "MARKER/USD", 10),
}


class Marker(NamedTuple):
    """A marker; `minute` is its window in seconds since 1970, `produced_ns` the monotonic clock."""

    exchange: str
    minute: int
    trade_id: int
    produced_ns: int


class Observation(NamedTuple):
    """What the candle of a minute of markers showed when the answer was there."""

    exchange: str
    minute: int
    trade_count: int
    last_trade_id: int
    seen_ns: int


@dataclass(frozen=True)
class Waits:
    """Markers in the order in which they were produced, and how long each took to be visible.

    `milliseconds` is NaN where a marker was not seen.
    """

    produced_ns: NDArray[np.int64]
    milliseconds: NDArray[np.float64]

    def between(self, begin_ns: int, end_ns: int) -> Waits:
        """Those that were produced in [begin, end)."""
        inside = (self.produced_ns >= begin_ns) & (self.produced_ns < end_ns)
        return Waits(self.produced_ns[inside], self.milliseconds[inside])


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the produce call until visible; None where nothing was seen."""

    measured: int
    unseen: int
    p50: float | None
    p99: float | None
    maximum: float | None


def waits(markers: Iterable[Marker], observations: Iterable[Observation]) -> Waits:
    """How long each marker took until the first observation that shows it."""
    by_window = _markers_by_window(markers)
    observed = _observations_by_window(observations)
    produced: list[NDArray[np.int64]] = []
    waited: list[NDArray[np.float64]] = []
    for window, ones in by_window.items():
        times = np.array([one.produced_ns for one in ones], dtype=np.int64)
        produced.append(times)
        waited.append((_first_seen(ones, observed.get(window, [])) - times) / 1e6)
    if not produced:
        return Waits(np.empty(0, dtype=np.int64), np.empty(0))
    every, milliseconds = np.concatenate(produced), np.concatenate(waited)
    order = np.argsort(every, kind="stable")
    return Waits(every[order], milliseconds[order])


def latency(some: Waits) -> Latency:
    """Percentiles of the markers that were seen."""
    seen = some.milliseconds[~np.isnan(some.milliseconds)]
    unseen = len(some.milliseconds) - len(seen)
    if not len(seen):
        return Latency(0, unseen, None, None, None)
    p50, p99 = (round(float(value), 1) for value in np.percentile(seen, (50, 99)))
    return Latency(len(seen), unseen, p50, p99, round(float(seen.max()), 1))


def by_second(some: Waits, begin_ns: int) -> list[tuple[int, Latency]]:
    """The latency of the markers of each second after `begin_ns`; seconds without any are left
    out."""
    seconds = (some.produced_ns - begin_ns) // 1_000_000_000
    return [
        (int(second), latency(Waits(some.produced_ns[inside], some.milliseconds[inside])))
        for second in np.unique(seconds)
        if len(inside := np.flatnonzero(seconds == second))
    ]


def _markers_by_window(markers: Iterable[Marker]) -> Mapping[tuple[str, int], list[Marker]]:
    windows: defaultdict[tuple[str, int], list[Marker]] = defaultdict(list)
    for marker in markers:
        windows[marker.exchange, marker.minute].append(marker)
    return windows


def _observations_by_window(
    observations: Iterable[Observation],
) -> Mapping[tuple[str, int], list[Observation]]:
    windows: defaultdict[tuple[str, int], list[Observation]] = defaultdict(list)
    for one in observations:
        windows[one.exchange, one.minute].append(one)
    return windows


def _first_seen(
    markers: Sequence[Marker], observations: Sequence[Observation]
) -> NDArray[np.float64]:
    """When each marker of a window was seen first; NaN for never.

    A candle shows so many of the window's markers, in the order of their ids, as both its count
    and its last id vouch for.
    """
    first_id = min(marker.trade_id for marker in markers)
    shown = np.array(
        [min(one.trade_count, one.last_trade_id - first_id + 1) for one in observations],
        dtype=np.int64,
    )
    seen = np.array([*(one.seen_ns for one in observations), np.nan])
    place = np.array([marker.trade_id - first_id + 1 for marker in markers], dtype=np.int64)
    first: NDArray[np.float64] = seen[np.searchsorted(np.maximum.accumulate(shown), place)]
    return first
