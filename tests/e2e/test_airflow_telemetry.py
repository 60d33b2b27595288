"""What a running Airflow tells others: its metrics a real Prometheus, a late run a webhook."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.prometheus import running_prometheus
from tests.webhook import Webhook

from k2.notifications import DEADLINE, WEBHOOK
from k2.offload.claim import claim

from .ui import Task, Ui, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .user import User

# The first time, Prometheus is built.
pytestmark = [pytest.mark.e2e, pytest.mark.prometheus, pytest.mark.timeout(2400)]

TABLE = "bronze_trades_binance"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that is pushed to, as in docker-compose.yaml."""
    directory = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(directory, "{}", "--web.enable-otlp-receiver") as address:
        yield address


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    listening = Webhook()
    yield listening
    listening.shutdown()


@pytest.fixture(scope="module")
def late_run(user: User, prometheus: str, webhook: Webhook) -> Iterator[str]:
    """A run that waits for a table which another driver holds, past its deadline of a minute."""
    watched = replace(
        user,
        variables={
            DEADLINE: "1",
            WEBHOOK: webhook.address,
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_SERVICE_NAME": "airflow",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus}/api/v1/otlp/v1/metrics",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
            # Seconds, not a minute, between two pushes.
            "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        },
    )
    with watched.stack(), claim(watched.settings.postgres, TABLE):
        ui = Ui(watched.airflow())
        run = ui.run()
        wait_until(lambda: told(webhook, "run late"), "the late run is told")
        assert ui.see(run, Task("bronze.offload", TABLE)).state != "success"
        yield run


def told(webhook: Webhook, event: str) -> list[dict[str, Any]]:
    return [one for one in webhook.posted if one["event"] == event]


def test_a_run_past_its_deadline_is_told(late_run: str, webhook: Webhook) -> None:
    (late,) = told(webhook, "run late")
    assert (late["dag"], late["run"]) == ("medallion", late_run)
    assert late["text"] == f"medallion is late: its run {late_run} has not ended"


def test_airflows_metrics_reach_prometheus(late_run: str, prometheus: str) -> None:
    def stored() -> set[str]:
        answer = httpx.get(f"{prometheus}/api/v1/label/__name__/values", timeout=30)
        return set(answer.json()["data"])

    wanted = {"airflow_scheduler_heartbeat_total", "airflow_pool_open_slots_offload"}
    wait_until(lambda: wanted <= stored(), f"Prometheus has {wanted}")
