"""The files of Prometheus and Grafana name metrics that exist, and each alert is explained."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from k2.monitoring.metrics import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "include" / "monitoring"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
CASES = yaml.safe_load(
    (PROJECT / "tests" / "integration" / "monitoring" / "alerts_test.yml").read_text()
)
BY_NAME = {metric.name: metric for metric in METRICS}
# What Prometheus itself makes.
OF_PROMETHEUS = {"up", "ALERTS"}
# A series, with what is between its braces.
SERIES = re.compile(r"\b(k2_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")


def _alert(rule: dict[str, Any]) -> str:
    return str(rule["alert"])


def _panels(path: Path) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return panels


def _expressions() -> Iterator[tuple[str, str]]:
    """Every query, and where it is."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in _panels(path):
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(_expressions()))
def test_every_metric_and_label_that_is_named_exists(where: str, expression: str) -> None:
    named = SERIES.findall(expression)
    assert named, f"{where} asks for nothing"
    for name, selectors in named:
        if name in OF_PROMETHEUS:
            continue
        assert name in BY_NAME, f"{where}: there is no {name}"
        assert set(re.findall(r"(\w+)\s*[=!]", selectors)) <= set(BY_NAME[name].labels)
    labels = {label for name, _ in named for label in _labels(name)}
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= labels


def _labels(name: str) -> tuple[str, ...]:
    return BY_NAME[name].labels if name in BY_NAME else ("job", "instance", "alertname")


@pytest.mark.parametrize("rule", RULES, ids=_alert)
def test_an_alert_shows_labels_that_its_metrics_have(rule: dict[str, Any]) -> None:
    labels = {label for name, _ in SERIES.findall(rule["expr"]) for label in _labels(name)}
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= labels
    assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("rule", RULES, ids=_alert)
def test_an_alert_leads_to_its_section_of_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    runbook = (PROJECT / "docs" / "runbook.md").read_text()
    assert runbook.count(f"\n### {rule['alert']}\n") == 1


def test_every_alert_of_the_runbook_is_a_rule() -> None:
    runbook = (PROJECT / "docs" / "runbook.md").read_text()
    explained = re.findall(r"^### (K2\w+)$", runbook, re.MULTILINE)
    assert set(explained) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=_alert)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    rule: dict[str, Any],
) -> None:
    cases = [
        bool(case["exp_alerts"])
        for test in CASES["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    assert set(cases) == {True, False}


def test_the_table_of_metrics_is_the_one_of_the_exporter() -> None:
    rows = re.findall(
        r"^\| `(k2_\w+)` \| (.*?) \| (.*) \|$",
        (PROJECT / "docs" / "monitoring.md").read_text(),
        re.MULTILINE,
    )
    assert rows == [
        (metric.name, ", ".join(f"`{label}`" for label in metric.labels) or "-", metric.help)
        for metric in METRICS
    ]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_has_it(metric: Metric) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    assert re.fullmatch(r"k2(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(milliseconds|minutes|hours|megabytes|percent)(_|$)", metric.name)
    assert metric.help.endswith(".")


def test_no_metric_is_there_twice() -> None:
    assert len(BY_NAME) == len(METRICS)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_the_data_source_that_is_provisioned(path: Path) -> None:
    provisioned = yaml.safe_load(
        (FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    (source,) = provisioned["datasources"]
    for panel in _panels(path):
        for asked in (panel, *panel.get("targets", [])):
            if asked.get("type") != "row":
                assert asked["datasource"] == {"type": source["type"], "uid": source["uid"]}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_panels_of_a_dashboard_are_named_and_lie_beside_each_other(path: Path) -> None:
    panels = _panels(path)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
        assert one["x"] + one["w"] <= 24


def test_the_dashboards_have_identities_of_their_own() -> None:
    documents = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({one["uid"] for one in documents}) == len(documents) == 2
    # A saved dashboard has the number that its database gave it.
    assert all("id" not in one for one in documents)


def test_prometheus_scrapes_the_port_that_the_exporter_serves_by_default() -> None:
    from k2.commands.monitoring import DEFAULT_PORT

    document = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "k2"
    assert job["static_configs"] == [{"targets": [f"k2-metrics:{DEFAULT_PORT}"]}]
    assert all((FOLDER / "prometheus" / name).is_file() for name in document["rule_files"])


def test_a_scrape_may_take_as_long_as_two_stores_that_hang() -> None:
    from k2.monitoring.exporter import STORE_SECONDS

    document = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    allowed = int(document["global"]["scrape_timeout"].removesuffix("s"))
    assert allowed > 2 * STORE_SECONDS
    assert allowed < int(document["global"]["scrape_interval"].removesuffix("s"))
