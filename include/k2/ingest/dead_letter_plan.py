"""What reading dead letters again comes to: which are settled, and which trades they become."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Topic, partition and offset of a message.
Place = tuple[str, int, int]

_OF_ONE_TRADE = re.compile(r"trade (\d+) of \d+: ")


@dataclass(frozen=True)
class Letter:
    """An open dead letter: the place of its message, and what was wrong with it."""

    place: Place
    reason: str

    @property
    def trade_number(self) -> int:
        """Which trade of the message it is about, from 1; 0 is the message as a whole."""
        found = _OF_ONE_TRADE.match(self.reason)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Outcome:
    """What the views now say about one trade of a message; an empty reason: it is one."""

    place: Place
    trade_number: int
    reason: str
    raw_message: str = ""


@dataclass(frozen=True)
class Settled:
    """A letter that is none any more, and the offset at which its trades, if any, go to Bronze."""

    letter: Letter
    offset: int
    has_trades: bool


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay of some dead letters does: `found` are wrong trades of a message that was
    wrong as a whole before."""

    settled: tuple[Settled, ...]
    found: tuple[Outcome, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offsets that get trades, in order."""
        return tuple(sorted({one.offset for one in self.settled if one.has_trades}))


def plan_replay(
    letters: Sequence[Letter], outcomes: Iterable[Outcome], first_offset: int
) -> ReplayPlan:
    """Compare open dead letters with what the views say about their messages now.

    Only trades that were wrong before count: the others of the same message are in Bronze. A
    message that is read as nothing at all, such as a heartbeat, is settled without trades.

    Args:
        letters: all open dead letters of each message that is among them.
        outcomes: of the same messages.
        first_offset: the first free one; each message takes one.
    """
    said: dict[Place, dict[int, Outcome]] = defaultdict(dict)
    for outcome in outcomes:
        said[outcome.place][outcome.trade_number] = outcome
    settled: list[Settled] = []
    found: list[Outcome] = []
    offsets: dict[Place, int] = {}
    for letter in letters:
        now = said[letter.place]
        wrong = {number: outcome for number, outcome in now.items() if outcome.reason}
        if not _is_settled(letter.trade_number, set(now), set(wrong)):
            continue
        offset = offsets.setdefault(letter.place, first_offset + len(offsets))
        right = set(now) - set(wrong)
        has_trades = bool(right) if letter.trade_number == 0 else letter.trade_number in right
        settled.append(Settled(letter, offset, has_trades))
        if letter.trade_number == 0:
            found += wrong.values()
    return ReplayPlan(tuple(settled), tuple(found))


def _is_settled(number: int, now: set[int], wrong: set[int]) -> bool:
    if number == 0:
        return not now or bool(now - wrong)
    return number not in wrong and 0 not in wrong
