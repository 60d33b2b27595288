"""Trades from the files in which the exchanges publish their history.

Binance spot trades and aggTrades (https://github.com/binance/binance-public-data) and Kraken time
and sales (https://support.kraken.com/articles/360047543791), as .csv or .zip. A file is read row
by row, so its size does not matter.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from k2.errors import IngestError
from k2.ingest.trade import Side, Trade, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

FORMATS = (
    "Binance trades (id,price,qty,quote_qty,time,is_buyer_maker,is_best_match), "
    "Binance aggTrades (agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,"
    "is_buyer_maker[,is_best_match]), Kraken time and sales (timestamp,price,quantity)"
)

# Kraken's archive has whole seconds; a trade's id is its second, then its place in that second.
TRADES_PER_SECOND = 1_000_000

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_HEADER = re.compile(r"[a-z_]+(,[a-z_]+){2,}", re.IGNORECASE)
_INTEGER = re.compile(r"\d{1,18}", re.ASCII)
_SECONDS = re.compile(r"\d{9,10}(\.\d{1,9})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


class ArchiveError(IngestError):
    """An archive cannot be read, or one of its rows is broken."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no trade, as it stands in the file, and what is wrong with it."""

    symbol: str
    text: str
    reason: str


@dataclass(frozen=True)
class _Line:
    """A row of a file: its cells, and where it stands."""

    place: str
    text: str

    @property
    def cells(self) -> list[str]:
        return [cell.strip() for cell in self.text.split(",")]


@dataclass(frozen=True)
class _BinanceLayout:
    """Where a Binance archive keeps its time and its maker flag."""

    columns: int
    time: int
    maker: int


_TRADES = _BinanceLayout(columns=7, time=4, maker=5)
_AGG_TRADES = _BinanceLayout(columns=8, time=5, maker=6)
_AGG_TRADES_OF_7 = _BinanceLayout(columns=7, time=5, maker=6)


def read_archive(
    exchange: str,
    symbol: str,
    path: Path,
    on_bad: Callable[[BadRow], None] | None = None,
) -> Iterator[Trade]:
    """The trades of an archive file, in its order.

    Kraken's archive names neither trade ids nor sides. The id is the trade's second and its place
    among the rows of that second: the same at every import and in every file that holds the whole
    second, different for identical rows, growing with time. The side follows the tick rule: a
    price above the last one was bought, below it sold, the same as before where it is unchanged.

    Args:
        symbol: the market as the exchange's messages write it (XRPETH, BCH/EUR).
        on_bad: takes a broken row, and reading goes on; without it a broken row is an error.

    Raises:
        ArchiveError: unknown format, unreadable file, or a broken row; it names file and line.
    """
    with _lines(path, symbol) as lines:
        first = next(lines, None)
        if first is None:
            raise ArchiveError(f"{path}: the file is empty; formats known: {FORMATS}")
        if _HEADER.fullmatch(first.text.replace(" ", "")):
            first = next(lines, None)
        if first is None:
            return
        parse = _parser(exchange, symbol, first)
        yield from _parsed(parse, _chained(first, lines), symbol, on_bad)


def _parsed(
    parse: Callable[[_Line], Trade],
    lines: Iterator[_Line],
    symbol: str,
    on_bad: Callable[[BadRow], None] | None,
) -> Iterator[Trade]:
    for line in lines:
        try:
            trade = parse(line)
        except ValueError as error:
            reason = f"{line.place}: {error}"
            if on_bad is None:
                raise ArchiveError(
                    f"{reason}; correct the row, or skip such rows to the dead letters "
                    "with --skip-bad"
                ) from None
            on_bad(BadRow(symbol, line.text, reason))
        else:
            yield trade


def _chained(first: _Line, rest: Iterator[_Line]) -> Iterator[_Line]:
    yield first
    yield from rest


