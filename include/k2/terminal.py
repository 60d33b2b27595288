"""What the command line shows: tables, progress, and one line for an error."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

out = Console(soft_wrap=False, highlight=False)
err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """A line about what is being done; on standard error, so that results stay clean."""
    err.print(line, markup=False, soft_wrap=True)


def fail(reason: str) -> None:
    """The one line of an error."""
    err.print(f"error: {' '.join(reason.split())}", style="red", markup=False, soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold")
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        table.add_column(name, justify="right" if rows and numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    console = out if out.is_terminal else Console(width=160, highlight=False)
    console.print(table)


def show_marked(mark: str, style: str, text: str) -> None:
    """A line that begins with a mark, in colour on a terminal."""
    out.print(Text(mark, style=style) + Text(f"  {text}"), soft_wrap=True)


def show_json(value: object) -> None:
    """A value as JSON, for programs."""
    sys.stdout.write(json.dumps(value, default=_plain, indent=2) + "\n")


def every(seconds: float, show: Callable[[str, int, float], None]) -> Callable[..., None]:
    """A progress callback that shows at most one line in so many seconds."""
    last = 0.0

    def progress(name: str, count: int, elapsed: float) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            show(name, count, elapsed)

    return progress


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
