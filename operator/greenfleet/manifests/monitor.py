"""PodMonitors for the Prometheus operator: one per pool, one per exporter, so that nothing is scraped twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from greenfleet.manifests import names
from greenfleet.manifests.pods import Manifest

LIMITS = {"sampleLimit": 20_000, "labelLimit": 40, "labelNameLengthLimit": 200, "labelValueLengthLimit": 1_024}
"""What one target may export. A worker with 100 names of tasks, its limit, has some 10,000 series; what exceeds a limit
is not scraped at all, and costs its own pool its metrics.
"""
API_VERSION = "monitoring.coreos.com/v1"


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What the administrator wants of PodMonitors."""

    interval: str
    """How often to scrape, in Prometheus' notation, such as 15s."""
    labels: dict[str, str] = field(default_factory=dict)
    """By which their Prometheus selects PodMonitors."""


def pool_monitor(pool: str, namespace: str, monitoring: Monitoring) -> Manifest:
    """For the workers of one pool, both roles."""
    return _monitor(names.config_name(pool), namespace, names.pool_labels(pool), {names.POOL_LABEL: pool}, monitoring)


def exporter_monitor(name: str, namespace: str, monitoring: Monitoring) -> Manifest:
    """For one exporter."""
    return _monitor(name, namespace, names.exporter_labels(name), names.exporter_selector(name), monitoring)


def _monitor(
    name: str, namespace: str, labels: dict[str, str], selector: dict[str, str], monitoring: Monitoring
) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": {"name": name, "namespace": namespace, "labels": {**monitoring.labels, **labels}},
        "spec": {
            "selector": {"matchLabels": {**selector, names.SCRAPE_LABEL: "true"}},
            **LIMITS,
            "podMetricsEndpoints": [{"port": "metrics", "interval": monitoring.interval, "honorLabels": False}],
        },
    }
