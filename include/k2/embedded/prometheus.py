"""Prometheus and promtool on this machine, built by Go from their source: for monitoring's tests.

They come from the Go module proxy, checked against Go's checksum database. A build takes minutes
and 3 GB of scratch space, so what it made is kept. The optional service discoveries are left out,
and so are the assets of the web page, which the module does not have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.embedded.state import PROJECT
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Of Prometheus 3.13.5: its module counts differently (https://go.dev/doc/modules/version-numbers).
VERSION: Final = "v0.313.5"
DIRECTORY: Final = PROJECT / ".k2" / f"prometheus-{VERSION}"

_MODULE: Final = "github.com/prometheus/prometheus"
_GO_MOD: Final = f"module k2.local/prometheus\n\ngo 1.26.0\n\nrequire {_MODULE} {VERSION}\n"


class PrometheusError(StackError):
    """Prometheus cannot be built."""


@dataclass(frozen=True)
class Programs:
    """The two programs."""

    prometheus: Path
    promtool: Path


def find_go(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Go's program: on PATH, else where https://go.dev/doc/install puts it."""
    found = shutil.which("go", path=environment.get("PATH")) or shutil.which(
        "go", path="/usr/local/go/bin"
    )
    return Path(found) if found else None


def programs(directory: Path = DIRECTORY) -> Programs:
    """The programs, built if they are not there yet.

    Raises:
        PrometheusError: there is no Go, or it cannot build them; the message says why.
    """
    built = Programs(directory / "prometheus", directory / "promtool")
    if not (built.prometheus.exists() and built.promtool.exists()):
        go = find_go()
        if go is None:
            raise PrometheusError("Prometheus is built by Go, which is not there: install Go 1.26")
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
            for path in _build(go, Path(scratch)):
                path.replace(directory / path.name)
    return built


def _build(go: Path, scratch: Path) -> Iterator[Path]:
    (scratch / "go.mod").write_text(_GO_MOD)
    results = scratch / "bin"
    results.mkdir()
    command = [
        str(go),
        "build",
        "-buildvcs=false",
        "-mod=mod",
        "-modcacherw",
        "-tags=remove_all_sd",
        "-trimpath",
    ]
    command += ["-ldflags=-s -w", f"-o={results}{os.sep}"]
    command += [f"{_MODULE}/cmd/prometheus", f"{_MODULE}/cmd/promtool"]
    environment = {
        **os.environ,
        "GOPATH": str(scratch / "path"),
        "GOCACHE": str(scratch / "cache"),
        "GOFLAGS": "",
    }
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("go: download")]
        raise PrometheusError(f"Go cannot build Prometheus {VERSION}: {' '.join(lines)[-500:]}")
    yield from sorted(results.iterdir())
