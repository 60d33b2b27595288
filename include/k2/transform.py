"""Silver and Gold: dbt in a process of its own, so that runs do not share an interpreter.

dbt's programmatic runner is not safe for concurrent calls in one process
(https://docs.getdbt.com/reference/programmatic-invocations).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2.errors import K2Error
from k2.logs import get_logger
from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k2.settings import Settings

# What takes trades in and what reads candles goes first; settling can wait a moment.
_NICE: Final = 10
DBT_PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"


def build_layer(layer: str) -> list[str]:
    """The dbt command that builds and tests a layer, its quality checks included."""
    return ["build", "--select", layer, "--exclude-resource-type", "unit_test"]


class TransformError(K2Error):
    """A dbt command failed. What it finished before stays; running it again is safe."""


def run_dbt(
    arguments: Sequence[str],
    settings: Settings,
    *,
    state: Path,
    on_line: Callable[[str], object] | None = None,
) -> None:
    """Run one dbt command, such as `["build", "--select", "gold"]`, on the project of this bundle.

    Args:
        arguments: the command and its options.
        settings: where ClickHouse is.
        state: directory for dbt's `target` and `logs`; commands that run at the same time need one
            each.
        on_line: is given each line of dbt's output as it comes; without it, standard output is.

    Raises:
        TransformError: a model or a test failed, or dbt could not start. One line.
    """
    logger = get_logger(command=" ".join(arguments))
    started = time.monotonic()
    results = state / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    exit_status, last_line = _stream(
        arguments, dbt_environment(settings, state), on_line or _to_standard_output
    )
    if exit_status != 0:
        reason = _failures(results) or last_line
        raise TransformError(
            f"dbt {' '.join(arguments)} failed: {reason}; its log is {state / 'logs' / 'dbt.log'}"
        )
    logger.info("transformed", seconds=round(time.monotonic() - started, 1))


def run_dbt_here(arguments: Sequence[str]) -> None:
    """Run one dbt command in this process, which must run no other: a task of Airflow.

    Where tasks are forked from a process that has imported dbt, this saves its import, which takes
    about as long as building a layer that has little new.

    Raises:
        TransformError: a model or a test failed, or dbt could not start. One line.
    """
    from dbt.cli.main import dbtRunner

    os.nice(_NICE)
    folder = str(DBT_PROJECT)
    done = dbtRunner().invoke([*arguments, "--project-dir", folder, "--profiles-dir", folder])
    if done.success:
        return
    target = Path(os.environ.get("DBT_TARGET_PATH", "target"))
    reason = str(done.exception or _failures(DBT_PROJECT / target / "run_results.json"))
    raise TransformError(f"dbt {' '.join(arguments)} failed: {' '.join(reason.split())}")


def _stream(
    arguments: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], object]
) -> tuple[int, str]:
    """Run dbt to its end: its exit status and the last thing it said."""
    last_line = "it said nothing"
    with subprocess.Popen(
        ["nice", "-n", str(_NICE), str(Path(sys.executable).parent / "dbt"), *arguments],
        cwd=DBT_PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    ) as process:
        try:
            for line in process.stdout or ():
                last_line = line.strip() or last_line
                on_line(line)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, last_line


def dbt_environment(settings: Settings, state: Path) -> dict[str, str]:
    """The environment of a dbt command: where ClickHouse is, and `state` for what dbt writes."""
    return {
        **os.environ,
        **environment_of(settings),
        "DBT_PROFILES_DIR": str(DBT_PROJECT),
        "DBT_TARGET_PATH": str(state / "target"),
        "DBT_LOG_PATH": str(state / "logs"),
    }


def _failures(results: Path) -> str:
    """The failed models and tests with the first line of their messages; empty if dbt has none."""
    try:
        nodes = json.loads(results.read_text())["results"]
    except (OSError, ValueError, KeyError):
        return ""
    failed = [node for node in nodes if node["status"] in {"error", "fail", "runtime error"}]
    if not failed:
        return ""
    first = failed[0]
    message = " ".join((first["message"] or "no message").split())[:300]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first['unique_id'].split('.')[2]}: {message}{more}"


def _to_standard_output(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
