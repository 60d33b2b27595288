"""versitygw on this machine: an S3 server in front of a folder, whose folders are its buckets.

For the tests of the lake on object storage (https://github.com/versity/versitygw).
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

from k2.embedded.go import GoModule, built
from k2.embedded.state import HOST, PROJECT

if TYPE_CHECKING:
    from pathlib import Path

# The version of docker-compose.yaml.
MODULE: Final = GoModule(
    "versitygw",
    "github.com/versity/versitygw",
    "v1.8.0",
    programs=("cmd/versitygw",),
    go="1.26.0",
)
DIRECTORY: Final = PROJECT / ".k2" / f"versitygw-{MODULE.version}"


def program(directory: Path = DIRECTORY) -> Path:
    """The program, built if it is not there yet.

    Raises:
        GoError: there is no Go, or it cannot build it; the message says why.
    """
    (path,) = built(MODULE, directory)
    return path


def start(
    path: Path, data: Path, log: Path, port: int, *, region: str, key: str, secret: str
) -> subprocess.Popen[bytes]:
    """Serve the buckets below `data` on 127.0.0.1:`port`, to one account with this key."""
    command = [str(path), "--port", f"{HOST}:{port}", "--region", region, "--quiet"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "posix", str(data)],
            env={**os.environ, "ROOT_ACCESS_KEY_ID": key, "ROOT_SECRET_ACCESS_KEY": secret},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
