"""What the crash matrix found, as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEADINGS = ("case", "where", "kills", "rows", "lost", "duplicated", "seconds", "result")


@dataclass(frozen=True)
class Outcome:
    """One case: rows that ClickHouse holds, and how the rows in Iceberg differ from them."""

    case: str
    where: str
    kills: int
    rows: int
    lost: int
    duplicated: int
    seconds: float
    held: bool


@dataclass(frozen=True)
class Difference:
    """Rows that should be in Iceberg and are not, and rows that are there too often."""

    lost: int
    duplicated: int


def compare(expected: Iterable[Any], found: Iterable[Any]) -> Difference:
    """Compare row by row; a row with another value is one lost and one too many."""
    wanted, there = Counter(expected), Counter(found)
    return Difference(lost=(wanted - there).total(), duplicated=(there - wanted).total())


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table, a line a case, and the totals below it."""
    rows = [
        (
            one.case,
            one.where,
            str(one.kills),
            f"{one.rows:,}",
            str(one.lost),
            str(one.duplicated),
            f"{one.seconds:.1f}",
            "ok" if one.held else "FAILED",
        )
        for one in outcomes
    ]
    totals = (
        f"{len(outcomes)} cases",
        "",
        str(sum(one.kills for one in outcomes)),
        f"{sum(one.rows for one in outcomes):,}",
        str(sum(one.lost for one in outcomes)),
        str(sum(one.duplicated for one in outcomes)),
        f"{sum(one.seconds for one in outcomes):.1f}",
        "ok" if all(one.held for one in outcomes) else "FAILED",
    )
    table = [HEADINGS, *rows, totals]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    printed = ["  ".join(_aligned(row, widths)).rstrip() for row in table]
    ruler = "-" * max(len(line) for line in printed)
    return [printed[0], ruler, *printed[1:-1], ruler, printed[-1]]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Text to the left, figures to the right."""
    return [
        cell.rjust(width) if 2 <= column < len(HEADINGS) - 1 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
