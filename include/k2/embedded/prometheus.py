"""Prometheus and promtool on this machine: for monitoring's tests.

The optional service discoveries are left out, and so are the assets of the web page, which the
module does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.embedded.go import GoModule, built
from k2.embedded.state import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

MODULE: Final = GoModule(
    "Prometheus",
    "github.com/prometheus/prometheus",
    # Of 3.13.5: its module counts differently (https://go.dev/doc/modules/version-numbers).
    "v0.313.5",
    programs=("cmd/prometheus", "cmd/promtool"),
    go="1.26.0",
    tags="remove_all_sd",
)
DIRECTORY: Final = PROJECT / ".k2" / f"prometheus-{MODULE.version}"


@dataclass(frozen=True)
class Programs:
    """The two programs."""

    prometheus: Path
    promtool: Path


def programs(directory: Path = DIRECTORY) -> Programs:
    """The programs, built if they are not there yet.

    Raises:
        GoError: there is no Go, or it cannot build them; the message says why.
    """
    return Programs(*built(MODULE, directory))
