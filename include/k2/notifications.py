"""Airflow calls these when a task has failed for good or a run is late: a line of log, a webhook.

DAG files import this, so nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from k2.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk.definitions.deadline import DeadlineAlert

WEBHOOK: Final = "K2_ALERT_WEBHOOK"
DEADLINE: Final = "K2_DEADLINE_MINUTES"
_POST_SECONDS: Final = 10.0


def task_failed(context: Mapping[str, Any]) -> None:
    """Tell of a task that is not tried again: callback `on_failure_callback` of a task."""
    task = context["ti"]
    label = getattr(task, "rendered_map_index", None)
    name = f"{task.dag_id} {task.task_id}" + (f" {label}" if label else "")
    reason = " ".join(str(context.get("exception") or "it was ended from outside").split())
    _tell(
        f"{name} failed: {reason}",
        {
            "event": "task failed",
            "dag": task.dag_id,
            "task": task.task_id,
            "label": label,
            "run": task.run_id,
            "attempt": task.try_number,
            "reason": reason,
        },
    )


def run_late(context: Mapping[str, Any]) -> None:
    """Tell of a run that has not ended by its deadline: callback of a deadline alert."""
    run = context["dag_run"]
    _tell(
        f"{run['dag_id']} is late: its run {run['dag_run_id']} has not ended",
        {"event": "run late", "dag": run["dag_id"], "run": run["dag_run_id"]},
    )


def run_deadline(environment: Mapping[str, str]) -> DeadlineAlert | None:
    """The deadline alert of a run, where K2_DEADLINE_MINUTES names one; Airflow's are experimental.

    Raises:
        SettingsError: it is not a number of minutes.
    """
    text = environment.get(DEADLINE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise SettingsError(f"{DEADLINE} is '{text}'; it must be a number of minutes")
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=dt.timedelta(minutes=int(text)),
        callback=SyncCallback(run_late),
    )


def _tell(text: str, facts: Mapping[str, Any]) -> None:
    """Log the facts, and post them as JSON, with a text as chat services show it."""
    from k2.logs import get_logger

    log = get_logger(**{name: value for name, value in facts.items() if name != "event"})
    log.error(facts["event"])
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    import httpx

    # The address of a chat service's webhook is a secret: no log tells it, that of httpx neither.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        answer = httpx.post(address, json={"text": text, **facts}, timeout=_POST_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        log.warning("webhook failed", status=error.response.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("webhook failed", reason=type(error).__name__)
