"""This machine: Python packages, Java, jars, ports, names of files that Python imports."""

from __future__ import annotations

import csv
import importlib.metadata
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.doctor.result import Result, failed, not_checked, ok, warning
from k2.embedded import java
from k2.embedded.jars import JARS, JARS_DIRECTORY, is_right
from k2.embedded.state import DEFAULT_PORTS, PROJECT, choose_port, read_state
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from k2.doctor.surroundings import Surroundings
    from k2.embedded.jars import Jar

# Where Spark's configuration says that the jars are (k2.embedded.spark).
_JARS_OF_SPARK: Final = re.compile(r"^spark\.driver\.extraClassPath\s+([^:\n]+)/\*", re.MULTILINE)


def pyspark(path: Sequence[str]) -> Result:
    """pyspark and pyspark-client, which hold the same files; the provider wants both."""
    spark, client = _distribution("pyspark", path), _distribution("pyspark-client", path)
    if spark is None:
        return failed("pyspark is not installed", "install the requirements")
    fix = (
        "python -m pip install --force-reinstall --no-deps"
        f" pyspark=={spark.version} pyspark-client=={spark.version}"
    )
    if client is not None and client.version != spark.version:
        return failed(
            f"pyspark {spark.version} and pyspark-client {client.version} hold the same files: the "
            "one installed last has overwritten those of the other",
            fix,
        )
    if lost := _lost_files(spark):
        return failed(f"{len(lost)} files of pyspark {spark.version} are missing: {lost[0]}", fix)
    return ok(spark.version if client is None else f"{spark.version}, as pyspark-client")


def _distribution(name: str, path: Sequence[str]) -> importlib.metadata.Distribution | None:
    return next(iter(importlib.metadata.distributions(name=name, path=list(path))), None)


def _lost_files(package: importlib.metadata.Distribution) -> list[str]:
    """What an installer has recorded and is not there; `files` would leave just that out."""
    recorded = [row[0] for row in csv.reader((package.read_text("RECORD") or "").splitlines())]
    return [
        name
        for name in recorded
        if not name.endswith(".pyc") and not Path(str(package.locate_file(name))).exists()
    ]


def java_of_spark(environment: Mapping[str, str]) -> Result:
    """A Java that Spark runs on; and whether it is the one that JAVA_HOME names."""
    try:
        home = java.java_home(environment)
    except java.JavaError as error:
        wanted, _, fix = str(error).partition(": ")
        return failed(f"{wanted}, and there is none", fix)
    found = f"{java.version(home)}, {home}"
    asked = environment.get("JAVA_HOME")
    if asked and Path(asked) != home:
        return warning(
            f"JAVA_HOME is {asked}, which Spark cannot use; used is {found}",
            f"set JAVA_HOME to a Java {java.OLDEST} to {java.NEWEST}, or unset it",
        )
    return ok(found)


def jars_directory(environment: Mapping[str, str]) -> Path:
    """Where Spark finds its jars: where its configuration says, else where a stack fetches them."""
    configuration = environment.get("SPARK_CONF_DIR")
    defaults = Path(configuration or "") / "spark-defaults.conf"
    found = configuration and defaults.exists() and _JARS_OF_SPARK.search(defaults.read_text())
    return Path(found[1]) if found else JARS_DIRECTORY


def jars(directory: Path, wanted: Iterable[Jar] = JARS) -> Result:
    """The jars of Iceberg and of PostgreSQL's driver, byte for byte."""
    wanted = list(wanted)
    wrong = [jar.file_name for jar in wanted if not is_right(jar, directory / jar.file_name)]
    if wrong:
        return failed(
            f"missing or damaged in {directory}: {', '.join(wrong)}",
            f"python -m k2.embedded.jars {directory}; the next start of a stack does it, too",
        )
    return ok(f"{len(wanted)} in {directory}")


def ports(surroundings: Surroundings) -> Result:
    """The ports of the embedded stack: in use by it, or free for its next start."""
    if surroundings.own_services:
        return not_checked("the services are your own")
    if surroundings.owner is not None:
        state = read_state(surroundings.directory)
        assert state is not None
        used = {name: getattr(state, f"{name}_port") for name in DEFAULT_PORTS}
        return ok(", ".join(f"{name} {port}" for name, port in used.items()))
    if left := _left_of_a_killed_run(surroundings.directory):
        return warning(
            f"an earlier run was killed and left {left} running",
            "the next start stops it; or 'k2 down'",
        )
    taken = []
    for service in DEFAULT_PORTS:
        try:
            choose_port(service, surroundings.shell)
        except StackError as error:
            taken.append(str(error))
    if taken:
        found, _, fix = taken[0].partition("; ")
        more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        return failed(f"{found}{more}", fix)
    return ok("free for the next start")


def _left_of_a_killed_run(directory: Path) -> str:
    # The embedded stack's own libraries: a production machine has none of them.
    from k2.embedded import postgres, processes

    left = ["PostgreSQL"] if postgres.is_running(directory / "postgres") else []
    noted = list(processes.left_of_noted(directory))
    return " and ".join([*left, *([f"{len(noted)} processes"] if noted else [])])


def file_names(folders: Sequence[Path], dbt_project: Path, path: Sequence[str]) -> Result:
    """Files that Python would take for another module, or another module for them.

    `folders` are those that Airflow and spark-submit put on the path that Python imports from.
    """
    wrong = [name for folder in folders for name in _wrong_names(folder, path)]
    if (dbt_project / "__init__.py").exists():
        wrong.append(f"{dbt_project.name}/__init__.py is imported by dbt as a plugin")
    if wrong:
        return failed("; ".join(wrong), "give the file another name")
    return ok(", ".join(str(folder.name) for folder in folders))


def _wrong_names(folder: Path, path: Sequence[str]) -> Iterator[str]:
    others = [entry for entry in path if Path(entry).resolve() != folder.resolve()]
    files = [*folder.glob("*.py"), *(init.parent for init in folder.glob("*/__init__.py"))]
    for file in sorted(files):
        label = f"{folder.name}/{file.name}"
        # https://docs.getdbt.com: every top-level module of such a name is taken for a plugin.
        if file.stem.startswith("dbt_"):
            yield f"{label} is imported by dbt as a plugin"
        elif file.stem in sys.stdlib_module_names:
            yield f"{label} has the name of a module of Python"
        elif PathFinder.find_spec(file.stem, others) is not None:
            yield f"{label} has the name of a module that is installed"


def import_folders(environment: Mapping[str, str]) -> list[Path]:
    """The folders whose files are imported by their names: DAGs, plugins, jobs of Spark."""
    dags = environment.get("AIRFLOW__CORE__DAGS_FOLDER")
    plugins = environment.get("AIRFLOW__CORE__PLUGINS_FOLDER")
    return [
        Path(dags or PROJECT / "dags"),
        Path(plugins or PROJECT / "plugins"),
        Path(__file__).resolve().parents[1] / "jobs",
    ]
