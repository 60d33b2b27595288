"""How spark-submit runs on this machine: its configuration, and an archive of Java's classes.

`python -m k2.embedded.spark CONFIGURATION JARS` writes both into folders.

Most of a short job is the loading of some ten thousand classes. Java can archive them once, as it
has loaded and verified them, and map the archive afterwards (JEP 350, dynamic CDS archives).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.embedded.java import java_home
from k2.embedded.state import HOST
from k2.jobs import REHEARSAL, submit_command
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# One short-lived driver a job: the first compiler and the serial collector start fastest.
_OPTIONS: Final = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.timezone=UTC"
# Spark's own jars come before its configuration folder: Java archives no class of a path that has
# a folder with files in front of it.
_DEFAULTS: Final = """\
spark.driver.extraClassPath {jars}/*:{spark}/jars/*
spark.driver.extraJavaOptions {options}
spark.driver.memory 1g
spark.ui.enabled false
spark.sql.session.timeZone UTC
"""
_LOGGING: Final = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS}{UTC} %p %c{1}: %m%n
"""


def spark_environment(configuration: Path, java: Path) -> dict[str, str]:
    """The variables by which spark-submit finds a configuration, Java and this Python."""
    return {
        "JAVA_HOME": str(java),
        "SPARK_HOME": str(_spark_home()),
        "SPARK_CONF_DIR": str(configuration),
        "SPARK_LOCAL_IP": HOST,
        "PYSPARK_PYTHON": sys.executable,
    }


def configure(
    configuration: Path, jars: Path, java: Path, say: Callable[[str], None] = lambda _: None
) -> None:
    """Write spark-defaults.conf and log4j2.properties; the classes are archived beside the jars.

    Where that fails (the JRE of a wheel has nothing to build on), jobs run all the same, and start
    more slowly.
    """
    archive = jars / f"classes-{_fingerprint(jars, java)}.jsa"
    if not archive.exists():
        say("java's classes are archived (ten seconds, once) ...")
        _archive_classes(archive, jars, java)
    # Of an archive that could not be made there is an empty file, so that it is tried once only.
    usable = archive.stat().st_size > 0
    _write(configuration, jars, f'"-XX:SharedArchiveFile={archive}"' if usable else "")


def _write(configuration: Path, jars: Path, option: str) -> None:
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "spark-defaults.conf").write_text(
        _DEFAULTS.format(jars=jars, spark=_spark_home(), options=f"{_OPTIONS} {option}".rstrip())
    )
    (configuration / "log4j2.properties").write_text(_LOGGING)


def _archive_classes(archive: Path, jars: Path, java: Path) -> None:
    with tempfile.TemporaryDirectory(dir=jars, prefix=".classes-") as directory:
        scratch = Path(directory)
        new = scratch / "classes.jsa"
        _write(scratch / "spark", jars, f'"-XX:ArchiveClassesAtExit={new}"')
        lake = scratch / "lake"
        lake.mkdir()
        done = subprocess.run(
            submit_command(REHEARSAL, str(lake), cores=1),
            env={**_without_k2(os.environ), **spark_environment(scratch / "spark", java)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not new.exists():
            reason = done.stdout.strip().splitlines()[-1:] or ["no reason given"]
            get_logger().warning("classes not archived: jobs start slowly", reason=reason[0])
            new.touch()
        for old in set(jars.glob("classes-*.jsa")) - {archive}:
            old.unlink(missing_ok=True)
        new.replace(archive)


def _without_k2(environment: Mapping[str, str]) -> dict[str, str]:
    """The rehearsal reads the registry that comes with this code, and dies at no fault point."""
    return {name: value for name, value in environment.items() if not name.startswith("K2_")}


def _fingerprint(jars: Path, java: Path) -> str:
    """What Java itself compares before it uses an archive: the very files, and its own build."""
    files = [*sorted(jars.glob("*.jar")), *sorted((_spark_home() / "jars").glob("*.jar"))]
    files.append((java / "bin" / "java").resolve())
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _spark_home() -> Path:
    found = importlib.util.find_spec("pyspark")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


if __name__ == "__main__":
    configure(Path(sys.argv[1]), Path(sys.argv[2]), java_home())
