"""Airflow's REST API, as far as K2 uses it: trigger the DAG and follow its run."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FINISHED = frozenset({"success", "failed"})
SHOWN = FINISHED | {"running", "up_for_retry", "upstream_failed", "skipped"}


@dataclass(frozen=True)
class TaskState:
    """One task instance of a run; a mapped one has an index, and a label once it has begun.

    `started` and `ended` are UTC; None while it has not.
    """

    task: str
    index: int
    label: str
    state: str
    seconds: float | None
    started: dt.datetime | None = None
    ended: dt.datetime | None = None


@dataclass(frozen=True)
class Airflow:
    """A logged-in client of one Airflow."""

    client: httpx.Client

    def version(self) -> str:
        """Airflow's version."""
        return str(self._call("GET", "version")["version"])

    def unpause(self, dag: str) -> None:
        """Let the scheduler run a DAG. Raises StackError when there is no such DAG."""
        self._call("PATCH", f"dags/{dag}", {"is_paused": False})

    def trigger(self, dag: str) -> str:
        """Ask for a run; its id."""
        return str(self._call("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def run_state(self, dag: str, run: str) -> str:
        """The state of a run: queued, running, success or failed."""
        return str(self._call("GET", f"dags/{dag}/dagRuns/{run}")["state"])

    def run_times(self, dag: str, run: str) -> tuple[dt.datetime, dt.datetime]:
        """Start and end, UTC, of a run that has ended."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}")
        return (
            dt.datetime.fromisoformat(answer["start_date"]),
            dt.datetime.fromisoformat(answer["end_date"]),
        )

    def tasks(self, dag: str, run: str) -> list[TaskState]:
        """The task instances of a run."""
        answer = self._call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances?limit=200")
        return [
            TaskState(
                task=item["task_id"],
                index=item["map_index"],
                label=item.get("rendered_map_index") or "",
                state=item["state"] or "waiting",
                seconds=item["duration"],
                started=_time(item["start_date"]),
                ended=_time(item["end_date"]),
            )
            for item in answer["task_instances"]
        ]

    def clear(self, dag: str, run: str) -> None:
        """Clear every task of a run: the scheduler runs them all again."""
        body = {"dag_run_id": run, "dry_run": False, "only_failed": False, "reset_dag_runs": True}
        self._call("POST", f"dags/{dag}/clearTaskInstances", body)

    def has_dag(self, dag: str) -> bool:
        """Whether the DAG has been parsed."""
        return self.client.get(f"/api/v2/dags/{dag}").status_code == httpx.codes.OK

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self.client.request(method, f"/api/v2/{path}", json=body)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise StackError(f"Airflow refused {method} {path}: {error}") from error
        answer: dict[str, Any] = response.json()
        return answer


def login(address: str, user: str, password: str) -> Airflow:
    """A client with a token of its own.

    Raises:
        StackError: Airflow does not answer or refuses the login.
    """
    client = httpx.Client(base_url=address, timeout=30)
    try:
        response = client.post("/auth/token", json={"username": user, "password": password})
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise StackError(f"Airflow at {address} cannot be used: {error}") from error
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
    return Airflow(client)


def follow(
    airflow: Airflow,
    dag: str,
    run: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    interval: float = 1.0,
) -> Iterator[TaskState]:
    """Every task that begins or ends, as it happens, until the run has ended.

    The last item is the run itself: its task is empty.
    """
    seen: dict[tuple[str, int], str] = {}
    while True:
        state = airflow.run_state(dag, run)
        for task in airflow.tasks(dag, run):
            key = (task.task, task.index)
            # A mapped task that begins has only its index for a label, for a moment.
            nameless = task.index >= 0 and task.label in ("", str(task.index))
            if task.state in SHOWN and seen.get(key) != task.state and not nameless:
                seen[key] = task.state
                yield task
        if state in FINISHED:
            yield TaskState("", -1, "", state, None)
            return
        sleep(interval)


def _time(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text)
