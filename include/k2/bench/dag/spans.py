"""When tasks of a DAG run ran, and what its seconds were spent on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BETWEEN: Final = "between tasks"


@dataclass(frozen=True)
class Task:
    """A task instance of a run: when it began and ended, in seconds since the run began."""

    name: str
    label: str
    began: float
    ended: float

    @property
    def kind(self) -> str:
        """Its name without the layer: dbt, offload, audit or retention."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG: `rows` in Iceberg afterwards, over all tables; seconds from start to end."""

    way: str
    rows: int
    seconds: float
    tasks: tuple[Task, ...]


def breakdown(run: DagRun) -> dict[str, float]:
    """The seconds in which tasks of each kind ran, and those in which none did.

    Tasks that ran at the same time are counted once; no two kinds do.
    """
    kinds = dict.fromkeys(task.kind for task in sorted(run.tasks, key=lambda task: task.began))
    spent = {kind: covered(task for task in run.tasks if task.kind == kind) for kind in kinds}
    return {**spent, BETWEEN: run.seconds - covered(run.tasks)}


def covered(tasks: Iterable[Task]) -> float:
    """The seconds in which at least one of the tasks ran."""
    seconds, reached = 0.0, float("-inf")
    for task in sorted(tasks, key=lambda task: task.began):
        seconds += max(0.0, task.ended - max(task.began, reached))
        reached = max(reached, task.ended)
    return seconds


def median_run(runs: Sequence[DagRun]) -> DagRun:
    """The run of median seconds; of an even number, the faster of the middle two."""
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
