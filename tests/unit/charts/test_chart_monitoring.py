"""Alerts and dashboard use metrics that exist, in PromQL that Prometheus reads; the alerts fire when they should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import dashboard
from greenfleet.own_metrics import OperatorMetrics
from tests.unit.charts.rendering import CHARTS, REPOSITORY, Render, of_kind

ALERTS = CHARTS / "greenfleet" / "files" / "alerts.yaml"
RULES = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
METRIC = re.compile(r"\b(?:greenfleet|greenworker|process)_[a-z_]+\b")


def _of_the_contract() -> set[str]:
    """Names that workers and exporters serve, with the suffixes of histograms."""
    text = (REPOSITORY / "docs" / "contract.md").read_text(encoding="utf-8").split("\n## Metrics\n")[1]
    names = {found for found in METRIC.findall(text)}
    histograms = {
        name for name in names for line in text.splitlines() if f"`{name}" in line and "| histogram |" in line
    }
    return (names - histograms) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def _of_the_operator() -> set[str]:
    """Names that the operator serves."""
    names: set[str] = set()
    for metric in OperatorMetrics().registry.collect():
        if metric.type == "counter":
            names.add(f"{metric.name}_total")
        elif metric.type == "histogram":
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(metric.name)
    return names


SERVED = _of_the_contract() | _of_the_operator()
QUERIES = [*dashboard.queries(), *(rule["expr"] for rule in RULES)]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("GREENFLEET_TOOLS_REQUIRED"):
        pytest.fail("promtool was not found: it comes with Debian's prometheus (`make packages`)")
    if found is None:
        pytest.skip("promtool was not found: it comes with Debian's prometheus (`make packages`)")
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_in_a_query_is_served(query: str) -> None:
    used = set(METRIC.findall(query))
    assert used
    assert used <= SERVED


def test_every_query_of_the_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    """As recording rules, with values for Grafana's variables."""
    plain = [query.replace("$__rate_interval", "1m").replace("$pool", "shop/feeds") for query in dashboard.queries()]
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(plain)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(file)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_table_of_panels_without_holes(render: Render) -> None:
    values = {"metrics": {"dashboard": {"enabled": True}}}
    (config,) = [one for one in of_kind(render("greenfleet", values), "ConfigMap") if "greenfleet.json" in one["data"]]
    board = json.loads(config["data"]["greenfleet.json"])
    assert board == json.loads(dashboard.dashboard_json())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, f"{panel['title']} lies over another panel"
        cells |= own
    assert len(cells) == 24 * (max(y for _, y in cells) + 1)
    assert {target["expr"] for panel in board["panels"] for target in panel.get("targets", [])} == set(
        dashboard.queries()
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 30


SILENT = {
    'greenfleet_leader{instance="a"}': "1+0x60",
    'greenfleet_leader{instance="b"}': "0+0x60",
    'greenfleet_leaderless_seconds{instance="a"}': "0+0x60",
    'greenfleet_leaderless_seconds{instance="b"}': "90+60x60",
    'greenfleet_metrics_missing{instance="a",pool="shop/feeds",role="eventlet"}': "0+0x60",
    'greenfleet_loop_lag_seconds{instance="a"}': "0+0x60",
    'greenfleet_desired_workers{instance="a",pool="shop/feeds",role="eventlet"}': "2+0x60",
    'greenfleet_ready_workers{instance="a",pool="shop/feeds",role="eventlet"}': "2+0x60",
    'greenfleet_queue_up{broker="shop/broker/url"}': "1+0x60",
    'greenfleet_queue_dead_letters{broker="shop/broker/url",queue="feeds"}': "0+0x60",
    'greenfleet_query_failures_total{instance="a",server="default",reason="timeout"}': "3+0x60",
    'greenfleet_reconciles_total{instance="a",outcome="error"}': "1+0x60",
    'greenworker_hub_blocked_seconds_total{pool="shop/feeds",task="t"}': "1+0x60",
    'greenworker_hub_cpu_wait_seconds_total{pool="shop/feeds",worker="a"}': "0+3x60",
    'greenfleet_oldest_wait_seconds{instance="a",pool="shop/feeds",role="eventlet"}': "20+0x60",
    'greenfleet_max_wait_seconds{instance="a",pool="shop/feeds",role="eventlet"}': "30+0x60",
    'greenworker_tasks_early_ack_killed_total{pool="shop/feeds"}': "0+0x60",
}
"""An hour in which all is well."""

BAD = {
    "GreenfleetNoLeader": {'greenfleet_leader{instance="a"}': "0+0x60"},
    "GreenfleetLoopLate": {'greenfleet_loop_lag_seconds{instance="a"}': "45+0x60"},
    "GreenfleetPoolMetricsMissing": {
        'greenfleet_metrics_missing{instance="a",pool="shop/feeds",role="eventlet"}': "1+0x60"
    },
    "GreenfleetQueriesFail": {
        'greenfleet_query_failures_total{instance="a",server="default",reason="timeout"}': "0+10x60"
    },
    "GreenfleetBrokerUnreachable": {'greenfleet_queue_up{broker="shop/broker/url"}': "0+0x60"},
    "GreenfleetDeadLetters": {'greenfleet_queue_dead_letters{broker="shop/broker/url",queue="feeds"}': "1+0x60"},
    "GreenfleetWorkersMissing": {'greenfleet_ready_workers{instance="a",pool="shop/feeds",role="eventlet"}': "1+0x60"},
    "GreenfleetHubBlocked": {'greenworker_hub_blocked_seconds_total{pool="shop/feeds",task="t"}': "0+6x60"},
    "GreenfleetWorkersLackCpu": {'greenworker_hub_cpu_wait_seconds_total{pool="shop/feeds",worker="a"}': "0+45x60"},
    "GreenfleetTasksWait": {
        'greenfleet_oldest_wait_seconds{instance="a",pool="shop/feeds",role="eventlet"}': "0+10x60"
    },
    "GreenfleetReconcileErrors": {'greenfleet_reconciles_total{instance="a",outcome="error"}': "1+1x60"},
    "GreenfleetEarlyAckTasksKilled": {'greenworker_tasks_early_ack_killed_total{pool="shop/feeds"}': "0+1x60"},
}
"""What goes wrong for each alert, over the same hour."""


def _firing(
    promtool: str, directory: Path, changed: dict[str, str], *, usual: dict[str, str] = SILENT, rules: Path = ALERTS
) -> set[str]:
    """Alerts that fire at the end of the hour: promtool is told that none does, and names those that do."""
    series = [{"series": name, "values": values} for name, values in {**usual, **changed}.items()]
    expected = [{"eval_time": "59m", "alertname": rule["alert"], "exp_alerts": []} for rule in RULES]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": expected}
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": [test]}), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", str(file)], check=False, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "SUCCESS" in said or "alertname" in said, said
    return set(re.findall(r"alertname: ?(\w+)", said))


