"""The archives that the whole stack is fed with, and their trades and candles.

Real trades where the folder beside the checkout has them, else trades of the same shape.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.dbt.reference import Trade, read_archive, reference_candles

if TYPE_CHECKING:
    from collections.abc import Sequence

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
COLUMNS = "open_price, high_price, low_price, close_price, volume, quote_volume, trade_count"


@dataclass(frozen=True)
class Archives:
    """One archive of each exchange."""

    binance: Path
    kraken: Path

    @property
    def arguments(self) -> list[str]:
        return [
            f"--trades=binance:XRPETH={self.binance}",
            f"--trades=kraken:BCHEUR={self.kraken}",
        ]


def archives(directory: Path) -> Archives:
    """Real archives, or made ones."""
    binance, kraken = REAL / "XRPETH-aggTrades-2019-10-11.csv", REAL / "BCHEUR.csv"
    if binance.exists() and kraken.exists():
        return Archives(binance, kraken)
    return _made(directory)


def binance_trades(path: Path) -> list[Trade]:
    """The trades of a Binance archive."""
    return read_archive(path)


def kraken_trades(path: Path) -> list[Trade]:
    """The trades of a Kraken archive: of one second, in the order of the file. It tells no side."""
    with path.open(newline="") as file:
        return [
            Trade(row, int(seconds) * 1000, Decimal(price), Decimal(quantity), side="")
            for row, (seconds, price, quantity) in enumerate(csv.reader(file))
        ]


def candles(trades: Sequence[Trade], timeframe: str) -> list[list[object]]:
    """Candles by window: its start, then COLUMNS, exact."""
    return [
        [f"{start:%Y-%m-%d %H:%M:%S}", *prices_and_volumes, trade_count]
        for start, *prices_and_volumes, _bought, trade_count, _first, _last in reference_candles(
            trades, f"ohlcv_{timeframe}"
        )
    ]


def _made(directory: Path) -> Archives:
    """Two days of trades in the exchanges' archive formats, many in the same instant."""
    dice = random.Random(7)  # noqa: S311 - data for a test
    binance, kraken = directory / "XRPETH-aggTrades.csv", directory / "BCHEUR.csv"
    header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,"
    rows, time, price = [header + "is_buyer_maker,is_best_match"], 1_570_752_000_000, 14_000
    for trade in range(4_000):
        time += dice.choice((0, 0, 7_000, 80_000))
        price += dice.choice((-3, 0, 4))
        side = dice.choice(("true", "false"))
        amount = f"0.{price:08d},{dice.randint(1, 900)}.00000000"
        rows.append(f"{trade},{amount},{trade},{trade},{time},{side},true")
    binance.write_text("\n".join(rows) + "\n")
    rows, second = [], 1_672_617_600
    for _ in range(500):
        second += dice.choice((0, 0, 90, 400))
        rows.append(f"{second},{dice.randint(90, 99)}.{dice.randint(0, 99):02d},0.01")
    kraken.write_text("\n".join(rows) + "\n")
    return Archives(binance, kraken)
