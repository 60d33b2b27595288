"""What parsing the DAG files costs, beside the import of Airflow that any DAG file begins with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from k2.embedded.state import PROJECT
from k2.errors import K2Error

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT: Final = """
import json, sys, time
times = [time.perf_counter()]
import airflow.sdk
times.append(time.perf_counter())
from airflow.dag_processing.dagbag import DagBag
times.append(time.perf_counter())
bag = DagBag(dag_folder=sys.argv[1])
times.append(time.perf_counter())
assert bag.dags and not bag.import_errors, bag.import_errors
print(json.dumps([later - earlier for earlier, later in zip(times, times[1:])]))
"""


class ParsingError(K2Error):
    """The DAG files do not parse."""


@dataclass(frozen=True)
class Parsing:
    """Seconds of a fresh interpreter: importing Airflow's SDK, then its parser, then the files.

    The last are the files' own imports (operators, K2's registry) and their DAGs.
    """

    sdk: float
    parser: float
    files: float


def measure_parsing(folder: Path = PROJECT / "dags", *, repeat: int = 5) -> Parsing:
    """Parse every DAG file of a folder in fresh interpreters; medians.

    Raises:
        ParsingError: a file does not parse.
    """
    with tempfile.TemporaryDirectory() as home:
        runs = [_parse(folder, home) for _ in range(repeat)]
    return Parsing(*(round(median(seconds), 3) for seconds in zip(*runs, strict=True)))


def _parse(folder: Path, home: str) -> list[float]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder)],
        env={**own, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ParsingError(f"the DAG files in {folder} do not parse: {last}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds
