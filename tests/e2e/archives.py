"""The archives that the whole stack is fed with, and their candles by pandas.

Real trades where the folder beside the checkout has them, else trades of the same shape.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pandas as pd

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
UNIT = Decimal("0.00000001")
FREQUENCIES = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1D"}
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


def binance_trades(path: Path) -> pd.DataFrame:
    """Milliseconds, price and quantity in units of 1e-8, in the order of the trade ids."""
    frame = pd.read_csv(path, dtype=str).astype({"agg_trade_id": int, "transact_time": int})
    frame = frame.sort_values(["transact_time", "agg_trade_id"])
    return _units(frame["transact_time"], frame["price"], frame["quantity"])


def kraken_trades(path: Path) -> pd.DataFrame:
    """The same of Kraken: seconds, and the order of the file within one."""
    frame = pd.read_csv(path, dtype=str, names=["time", "price", "quantity"])
    return _units(frame["time"].astype(int) * 1000, frame["price"], frame["quantity"])


def candles(trades: pd.DataFrame, timeframe: str) -> list[list[object]]:
    """Candles by window: its start, then COLUMNS, exact."""
    start = pd.to_datetime(trades["milliseconds"], unit="ms", utc=True).dt.floor(
        FREQUENCIES[timeframe]
    )
    found = trades.groupby(start).agg(
        open_price=("price", "first"),
        high_price=("price", "max"),
        low_price=("price", "min"),
        close_price=("price", "last"),
        volume=("quantity", "sum"),
        quote_volume=("quote_volume", "sum"),
        trade_count=("price", "count"),
    )
    return [
        [f"{window:%Y-%m-%d %H:%M:%S}", *(Decimal(int(value)) * UNIT for value in row[:6]), row[6]]
        for window, row in zip(found.index, found.itertuples(index=False), strict=True)
    ]


def _units(milliseconds: pd.Series, price: pd.Series, quantity: pd.Series) -> pd.DataFrame:
    amounts = [
        (Decimal(p), Decimal(q)) for p, q in zip(price.to_list(), quantity.to_list(), strict=True)
    ]
    return pd.DataFrame(
        {
            "milliseconds": milliseconds.to_list(),
            "price": [int(p / UNIT) for p, _ in amounts],
            "quantity": [int(q / UNIT) for _, q in amounts],
            "quote_volume": [
                int((p * q).quantize(UNIT, ROUND_HALF_EVEN) / UNIT) for p, q in amounts
            ],
        }
    )


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
