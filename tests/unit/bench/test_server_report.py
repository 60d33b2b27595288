"""What the server benchmark makes of its runs."""

from __future__ import annotations

from k2.bench.server import COLUMNS, IN_PROCESS, OVER_HTTP, SMALL, Measured, summary


def test_a_statement_has_medians_of_both_ways_and_their_ratio() -> None:
    runs = [
        Measured(SMALL, way, 1, 60, seconds)
        for way, times in ((IN_PROCESS, (0.001, 0.002, 0.009)), (OVER_HTTP, (0.004, 0.005, 0.006)))
        for seconds in times
    ]
    runs.append(Measured("insert, Native", IN_PROCESS, 1_000, 50_000_000, 0.1))
    runs.append(Measured("insert, Native", OVER_HTTP, 1_000, 50_000_000, 0.12))
    assert len(COLUMNS) == len(summary(runs)[0])
    assert summary(runs) == [
        [SMALL, 1, 0.0, 2, 1, 9, 5, 4, 6, "2.50"],
        ["insert, Native", 1_000, 50.0, 100, 100, 100, 120, 120, 120, "1.20"],
    ]
