"""Points at which a driver can be made to die or to wait, to show that an offload survives it.

`K2_FAULT=committed:kill` ends the driver's whole process group there with SIGKILL, as a machine
that dies does. `K2_FAULT=committed:pause:DIRECTORY` writes DIRECTORY/reached and waits until
DIRECTORY/go is there: time to stop a server, or to let another driver take over. Without the
variable a point is one comparison.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from k2.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE: Final = "K2_FAULT"

Point = Literal[
    "claimed",  # the table is claimed, nothing is read yet
    "fenced",  # recovery has fenced older drivers, the leftovers are still there
    "cleared",  # recovery has removed the leftovers
    "recovered",  # PostgreSQL's copy equals Iceberg's token
    "planned",  # the range is known, and not written down
    "intended",  # the intent is written down, no row has moved
    "unloading",  # a group of partitions is written, others may follow
    "unloaded",  # all files are written
    "verified",  # they hold what was planned
    "committing",  # the lease is renewed, the commit is next
    "validating",  # Iceberg asks whether the token is still the same
    "swapping",  # its manifests are written, the table's metadata is not replaced yet
    "committed",  # the rows are in Iceberg, PostgreSQL does not know
    "advanced",  # PostgreSQL knows
    "released",  # the claim is given back
]
POINTS: Final[tuple[Point, ...]] = get_args(Point)
_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Fault:
    """What happens at one point: a kill, or a pause steered by files in `directory`."""

    point: Point
    directory: Path | None

    def strike(self) -> None:
        if self.directory is None:
            os.killpg(os.getpgrp(), signal.SIGKILL)
            return
        (self.directory / "reached").touch()
        while not (self.directory / "go").exists():
            time.sleep(_POLL_SECONDS)


_armed: Fault | None = None


def arm(environment: Mapping[str, str]) -> None:
    """Take the fault of an environment (usually `os.environ`), or none.

    Raises:
        SettingsError: the variable names no such point or action.
    """
    global _armed
    text = environment.get(VARIABLE, "")
    _armed = parse_fault(text) if text else None


def fault(point: Point) -> None:
    """Here the driver dies or waits, if it was started so."""
    if _armed is not None and _armed.point == point:
        _armed.strike()


def parse_fault(text: str) -> Fault:
    """The fault of `POINT:kill` or `POINT:pause:DIRECTORY`.

    Raises:
        SettingsError: there is no such point or action, or the directory is not there.
    """
    name, _, action = text.partition(":")
    for point in POINTS:
        if point == name:
            return Fault(point, _directory(text, action))
    raise SettingsError(f"{VARIABLE} is '{text}'; it must begin with one of {', '.join(POINTS)}")


def _directory(text: str, action: str) -> Path | None:
    if action == "kill":
        return None
    verb, _, directory = action.partition(":")
    if verb != "pause" or not Path(directory).is_dir() or not directory:
        raise SettingsError(
            f"{VARIABLE} is '{text}'; after the point comes ':kill' or ':pause:' and a directory"
        )
    return Path(directory)
