"""Programs that tests need and that Go builds from their source.

They come from the Go module proxy, checked against Go's checksum database. A build takes minutes
and gigabytes of scratch space, so what it made is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GO_MOD = "module k2.local/programs\n\ngo {go}\n\nrequire {module} {version}\n"


class GoError(StackError):
    """A program cannot be built."""


@dataclass(frozen=True)
class GoModule:
    """Programs of one module at one version. `go`: the Go that it needs, `programs` by path."""

    name: str
    module: str
    version: str
    programs: tuple[str, ...]
    go: str
    tags: str = ""


def find_go(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Go's program: on PATH, else where https://go.dev/doc/install puts it."""
    found = shutil.which("go", path=environment.get("PATH")) or shutil.which(
        "go", path="/usr/local/go/bin"
    )
    return Path(found) if found else None


def built(module: GoModule, directory: Path) -> tuple[Path, ...]:
    """The programs of a module in `directory`, built if they are not there yet.

    Raises:
        GoError: there is no Go, or it cannot build them; the message says why.
    """
    programs = tuple(directory / path.rsplit("/", 1)[1] for path in module.programs)
    if not all(program.exists() for program in programs):
        go = find_go()
        if go is None:
            raise GoError(
                f"{module.name} is built by Go, which is not there: "
                f"install Go {module.go.removesuffix('.0')}"
            )
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
            for path in _build(module, go, Path(scratch)):
                path.replace(directory / path.name)
    return programs


def _build(module: GoModule, go: Path, scratch: Path) -> Iterator[Path]:
    (scratch / "go.mod").write_text(
        _GO_MOD.format(go=module.go, module=module.module, version=module.version)
    )
    results = scratch / "bin"
    results.mkdir()
    command = [str(go), "build", "-buildvcs=false", "-mod=mod", "-modcacherw", "-trimpath"]
    command += [f"-tags={module.tags}", "-ldflags=-s -w", f"-o={results}{os.sep}"]
    command += [f"{module.module}/{program}" for program in module.programs]
    environment = {
        **os.environ,
        "GOPATH": str(scratch / "path"),
        "GOCACHE": str(scratch / "cache"),
        "GOFLAGS": "",
    }
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("go: download")]
        raise GoError(f"Go cannot build {module.name} {module.version}: {' '.join(lines)[-500:]}")
    yield from sorted(results.iterdir())
