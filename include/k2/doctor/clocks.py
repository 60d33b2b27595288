"""Clocks of the servers against that of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from k2.doctor.result import Result, failed, ok, warning

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds. From the latter on the quality check `ahead_of_clock` counts a trade as too early.
NOTICEABLE: Final = 1.0
HARMFUL: Final = 10.0
_FIX: Final = "let NTP discipline the clocks of both hosts: ingestion times, leases go by them"


def skew(ask: Callable[[], float], clock: Callable[[], float] = time.time) -> Result:
    """How far a server's clock is from this machine's; `ask` and `clock` give seconds since 1970.

    The answer was given at some time between question and arrival, so half of that is not told.
    """
    asked = clock()
    theirs = ask()
    answered = clock()
    uncertain = (answered - asked) / 2
    ahead = theirs - (asked + answered) / 2
    found = f"{abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}, ± {uncertain:.3f} s"
    if abs(ahead) - uncertain > HARMFUL:
        return failed(found, _FIX)
    if abs(ahead) - uncertain > NOTICEABLE:
        return warning(found, _FIX)
    return ok(found)
