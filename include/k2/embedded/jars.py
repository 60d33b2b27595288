"""The jars Spark needs for Iceberg, from Maven Central: `python -m k2.embedded.jars DIR`.

Ivy, which comes with pyspark, fetches them. Each jar has its SHA-256 pinned here; a jar that is
there and right is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.embedded.java import java_home
from k2.embedded.state import PROJECT
from k2.errors import K2Error, StackError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2.settings import Lake

# Stacks come and go with their state; what they fetch is the same for all of them, but for those
# with a lake on object storage: Java's archive of classes is for one set of jars.
JARS_DIRECTORY: Final = PROJECT / ".k2" / "jars"
OBJECT_STORE_JARS_DIRECTORY: Final = PROJECT / ".k2" / "jars-object-store"


class JarError(StackError):
    """A jar cannot be fetched, or is not the one it should be."""


@dataclass(frozen=True)
class Jar:
    """A jar by its Maven coordinates, with the SHA-256 of the file."""

    organization: str
    name: str
    version: str
    sha256: str
    classifier: str = ""

    @property
    def file_name(self) -> str:
        """The name Maven gives to the file."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{classifier}.jar"


JARS: Final = (
    Jar(
        "org.apache.iceberg",
        "iceberg-spark-runtime-4.1_2.13",
        "1.12.0",
        # pragma: allowlist nextline secret
        "3123c3798af642dd537230923548e013ef41cc28b6626e5225808cf5670a0f82",
    ),
    Jar(
        "org.postgresql",
        "postgresql",
        "42.7.8",
        # pragma: allowlist nextline secret
        "2a32a9dcbc42d67a50ad3a0de5efd102c8d2be46720045f2cbd6689f160ab7c7",
    ),
)

# AWS's SDK, for Iceberg's S3FileIO: 69 MB that nothing else needs.
OBJECT_STORE_JARS: Final = (
    *JARS,
    Jar(
        "org.apache.iceberg",
        "iceberg-aws-bundle",
        "1.12.0",
        # pragma: allowlist nextline secret
        "dd7e49ffa4ac9b215bed846581991259e3aec9bb2fa08d6cec029c46cd66d957",
    ),
)


def fetch(directory: Path, java: Path, jars: Iterable[Jar] = JARS) -> list[Path]:
    """Make sure that `directory` holds the jars, and return their paths. `java` is a Java home.

    A jar appears under its name only when it is whole and right. Raises JarError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = {jar: directory / jar.file_name for jar in jars}
    missing = [jar for jar, path in paths.items() if not is_right(jar, path)]
    if missing:
        _fetch(missing, directory, java)
    return list(paths.values())


def fetch_for(lake: Lake, java: Path) -> Path:
    """The folder with the jars that Spark needs for a lake, fetched where they are missing.

    Raises:
        JarError: a jar cannot be fetched.
    """
    if lake.store is None:
        fetch(JARS_DIRECTORY, java)
        return JARS_DIRECTORY
    fetch(OBJECT_STORE_JARS_DIRECTORY, java, OBJECT_STORE_JARS)
    return OBJECT_STORE_JARS_DIRECTORY


def read_jars(path: Path) -> tuple[Jar, ...]:
    """The jars of a list with a line each: organization:name:version, then the SHA-256."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return tuple(Jar(*line.replace(" ", ":").split(":")) for line in lines)


def is_right(jar: Jar, path: Path) -> bool:
    """Whether a file is this jar, whole."""
    return path.exists() and _sha256(path) == jar.sha256


def _fetch(jars: list[Jar], directory: Path, java: Path) -> None:
    """Fetch them with one run of Ivy, which reads what to fetch from a module file."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        module = Path(scratch) / "ivy.xml"
        module.write_text(_module(jars))
        command = [str(java / "bin" / "java"), "-jar", str(_ivy()), "-error"]
        command += ["-cache", f"{scratch}/cache", "-ivy", str(module)]
        command += ["-types", "jar", "bundle", "-confs", "default"]
        command += ["-retrieve", f"{scratch}/[artifact]-[revision](-[classifier]).[ext]"]
        subprocess.run(command, capture_output=True, check=False)
        for jar in jars:
            _put_in_place(jar, Path(scratch) / jar.file_name, directory)


def _module(jars: list[Jar]) -> str:
    """An Ivy file (https://ant.apache.org/ivy/history/2.5.3/ivyfile.html) that asks for jars."""
    dependencies = "\n".join(
        f'<dependency org="{jar.organization}" name="{jar.name}" rev="{jar.version}"'
        f' transitive="false">{_artifact(jar)}</dependency>'
        for jar in jars
    )
    return (
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">\n'
        '<info organisation="k2" module="jars"/>\n'
        f"<dependencies>\n{dependencies}\n</dependencies></ivy-module>\n"
    )


def _artifact(jar: Jar) -> str:
    """What to ask for where a module has several jars."""
    if not jar.classifier:
        return ""
    return f'<artifact name="{jar.name}" type="jar" ext="jar" m:classifier="{jar.classifier}"/>'


def _put_in_place(jar: Jar, fetched: Path, directory: Path) -> None:
    if not fetched.exists():
        raise JarError(
            f"Maven Central did not give {jar.organization}:{jar.name}:{jar.version}: "
            f"check the network, or put {jar.file_name} into {directory} yourself."
        )
    found = _sha256(fetched)
    if found != jar.sha256:
        raise JarError(f"{jar.file_name} has SHA-256 {found}, not {jar.sha256}: not used.")
    fetched.replace(directory / jar.file_name)


def _ivy() -> Path:
    spark = importlib.util.find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise JarError("Ivy comes with pyspark, which is not installed: install the requirements.")
    found = sorted((Path(spark.origin).parent / "jars").glob("ivy-*.jar"))
    if not found:
        raise JarError(
            "pyspark holds no ivy jar: pyspark-client overwrote it. Reinstall pyspark of the "
            "same version."
        )
    return found[-1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command line: fetch the jars and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m k2.embedded.jars", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lake", default="", help="where the lake is: s3:// needs one jar more")
    options = parser.parse_args(arguments)
    try:
        jars = OBJECT_STORE_JARS if options.lake.startswith("s3://") else JARS
        for path in fetch(options.directory, java_home(), jars):
            sys.stdout.write(f"{path}\n")
    except K2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
