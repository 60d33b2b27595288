"""A real Prometheus with the real files: rules, scrapes of the exporter, dashboards."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.integration.ingest.kafka import wait_until
from tests.prometheus import built_programs, running_prometheus

from k2.monitoring import metrics
from k2.offload.claim import claim
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.embedded.prometheus import Programs

    from .conftest import Stack

# The first time, Prometheus is built.
pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "include" / "monitoring"
RULES = FOLDER / "prometheus" / "alerts.yml"
# Nothing of this is there in a stack that is well and has no Kafka.
NOT_THERE = {metrics.KAFKA_LAG.name, "ALERTS"}


@pytest.fixture(scope="session")
def built() -> Programs:
    return built_programs()


def promtool(built: Programs, *arguments: str | Path) -> None:
    done = subprocess.run([built.promtool, *arguments], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules(built: Programs) -> None:
    promtool(built, "check", "config", FOLDER / "prometheus" / "prometheus.yml")
    promtool(built, "check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_each_alert_fires_on_what_it_is_for_and_on_nothing_else(built: Programs) -> None:
    promtool(built, "test", "rules", Path(__file__).with_name("alerts_test.yml"))


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def scrapes(self) -> int:
        """How many times the exporter was asked, and answered."""
        try:
            return sum(int(one["value"][1]) for one in self.query("count_over_time(up[1h])"))
        except httpx.HTTPError:
            return 0

    def firing_or_pending(self) -> set[tuple[str, str]]:
        """Alerts with the first label that names what they are about."""
        found = set()
        for alert in self.ask("alerts")["alerts"]:
            labels = alert["labels"]
            about = labels.get("store") or labels.get("table") or labels.get("exchange") or ""
            found.add((labels["alertname"], about))
        return found


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the exporter of the stack, faster than in production, and with a claim held."""
    with stack.serving() as exporter, claim(stack.settings.postgres, registry().tables[0].name):
        text = (FOLDER / "prometheus" / "prometheus.yml").read_text()
        for ours, theirs in (
            ("k2-metrics:18090", exporter.removeprefix("http://")),
            ("interval: 30s", "interval: 2s"),
            ("scrape_timeout: 20s", "scrape_timeout: 2s"),
            ("[alerts.yml]", f"[{json.dumps(str(RULES))}]"),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        with running_prometheus(tmp_path_factory.mktemp("prometheus"), text) as address:
            running = Prometheus(address)
            # A rate needs two.
            wait_until(lambda: running.scrapes() >= 2)
            yield running


def test_it_has_every_metric_of_the_exporter_with_its_help(prometheus: Prometheus) -> None:
    stored = set(prometheus.ask("label/__name__/values"))
    assert {metric.name for metric in metrics.METRICS} - stored == {metrics.KAFKA_LAG.name}
    known = prometheus.ask("metadata")
    for metric in metrics.METRICS:
        # In the OpenMetrics format the name of a counter is without its suffix.
        (told,) = known[metric.name.removesuffix("_total")]
        assert (told["help"], told["type"]) == (metric.help, metric.kind)


def test_its_rules_are_healthy(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert rules
        return all(rule["health"] == "ok" for rule in rules)

    wait_until(evaluated)


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "grafana" / "dashboards").glob("*.json")), ids=lambda path: path.stem
)
def test_every_panel_of_the_dashboards_gets_an_answer(prometheus: Prometheus, path: Path) -> None:
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", []):
            answer = prometheus.query(target["expr"])
            missing = any(name in target["expr"] for name in NOT_THERE)
            assert answer or missing, f"{panel['title']} shows nothing"
            for series in answer:
                wanted = set(_legend_labels(target["legendFormat"]))
                assert wanted <= set(series["metric"])


def _legend_labels(legend: str) -> list[str]:
    return [part.split("}}")[0].strip() for part in legend.split("{{")[1:]]


def test_a_store_that_goes_down_raises_its_alert_and_no_other(
    prometheus: Prometheus, stack: Stack
) -> None:
    before = prometheus.firing_or_pending()
    assert not {name for name, _ in before} & {"K2StoreDown", "K2ExporterDown"}
    stack.clickhouse.kill()
    try:
        wait_until(lambda: ("K2StoreDown", "clickhouse") in prometheus.firing_or_pending())
        assert prometheus.firing_or_pending() - before == {("K2StoreDown", "clickhouse")}
    finally:
        stack.clickhouse.start()
    wait_until(lambda: ("K2StoreDown", "clickhouse") not in prometheus.firing_or_pending())
