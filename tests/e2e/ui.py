"""Somebody at Airflow's UI: the requests that its buttons and pages make."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.airflow_client import Airflow

RUNS = "/api/v2/dags/medallion/dagRuns"
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Task:
    """A task of the DAG, of one table where it is mapped over tables."""

    name: str
    table: str = ""

    @property
    def index(self) -> int:
        """Its place among the tables of its layer."""
        if not self.table:
            return -1
        layer = registry().layer(registry().table(self.table).layer)
        return [table.name for table in layer].index(self.table)


@dataclass(frozen=True)
class Seen:
    """What the grid shows of a task: its state and the number of its attempts."""

    state: str | None
    attempts: int


@dataclass(frozen=True)
class Ui:
    """The pages of the DAG `medallion`."""

    airflow: Airflow

    def run(self) -> str:
        """Trigger a run; its id."""
        return self.airflow.trigger("medallion")

    def wait_for_run(self, run: str) -> str:
        """The state in which a run ends."""
        wait_until(lambda: self._run_state(run) in ENDED, f"{run} has ended")
        return self._run_state(run)

    def wait_for(self, run: str, task: Task, *states: str) -> None:
        wait_until(lambda: self.see(run, task).state in states, f"{task} is {' or '.join(states)}")

    def see(self, run: str, task: Task) -> Seen:
        answer = self._ask("GET", f"{run}/taskInstances?limit=200")["task_instances"]
        (found,) = (
            Seen(one["state"], one["try_number"])
            for one in answer
            if (one["task_id"], one["map_index"]) == (task.name, task.index)
        )
        return found

    def states(self, run: str, name: str) -> set[str | None]:
        """The states of all that a task was mapped to."""
        answer = self._ask("GET", f"{run}/taskInstances?limit=200")["task_instances"]
        return {one["state"] for one in answer if one["task_id"] == name}

    def mark(self, run: str, task: Task, state: str) -> None:
        """Mark a task as success or failed; a mapped one without a table, for all tables."""
        place = f"/{task.index}" if task.table else ""
        self._ask("PATCH", f"{run}/taskInstances/{task.name}{place}", {"new_state": state})

    def clear(self, run: str, *tasks: Task) -> None:
        """Clear tasks alone, without what follows them."""
        body = {
            "dag_run_id": run,
            "task_ids": [(one.name, one.index) if one.table else one.name for one in tasks],
            "dry_run": False,
            "only_failed": False,
        }
        self._ask("POST", "../clearTaskInstances", body)

    def log(self, run: str, task: Task, attempt: int) -> str:
        """The log of one attempt."""
        place = f"{run}/taskInstances/{task.name}/logs/{attempt}?map_index={task.index}"
        return str(self._ask("GET", place)["content"])

    def _run_state(self, run: str) -> str:
        return self.airflow.run_state("medallion", run)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self.airflow.client.request(method, f"{RUNS}/{path}", json=body)
        assert response.is_success, response.text
        answer: dict[str, Any] = response.json()
        return answer


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 600) -> None:
    """Poll until a condition holds; after so many seconds the test fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
