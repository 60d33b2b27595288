"""An embedded ClickHouse with a configuration file, which the embedded stack itself has none of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from k2.embedded.clickhouse import wait_until_ready
from k2.embedded.state import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USERS = PROJECT / "include" / "clickhouse" / "access" / "users.xml"
_SERVER = """
import sys
from chdb import _chdb

connect, configuration = _chdb.connect, sys.argv.pop(1)
_chdb.connect = lambda text: connect(f"{text}&config-file={configuration}")
from k2.embedded.clickhouse.server import main

sys.exit(main())
"""


def start_configured(
    directory: Path,
    configuration: str,
    *,
    port: int,
    password: str,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.Popen[bytes]:
    """Start it on `directory`, with the user k2, and wait until it answers."""
    directory.mkdir(exist_ok=True)
    file, log = directory / "config.xml", directory / "log"
    file.write_text(configuration)
    command = [sys.executable, "-c", _SERVER, str(file), "--user", "k2"]
    command += ["--data", str(directory / "data"), "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**environment, "K2_CLICKHOUSE_PASSWORD": password},
            stdout=output,
            stderr=output,
        )
    wait_until_ready(process, port, log)
    return process


def users_file() -> ET.Element:
    """users.xml, with what the server's own users.xml brings."""
    root = ET.parse(USERS).getroot()
    profiles = root.find("profiles")
    assert profiles is not None
    ET.SubElement(profiles, "default")
    ET.SubElement(ET.SubElement(root, "quotas"), "default")
    return root


def users_with_only(only: str) -> str:
    """users.xml with one user left, under the name as which the engine logs itself in."""
    root = users_file()
    users = root.find("users")
    assert users is not None
    for user in list(users):
        if user.tag != only:
            users.remove(user)
            continue
        user.tag = "default"
        password = user.find("password")
        assert password is not None
        password.attrib.clear()
    return ET.tostring(root, encoding="unicode")
