"""What `--trades EXCHANGE:MARKET=PATH` names: an archive file, and the messages it becomes."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from k2.errors import IngestError
from k2.ingest.archives import BadRow, read_archive
from k2.ingest.messages import Message, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.registry import Registry

# Quote assets of Kraken's archive files, whose names join both assets.
_JOINED_ASSETS = re.compile(
    r"(?P<base>\w+?)"
    r"(?P<quote>USDT|USDC|USDG|PYUSD|DAI|USD|EUR|GBP|CAD|AUD|CHF|JPY|XBT|BTC|ETH|SOL|DOT)"
)
# Kraken's archive keeps old asset names that its WebSocket API v2 has left behind.
_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}
_ARGUMENT = re.compile(r"(?P<exchange>[^:=]+):(?P<symbol>[^:=]+)=(?P<path>.+)")
_JOINED = re.compile(r"\w{2,40}")
_SLASHED = re.compile(r"\w{1,32}/\w{1,32}")


@dataclass(frozen=True)
class TradesFile:
    """An archive file and the market whose trades it holds, as the exchange's messages write it."""

    exchange: str
    symbol: str
    path: Path


def parse_trades_argument(text: str, registry: Registry) -> TradesFile:
    """The file that an argument such as `binance:XRPETH=trades.csv` names.

    Raises:
        IngestError: wrong syntax, a market that cannot be told, or no such file.
        RegistryError: an exchange that is not in the registry.
    """
    found = _ARGUMENT.fullmatch(text)
    if found is None:
        raise IngestError(
            f"'{text}' is not EXCHANGE:MARKET=PATH; an example: binance:XRPETH=trades.csv"
        )
    exchange = registry.exchange(found["exchange"])
    symbol = found["symbol"].upper()
    if exchange.symbol_rule == "slashed":
        symbol = _slashed(symbol)
    elif not _JOINED.fullmatch(symbol):
        raise IngestError(f"'{symbol}' is not a market of {exchange.name}, such as XRPETH")
    path = Path(found["path"]).expanduser()
    if not path.is_file():
        raise IngestError(f"{path}: no such file")
    return TradesFile(exchange.name, symbol, path)


def archive_messages(file: TradesFile, *, skip_bad: bool = False) -> Iterator[Message | BadRow]:
    """The messages of a file's trades; with `skip_bad` its broken rows in between.

    Raises:
        ArchiveError: unknown format, unreadable file or, without `skip_bad`, a broken row.
    """
    # The ids of Kraken's archive are derived, not those of its live messages: a time that is fed
    # from both has its trades twice.
    bad: deque[BadRow] = deque()
    trades = read_archive(file.exchange, file.symbol, file.path, bad.append if skip_bad else None)
    for message in messages(file.exchange, trades):
        while bad:
            yield bad.popleft()
        yield message
    yield from bad


def _slashed(symbol: str) -> str:
    """BCHEUR or BCH/EUR as BCH/EUR, in the asset names of today."""
    if "/" not in symbol:
        found = _JOINED_ASSETS.fullmatch(symbol)
        if found is None:
            raise IngestError(
                f"the quote currency of '{symbol}' is unknown; write the market as BASE/QUOTE"
            )
        symbol = f"{found['base']}/{found['quote']}"
    if not _SLASHED.fullmatch(symbol):
        raise IngestError(f"'{symbol}' is not a market, such as BCH/EUR")
    return "/".join(_RENAMED.get(asset, asset) for asset in symbol.split("/"))
