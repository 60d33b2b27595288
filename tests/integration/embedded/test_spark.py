"""The archive of Java's classes: jobs use it, and run without it where Java cannot make one."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from k2.embedded.jars import JARS_DIRECTORY, fetch
from k2.embedded.java import java_home
from k2.embedded.spark import configure, spark_environment
from k2.jobs import REHEARSAL, submit_command

if TYPE_CHECKING:
    from pathlib import Path

# A Java like the JRE of a wheel: without the archive of the JDK's own classes there is no other.
POOR_JAVA = """\
#!/bin/sh
echo "$@" >> {asked}
case "$*" in *ArchiveClassesAtExit*) echo "no base archive" >&2; exit 1;; esac
exec {java} "$@"
"""


@pytest.fixture(scope="module")
def jars() -> Path:
    fetch(JARS_DIRECTORY, java_home())
    return JARS_DIRECTORY


def test_a_job_loads_the_classes_of_iceberg_from_the_archive(jars: Path, tmp_path: Path) -> None:
    configure(tmp_path / "spark", jars, java_home())
    lake = tmp_path / "lake"
    lake.mkdir()
    subprocess.run(
        submit_command(REHEARSAL, str(lake), cores=1),
        env=os.environ
        | spark_environment(tmp_path / "spark", java_home())
        | {"JDK_JAVA_OPTIONS": f"-Xlog:class+load:file={tmp_path}/classes.%p"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    loaded = "".join(log.read_text() for log in tmp_path.glob("classes.*"))
    of_iceberg = [line for line in loaded.splitlines() if " org.apache.iceberg.Base" in line]
    assert of_iceberg
    assert all("source: shared objects file" in line for line in of_iceberg)


def test_without_an_archive_jobs_run_all_the_same_and_it_is_tried_once(
    jars: Path, tmp_path: Path
) -> None:
    asked, folder = tmp_path / "asked", tmp_path / "jars"
    program = tmp_path / "jre" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(POOR_JAVA.format(asked=asked, java=java_home() / "bin" / "java"))
    program.chmod(0o755)
    folder.mkdir()
    for jar in jars.glob("*.jar"):
        (folder / jar.name).symlink_to(jar)
    for _ in range(2):
        configure(tmp_path / "spark", folder, tmp_path / "jre")
    assert asked.read_text().count("ArchiveClassesAtExit") == 1
    assert "SharedArchiveFile" not in (tmp_path / "spark" / "spark-defaults.conf").read_text()
    (folder / "one-more.jar").touch()
    configure(tmp_path / "spark", folder, tmp_path / "jre")
    assert asked.read_text().count("ArchiveClassesAtExit") == 2
    assert len(list(folder.glob("classes-*"))) == 1
