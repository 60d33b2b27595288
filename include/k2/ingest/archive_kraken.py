"""Kraken's time and sales (https://support.kraken.com/articles/360047543791).

The archive names neither trade ids nor sides. The id is the trade's second and its place among the
rows of that second: the same at every import and in every file that holds the whole second,
different for identical rows, growing with time. The side follows the tick rule: a price above the
last one was bought, below it sold, the same as before where it is unchanged.

Such an id is not the trade_id of Kraken's live messages: whoever feeds both the archive and the
live messages of the same time has every trade of it twice, in Silver and in the candles.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from k2.ingest.archive_files import positive
from k2.ingest.trade import Side, Trade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMATS = "Kraken time and sales (timestamp,price,quantity)"

# The archive has whole seconds; a trade's id is its second, then its place in that second.
TRADES_PER_SECOND = 1_000_000

_SECONDS = re.compile(r"\d{9,10}(\.\d{1,9})?", re.ASCII)


def kraken_rows(symbol: str, cells: Sequence[str]) -> Callable[[Sequence[str]], Trade] | None:
    """What reads the rows of a file that has a row of these cells; None if they tell no format.

    The reader raises ValueError for a broken row.
    """
    return _Rows(symbol) if len(cells) == 3 else None


class _Rows:
    """Reads the rows of one file; knows the row before for ids and sides."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._second = 0
        self._rows_in_second = 0
        self._price: Decimal | None = None
        self._side: Side = "buy"

    def __call__(self, cells: Sequence[str]) -> Trade:
        if not _SECONDS.fullmatch(cells[0]):
            raise ValueError(f"timestamp is not in seconds since 1970: '{cells[0]}'")
        # Broken rows count too: once they are put right, the others keep their ids.
        trade_id = self._next_id(int(cells[0].split(".")[0]))
        if len(cells) != 3:
            raise ValueError(f"{len(cells)} columns instead of 3")
        price = positive("price", cells[1])
        quantity = positive("quantity", cells[2])
        if self._price is not None and price != self._price:
            self._side = "buy" if price > self._price else "sell"
        self._price = price
        return Trade(
            exchange="kraken",
            symbol=self._symbol,
            trade_id=trade_id,
            price=price,
            quantity=quantity,
            side=self._side,
            timestamp_us=int(Decimal(cells[0]) * 1_000_000),
        )

    def _next_id(self, second: int) -> int:
        if second < self._second:
            raise ValueError(
                f"time goes back, from {self._second} to {second}, so its id cannot be told; "
                "the rows must be in the order of time"
            )
        if second > self._second:
            self._second, self._rows_in_second = second, 0
        self._rows_in_second += 1
        if self._rows_in_second >= TRADES_PER_SECOND:
            raise ValueError(f"more than {TRADES_PER_SECOND - 1} rows in one second")
        return second * TRADES_PER_SECOND + self._rows_in_second
