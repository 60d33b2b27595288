"""What settling reads grows with the new trades, not with the tables; by rows, not by seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from k2.bench.settling import Settling, measure, summary

if TYPE_CHECKING:
    from k2.settings import Settings

SMALL, LARGE = 50_000, 1_000_000
NEW, RUSH = 2_000, 4_000


@pytest.fixture(scope="module")
def settlings(server: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Settling]:
    return list(
        measure(
            server,
            tmp_path_factory.mktemp("cost"),
            now=lambda: datetime.now(UTC),
            table_trades=(SMALL, LARGE),
            new_trades=(NEW, RUSH),
        )
    )


def test_a_table_of_twenty_times_the_trades_costs_no_more_than_a_few_times_the_rows(
    settlings: list[Settling],
) -> None:
    for small, large in zip(settlings[:2], settlings[2:], strict=True):
        assert small.new_trades == large.new_trades
        assert large.rows_read < 4 * small.rows_read
        assert large.rows_read < LARGE


def test_the_windows_of_the_new_trades_are_settled_and_only_those(
    settlings: list[Settling],
) -> None:
    """In each of six timeframes a trade has one window; ones that came twice add none."""
    for one in settlings:
        assert 0 < one.candles <= 6 * one.new_trades


def test_an_arrival_is_settled_on_top_of_the_one_before(settlings: list[Settling]) -> None:
    held = [(one.table_trades, one.new_trades) for one in settlings]
    assert held == [(SMALL, NEW), (SMALL + NEW, RUSH), (LARGE, NEW), (LARGE + NEW, RUSH)]


def test_the_summary_tells_for_each_arrival_how_many_times_the_first_the_last_table_costs(
    settlings: list[Settling],
) -> None:
    few, few_on_large, ratio, rush, rush_on_large, rush_ratio = summary(settlings)
    assert (few[:2], few_on_large[:2]) == ([SMALL, NEW], [LARGE, NEW])
    assert (rush[:2], rush_on_large[:2]) == ([SMALL + NEW, RUSH], [LARGE + NEW, RUSH])
    assert (ratio[0], rush_ratio[0]) == ("x 20.00", "x 19.27")
