"""What settling reads grows with the new trades, not with the tables; by rows, not by seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from k2.bench.settling import Settling, measure, summary

if TYPE_CHECKING:
    from k2.settings import Settings

SMALL, LARGE = 50_000, 1_000_000
NEW = 2_000


@pytest.fixture(scope="module")
def settlings(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Settling]:
    return list(
        measure(
            server,
            tmp_path_factory.mktemp("cost"),
            now=lambda: datetime.now(UTC),
            table_trades=(SMALL, LARGE),
            new_trades=NEW,
        )
    )


def test_a_table_of_twenty_times_the_trades_costs_no_more_than_a_few_times_the_rows(
    settlings: list[Settling],
) -> None:
    small, large = settlings
    assert small.table_trades * 20 == large.table_trades
    assert large.rows_read < 4 * small.rows_read
    assert large.rows_read < LARGE


def test_the_windows_of_the_new_trades_are_settled_and_only_those(
    settlings: list[Settling],
) -> None:
    """In each of six timeframes a trade has one window; ones that came twice add none."""
    for one in settlings:
        assert 0 < one.candles <= 6 * NEW


def test_the_summary_tells_how_many_times_the_first_the_last_costs(
    settlings: list[Settling],
) -> None:
    small, large, ratio = summary(settlings)
    assert (small[0], large[0], ratio[0]) == (SMALL, LARGE, "x 20.00")
