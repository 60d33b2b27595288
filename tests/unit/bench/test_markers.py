"""Latencies from markers and from what the view showed of them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from k2.bench.freshness.markers import Marker, Observation, by_second, latency, waits

MILLISECOND = 1_000_000


def marker(trade_id: int, at_ms: int, *, exchange: str = "binance", minute: int = 0) -> Marker:
    return Marker(exchange, minute, trade_id, at_ms * MILLISECOND)


def shows(
    count: int, last: int, at_ms: int, *, exchange: str = "binance", minute: int = 0
) -> Observation:
    return Observation(exchange, minute, count, last, at_ms * MILLISECOND)


def milliseconds(markers: list[Marker], observations: list[Observation]) -> list[float]:
    return list(waits(markers, observations).milliseconds)


def test_a_marker_is_visible_with_the_first_answer_that_shows_it() -> None:
    markers = [marker(1, 0), marker(2, 10), marker(3, 20)]
    assert milliseconds(markers, [shows(2, 2, 100), shows(3, 3, 300)]) == [100, 90, 280]


def test_a_marker_that_no_answer_shows_is_unseen() -> None:
    some = waits([marker(1, 0), marker(2, 10)], [shows(1, 1, 50)])
    assert math.isnan(some.milliseconds[1])
    assert (latency(some).measured, latency(some).unseen) == (1, 1)


def test_a_candle_that_lacks_a_trade_does_not_vouch_for_its_last_one() -> None:
    assert milliseconds(
        [marker(1, 0), marker(2, 0), marker(3, 0)], [shows(2, 3, 50), shows(3, 3, 90)]
    ) == [50, 50, 90]


def test_the_count_of_a_minute_begins_anew_at_its_boundary() -> None:
    markers = [marker(1, 0, minute=0), marker(2, 10, minute=0), marker(3, 20, minute=60)]
    observations = [shows(1, 1, 30), shows(2, 2, 60), shows(1, 3, 70, minute=60)]
    assert milliseconds(markers, observations) == [30, 50, 50]


def test_exchanges_do_not_mix() -> None:
    markers = [marker(1, 0), marker(1, 0, exchange="kraken")]
    observations = [shows(1, 1, 40), shows(1, 1, 90, exchange="kraken")]
    assert milliseconds(markers, observations) == [40, 90]


def test_nothing_seen_has_no_percentiles() -> None:
    assert latency(waits([], [])).p99 is None


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
)
def test_any_growth_of_a_candle_gives_what_looking_at_each_answer_gives(
    gaps: list[int], steps: list[int]
) -> None:
    produced = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    markers = [marker(number + 7, at) for number, at in enumerate(produced)]
    answers, count = [], 0
    for number, step in enumerate(steps):
        count = min(count + step, len(markers))
        answers.append(shows(count, count + 6, 10_000 + number))
    found = milliseconds(markers, answers)
    for number, at in enumerate(produced):
        seen = [one.seen_ns for one in answers if one.trade_count > number]
        expected = seen[0] / MILLISECOND - at if seen else math.nan
        assert found[number] == expected or math.isnan(found[number]) == math.isnan(expected)


def test_a_second_counts_the_markers_that_were_produced_in_it() -> None:
    markers = [marker(1, 100), marker(2, 900), marker(3, 2_100)]
    series = by_second(waits(markers, [shows(3, 3, 3_000)]), 0)
    assert [(second, one.measured, one.maximum) for second, one in series] == [
        (0, 2, 2_900.0),
        (2, 1, 900.0),
    ]
