"""The page of benchmarks: a section for each, made anew by its command, the others left alone.

Every section names the machine and the time of its measurement.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from k2.terminal import say

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

_BEGIN: Final = "<!-- made by {command} -->"
_END: Final = "<!-- end of {command} -->"
_MEASURED: Final = "Measured "


def measurement(when: dt.datetime) -> dict[str, Any]:
    """The head of a measurement that begins now (UTC).

    The command as it was given, the machine, and how busy it was before.
    """
    return {
        "measured_at": f"{when:%Y-%m-%d %H:%M} UTC",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": (
                f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
            ),
            "load_before": round(os.getloadavg()[0], 1),
        },
    }


def where(measured: dict[str, Any]) -> str:
    """A sentence on time, command and machine of a measurement."""
    here = measured["machine"]
    return (
        f"{_MEASURED}{measured['measured_at']} by `{measured['command']}` on {here['cores']} cores "
        f"of {here['cpu']}, "
        f"{here['memory_gb']} GB, {here['system']}; load average before: {here['load_before']}."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """The lines of a Markdown table of figures."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---:|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join('-' if value is None else str(value) for value in row)} |"


def write_section(output: Path, command: str, lines: Iterable[str]) -> None:
    """Put a command's section into the page beside a directory of results, `{output}.md`.

    A section that was there, perhaps of a longer run, is replaced, and it is said what is gone.
    """
    page = output.with_name(f"{output.name}.md")
    begin, end = _BEGIN.format(command=command), _END.format(command=command)
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    before, found, rest = text.partition(begin)
    old, closed, after = rest.partition(end)
    for was in re.findall(rf"^{_MEASURED}.*$", old, re.MULTILINE):
        say(f"{page.name}: the section of '{command}' is made anew; the one before was: {was}")
    if not (found and closed):
        before, after = text.rstrip("\n") + "\n\n", "\n"
    section = "\n".join(lines)
    page.write_text(f"{before}{begin}\n{section}\n{end}{after}")


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a measurement as JSON, into a directory that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
