"""Clocks, by injected ones: half of the time that an answer takes is no skew."""

from __future__ import annotations

import pytest

from k2.doctor.clocks import skew
from k2.doctor.result import Outcome


@pytest.mark.parametrize(
    ("theirs", "outcome", "found"),
    [
        (1000.1, Outcome.OK, "0.000 s behind, ± 0.100 s"),
        (1000.9, Outcome.OK, "0.800 s ahead, ± 0.100 s"),
        (1001.15, Outcome.OK, "1.050 s ahead, ± 0.100 s"),
        (1001.3, Outcome.WARNING, "1.200 s ahead, ± 0.100 s"),
        (998.5, Outcome.WARNING, "1.600 s behind, ± 0.100 s"),
        (1030.1, Outcome.FAILED, "30.000 s ahead, ± 0.100 s"),
        (900.1, Outcome.FAILED, "100.000 s behind, ± 0.100 s"),
    ],
)
def test_a_clock_is_off_by_more_than_the_answer_took(
    theirs: float, outcome: Outcome, found: str
) -> None:
    ours = iter([1000.0, 1000.2])
    result = skew(lambda: theirs, lambda: next(ours))
    assert (result.outcome, result.found) == (outcome, found)
    assert bool(result.fix) == (outcome is not Outcome.OK)
