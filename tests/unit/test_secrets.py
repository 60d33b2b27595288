"""The scan for secrets finds one, and takes a line's word that it is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCAN = Path(__file__).resolve().parents[2] / ".ci" / "secrets"
# Put together here, so that the scan of this file finds nothing.
SECRETS = (
    "aws_key = '" + "AKIA" + "IOSFODNN7" + "EXAMPLQ'",
    "pass" + "word: '" + "kR4tVq9wLz'",
    "-----BEGIN " + "RSA PRIVATE KEY-----",
    "url = 'postgresql://k2:" + "kR4tVq9wLz@postgres/k2'",
)


def scan(file: Path) -> int:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCAN, file], env=environment, capture_output=True).returncode


@pytest.mark.parametrize("secret", SECRETS, ids=["key", "password", "private key", "address"])
def test_a_secret_is_found(secret: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text(f"{secret}\n")
    assert scan(file) == 1
    file.write_text(f"{secret}  # pragma: allowlist secret\n")
    assert scan(file) == 0
