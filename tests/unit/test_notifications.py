"""What is told of a failure: a line of log with its facts, and a message to a real web server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tests.webhook import Webhook

from k2.embedded.state import free_port
from k2.errors import SettingsError
from k2.logs import configure_logs
from k2.notifications import DEADLINE, WEBHOOK, run_deadline, run_late, task_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = {
    "ti": SimpleNamespace(
        dag_id="medallion",
        task_id="silver.offload",
        run_id="scheduled__1",
        try_number=5,
        rendered_map_index="silver_trades",
    ),
    "exception": RuntimeError("Cannot execute: spark-submit.\nError code is: 1."),
}


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _without_a_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK, raising=False)


def fail() -> None:
    """What Airflow does when a task has failed for good."""
    configure_logs()
    task_failed(FAILED)


def test_a_failure_is_a_line_of_log_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    fail()
    (line,) = capsys.readouterr().err.splitlines()
    assert 'level=error event="task failed"' in line
    for fact in (
        "dag=medallion",
        "task=silver.offload",
        "label=silver_trades",
        "run=scheduled__1",
        "attempt=5",
        'reason="Cannot execute: spark-submit. Error code is: 1."',
    ):
        assert fact in line


def test_a_failure_is_posted_to_the_webhook_whose_address_is_not_told(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(WEBHOOK, webhook.address)
    with caplog.at_level("DEBUG"):
        fail()
    assert "secret" not in caplog.text
    assert webhook.posted == [
        {
            "text": "medallion silver.offload silver_trades failed: "
            "Cannot execute: spark-submit. Error code is: 1.",
            "event": "task failed",
            "dag": "medallion",
            "task": "silver.offload",
            "label": "silver_trades",
            "run": "scheduled__1",
            "attempt": 5,
            "reason": "Cannot execute: spark-submit. Error code is: 1.",
        }
    ]


def test_a_late_run_is_posted_to_the_webhook(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEBHOOK, webhook.address)
    run_late({"dag_run": {"dag_id": "medallion", "dag_run_id": "scheduled__1"}})
    assert [one["text"] for one in webhook.posted] == [
        "medallion is late: its run scheduled__1 has not ended"
    ]


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/secret", "secret", "http://[secret"])
def test_a_webhook_that_cannot_be_reached_fails_nothing_and_is_not_told(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(WEBHOOK, address.format(port=free_port()))
    fail()
    errors = capsys.readouterr().err
    assert 'event="webhook failed"' in errors
    assert "secret" not in errors


def test_a_webhook_that_refuses_is_told_with_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Webhook(status=403) as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        fail()
        server.shutdown()
    errors = capsys.readouterr().err
    assert "status=403" in errors
    assert "secret" not in errors


@pytest.mark.parametrize("minutes", ["soon", "0", "-5", "1.5"])
def test_a_deadline_that_is_no_number_of_minutes_is_refused(minutes: str) -> None:
    with pytest.raises(SettingsError, match=f"^{DEADLINE} is '{minutes}'; it must be a number"):
        run_deadline({DEADLINE: minutes})
