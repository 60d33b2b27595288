"""Opening archive files, .csv or .zip, row by row; what every format shares."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_INTEGER = re.compile(r"\d{1,18}", re.ASCII)


class ArchiveError(IngestError):
    """An archive cannot be read, or one of its rows is broken."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no trade, as it stands in the file, and what is wrong with it."""

    symbol: str
    text: str
    reason: str


@dataclass(frozen=True)
class Line:
    """A row of a file: its text, and where it stands."""

    place: str
    text: str

    @property
    def cells(self) -> list[str]:
        return [cell.strip() for cell in self.text.split(",")]


@contextmanager
def open_archive(path: Path, symbol: str) -> Iterator[Iterator[Line]]:
    """The rows of a .csv, or of the one in a .zip, without the empty ones.

    Raises:
        ArchiveError: the file cannot be read, or which .csv of a .zip is meant cannot be told.
    """
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


def integer(name: str, text: str) -> int:
    """A whole number of at most 18 digits.

    Raises:
        ValueError: it is none; the message says `name`.
    """
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{name} is not a whole number: '{text}'")
    return int(text)


def positive(name: str, text: str) -> Decimal:
    """A plain decimal number above zero, every digit kept.

    Raises:
        ValueError: it is none; the message says `name`.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} is not a positive number: '{text}'")
    number = Decimal(text)
    if number <= 0:
        raise ValueError(f"{name} is not positive: '{text}'")
    return number


def _numbered(path: Path, text: TextIO) -> Iterator[Line]:
    for number, line in enumerate(text, start=1):
        row = line.rstrip("\r\n")
        if row.strip():
            yield Line(f"{path}:{number}", row)


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