def test_no_alert_fires_while_all_is_well(promtool: str, tmp_path: Path) -> None:
    assert _firing(promtool, tmp_path, {}) == set()


def test_replicas_that_see_no_leader_are_believed_whatever_the_leader_says(promtool: str, tmp_path: Path) -> None:
    seen = {'greenfleet_leaderless_seconds{instance="a"}': "0+60x60"}
    assert _firing(promtool, tmp_path, seen) == {"GreenfleetNoLeader"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_each_alert_fires_for_its_own_trouble_only(promtool: str, tmp_path: Path, rule: dict[str, Any]) -> None:
    assert _firing(promtool, tmp_path, BAD[rule["alert"]]) == {rule["alert"]}


def _in(namespace: str, series: dict[str, str]) -> dict[str, str]:
    """As scraped from pods of *namespace*: Prometheus attaches the label."""
    return {name.replace("{", f'{{namespace="{namespace}",', 1): values for name, values in series.items()}


FORGED = _in(
    "evil",
    {
        'greenfleet_leader{instance="x"}': "1+0x60",
        'greenfleet_leaderless_seconds{instance="x"}': "900+60x60",
        'greenfleet_loop_lag_seconds{instance="x"}': "900+0x60",
        'greenfleet_metrics_missing{instance="x",pool="shop/feeds",role="eventlet"}': "1+0x60",
        'greenfleet_desired_workers{instance="x",pool="shop/feeds",role="eventlet"}': "99+0x60",
        'greenfleet_ready_workers{instance="x",pool="shop/feeds",role="eventlet"}': "0+0x60",
        'greenfleet_oldest_wait_seconds{instance="x",pool="shop/feeds",role="eventlet"}': "9000+0x60",
        'greenfleet_max_wait_seconds{instance="x",pool="shop/feeds",role="eventlet"}': "1+0x60",
        'greenfleet_query_failures_total{instance="x",server="default",reason="timeout"}': "0+10x60",
        'greenfleet_queue_up{broker="shop/broker/url"}': "1+0x60",
    },
)
"""What a pod of a tenant exports to silence the alerts of others, or to let them fire."""


def test_what_a_tenants_pod_exports_neither_silences_the_operators_alerts_nor_lets_them_fire(
    promtool: str, tmp_path: Path, render: Render
) -> None:
    manifests = render("greenfleet", {"metrics": {"prometheusRule": {"enabled": True}}})
    [rule] = of_kind(manifests, "PrometheusRule")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    own = rule["metadata"]["namespace"]
    exporters = {name: values for name, values in SILENT.items() if "broker=" in name or name.startswith("greenworker")}
    usual = {**_in(own, {name: SILENT[name] for name in SILENT if name not in exporters}), **_in("shop", exporters)}
    assert _firing(promtool, tmp_path, FORGED, usual=usual, rules=rules) == set()
    no_leader = _in(own, {'greenfleet_leader{instance="a"}': "0+0x60"})
    unreachable = _in("shop", {'greenfleet_queue_up{broker="shop/broker/url"}': "0+0x60"})
    found = _firing(promtool, tmp_path, {**FORGED, **no_leader, **unreachable}, usual=usual, rules=rules)
    assert found == {"GreenfleetNoLeader", "GreenfleetBrokerUnreachable"}
