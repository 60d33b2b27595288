"""The configuration folder with which spark-submit runs on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# One short-lived driver a job: the first compiler and the serial collector start fastest.
_DEFAULTS = """\
spark.driver.extraClassPath {jars}/*
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.timezone=UTC
spark.driver.memory 1g
spark.ui.enabled false
spark.sql.session.timeZone UTC
"""
_LOGGING = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS}{UTC} %p %c{1}: %m%n
"""


def write_configuration(directory: Path, jars: Path) -> None:
    """Write spark-defaults.conf and log4j2.properties."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spark-defaults.conf").write_text(_DEFAULTS.format(jars=jars))
    (directory / "log4j2.properties").write_text(_LOGGING)