def _parser(exchange: str, symbol: str, first: _Line) -> Callable[[_Line], Trade]:
    """What reads the rows of this file: told by column count and by where the booleans are."""
    cells = first.cells
    if exchange == "kraken" and len(cells) == 3:
        return _KrakenRows(symbol)
    if exchange == "binance":
        layout = _binance_layout(cells)
        if layout is not None:
            return lambda line: _binance_trade(symbol, layout, line.cells)
    raise ArchiveError(
        f"{first.place}: this is no archive of {exchange} that K2 knows ({len(cells)} columns: "
        f"{first.text[:80]}); formats known: {FORMATS}"
    )


def _binance_layout(cells: list[str]) -> _BinanceLayout | None:
    booleans = [cell.lower() in _BOOLEANS for cell in cells]
    if len(cells) == 8 and booleans[6:] == [True, True]:
        return _AGG_TRADES
    if len(cells) == 7 and booleans[5:] == [True, True]:
        return _TRADES
    if len(cells) == 7 and booleans[5:] == [False, True]:
        return _AGG_TRADES_OF_7
    return None


def _binance_trade(symbol: str, layout: _BinanceLayout, cells: list[str]) -> Trade:
    if len(cells) != layout.columns:
        raise ValueError(f"{len(cells)} columns instead of {layout.columns}")
    maker = cells[layout.maker].lower()
    if maker not in _BOOLEANS:
        raise ValueError(f"is_buyer_maker is not true or false: '{cells[layout.maker]}'")
    side: Side = "sell" if _BOOLEANS[maker] else "buy"
    return Trade(
        exchange="binance",
        symbol=symbol,
        trade_id=_integer("trade id", cells[0]),
        price=_positive("price", cells[1]),
        quantity=_positive("quantity", cells[2]),
        side=side,
        timestamp_us=microseconds(_integer("time", cells[layout.time])),
    )


class _KrakenRows:
    """Reads the rows of one Kraken file; knows the row before for ids and sides."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._second = 0
        self._rows_in_second = 0
        self._price: Decimal | None = None
        self._side: Side = "buy"

    def __call__(self, line: _Line) -> Trade:
        cells = line.cells
        if not _SECONDS.fullmatch(cells[0]):
            raise ValueError(f"timestamp is not in seconds since 1970: '{cells[0]}'")
        # Broken rows count too: once they are put right, the others keep their ids.
        trade_id = self._next_id(int(cells[0].split(".")[0]))
        if len(cells) != 3:
            raise ValueError(f"{len(cells)} columns instead of 3")
        price = _positive("price", cells[1])
        quantity = _positive("quantity", cells[2])
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


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{name} is not a whole number: '{text}'")
    return int(text)


def _positive(name: str, text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} is not a positive number: '{text}'")
    number = Decimal(text)
    if number <= 0:
        raise ValueError(f"{name} is not positive: '{text}'")
    return number


@contextmanager
def _lines(path: Path, symbol: str) -> Iterator[Iterator[_Line]]:
    """The rows of a .csv, or of the one in a .zip, without the empty ones."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_member(archive, symbol)) as file:
                yield _numbered(path, io.TextIOWrapper(file, "utf-8-sig", errors="replace"))
        else:
            with path.open(encoding="utf-8-sig", errors="replace") as text:
                yield _numbered(path, text)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"{path}: the zip file is broken, download it again: {error}") from error


def _numbered(path: Path, text: TextIO) -> Iterator[_Line]:
    for number, line in enumerate(text, start=1):
        row = line.rstrip("\r\n")
        if row.strip():
            yield _Line(f"{path}:{number}", row)


def _member(archive: zipfile.ZipFile, symbol: str) -> zipfile.ZipInfo:
    """The only .csv of a zip file, or, of several, the one named after the market."""
    tables = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
    if len(tables) > 1:
        wanted = symbol.replace("/", "").upper() + ".CSV"
        tables = [info for info in tables if info.filename.upper().split("/")[-1] == wanted]
    if len(tables) != 1:
        raise ArchiveError(
            f"{archive.filename}: holds no .csv file that is clearly the one of {symbol}; "
            "unpack it and name the file"
        )
    return tables[0]
