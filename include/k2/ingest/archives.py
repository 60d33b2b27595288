"""Trades from the files in which the exchanges publish their history.

`archive_binance` and `archive_kraken` know the formats, `archive_files` opens a .csv or .zip. A
file is read row by row, so its size does not matter.
"""

from __future__ import annotations

import re
from itertools import chain, islice
from typing import TYPE_CHECKING

from k2.ingest import archive_binance, archive_kraken
from k2.ingest.archive_files import ArchiveError, BadRow, Line, open_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from k2.ingest.trade import Trade

__all__ = ["FORMATS", "ArchiveError", "BadRow", "read_archive"]

FORMATS = f"{archive_binance.FORMATS}, {archive_kraken.FORMATS}"

# A file whose first rows fit no format at all is not an archive with a broken row.
_ROWS_THAT_TELL_THE_FORMAT = 100

_HEADER = re.compile(r"[a-z_]+(,[a-z_]+){2,}", re.IGNORECASE)
_FORMATS_OF = {"binance": archive_binance.binance_rows, "kraken": archive_kraken.kraken_rows}


def read_archive(
    exchange: str,
    symbol: str,
    path: Path,
    on_bad: Callable[[BadRow], None] | None = None,
) -> Iterator[Trade]:
    """The trades of an archive file, in its order.

    The first row that fits a format of the exchange decides it; rows before it are broken ones.
    Kraken's archive has no trade ids: they are derived (see `archive_kraken`) and differ from those
    of its live messages, so feeding both for the same time counts its trades twice.

    Args:
        symbol: the market as the exchange's messages write it (XRPETH, BCH/EUR).
        on_bad: takes a broken row, and reading goes on; without it a broken row is an error.

    Raises:
        ArchiveError: unknown format, unreadable file, or a broken row; it names file and line.
    """
    with open_archive(path, symbol) as lines:
        first = next(lines, None)
        if first is None:
            raise ArchiveError(f"{path}: the file is empty; formats known: {FORMATS}")
        if not _HEADER.fullmatch(first.text.replace(" ", "")):
            lines = chain([first], lines)
        head = list(islice(lines, _ROWS_THAT_TELL_THE_FORMAT))
        if head:
            parse = _parser(exchange, symbol, head)
            yield from _parsed(parse, chain(head, lines), symbol, on_bad)


def _parser(exchange: str, symbol: str, head: list[Line]) -> Callable[[Sequence[str]], Trade]:
    """What reads the rows of this file, by the first row that fits."""
    rows_of = _FORMATS_OF.get(exchange)
    if rows_of is not None:
        for line in head:
            parse = rows_of(symbol, line.cells)
            if parse is not None:
                return parse
    first = head[0]
    raise ArchiveError(
        f"{first.place}: this is no archive of {exchange} that K2 knows ({len(first.cells)} "
        f"columns: {first.text[:80]}); formats known: {FORMATS}"
    )


def _parsed(
    parse: Callable[[Sequence[str]], Trade],
    lines: Iterator[Line],
    symbol: str,
    on_bad: Callable[[BadRow], None] | None,
) -> Iterator[Trade]:
    for line in lines:
        try:
            trade = parse(line.cells)
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
