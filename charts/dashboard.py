"""The Grafana dashboard as a table of panels; `charts/generate.py` writes it into the chart.

Only metrics of docs/contract.md and of the operator itself (`greenfleet.own_metrics`) are used: a test holds it to
that, and asks promtool to read every query.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Panel = dict[str, Any]

_COLUMNS = 24
"""Width of Grafana's grid."""
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_POOL = '{pool=~"$pool"}'
_LEADING = "and on (instance) greenfleet_leader == 1"
"""A standby keeps nothing of what it once decided; this keeps its last scrape from counting beside the leader's."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One panel: its queries with their legends, its unit as Grafana names it, and what a reader should know."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    description: str = ""
    stat: bool = False
    width: int = 8


def _quantiles(metric: str, by: str = "pool") -> tuple[tuple[str, str], ...]:
    rate = f"sum by ({by}, le) (rate({metric}_bucket{_POOL}[$__rate_interval]))"
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return tuple((f"histogram_quantile({q}, {rate})", f"{legend} p{q * 100:.0f}") for q in (0.5, 0.95))


ROWS: tuple[tuple[str, tuple[Graph, ...]], ...] = (
    (
        "At a glance",
        (
            Graph("Leader", (("sum(greenfleet_leader)", ""),), stat=True, width=4, description="1 is right."),
            Graph("Pools", (("max(greenfleet_pools)", ""),), stat=True, width=4),
            Graph(
                "Pools without metrics",
                ((f"sum(greenfleet_metrics_missing {_LEADING}) or vector(0)", ""),),
                stat=True,
                width=4,
                description="Their load is not known; see the condition MetricsAvailable.",
            ),
            Graph("Workers ready", ((f"sum(greenfleet_ready_workers {_LEADING})", ""),), stat=True, width=4),
            Graph("Green threads", (("sum(greenworker_threads_limit)", ""),), stat=True, width=4),
            Graph("Messages waiting", (("sum(greenfleet_queue_messages_ready)", ""),), stat=True, width=4),
        ),
    ),
    (
        "Load",
        (
            Graph(
                "Messages ready",
                (("sum by (broker, queue) (greenfleet_queue_messages_ready)", "{{broker}} {{queue}}"),),
                description="Of all queues: a queue has no pool.",
            ),
            Graph(
                "Wait, publish → start",
                _quantiles("greenworker_task_wait_seconds"),
                "s",
                "The objective is spec.scaling.maxWait.",
            ),
            Graph(
                "Tasks per second",
                (
                    (
                        f"sum by (pool) (rate(greenworker_tasks_started_total{_POOL}[$__rate_interval]))",
                        "{{pool}} started",
                    ),
                    (
                        f"sum by (pool, state) (rate(greenworker_tasks_finished_total{_POOL}[$__rate_interval]))",
                        "{{pool}} {{state}}",
                    ),
                ),
                "reqps",
            ),
        ),
    ),
    (
        "Capacity",
        (
            Graph(
                "Workers",
                (
                    (f"max by (pool, role) (greenfleet_desired_workers{_POOL} {_LEADING})", "{{pool}} {{role}} wanted"),
                    (f"max by (pool, role) (greenfleet_ready_workers{_POOL} {_LEADING})", "{{pool}} {{role}} ready"),
                ),
            ),
            Graph(
                "Green threads",
                (
                    (f"sum by (pool) (greenworker_threads_limit{_POOL})", "{{pool}} limit"),
                    (f"sum by (pool) (greenworker_threads_busy{_POOL})", "{{pool}} busy"),
                    (f"sum by (pool) (greenworker_tasks_reserved{_POOL})", "{{pool}} reserved"),
                ),
            ),
            Graph(
                "Green threads wanted per worker",
                ((f"max by (pool, role) (greenfleet_desired_threads{_POOL} {_LEADING})", "{{pool}} {{role}}"),),
            ),
            Graph(
                "Decisions",
                (
                    (
                        "sum by (dimension, direction, reason) "
                        f"(increase(greenfleet_decisions_total{_POOL}[$__rate_interval]))",
                        "{{dimension}} {{direction}}: {{reason}}",
                    ),
                ),
                description="`kubectl greenfleet why` says each in sentences.",
            ),
            Graph(
                "Given back to the broker",
                (
                    (
                        f"sum by (pool, reason) (rate(greenworker_tasks_requeued_total{_POOL}[$__rate_interval]))",
                        "{{pool}} {{reason}}",
                    ),
                ),
                "reqps",
            ),
            Graph(
                "Held for an ETA",
                ((f"sum by (pool) (greenworker_tasks_scheduled{_POOL})", "{{pool}}"),),
                description="Not backlog.",
            ),
        ),
    ),
    (
        "Hub",
        (
            Graph(
                "Hub busy",
                (
                    (
                        f"avg by (pool) (rate(greenworker_hub_busy_seconds_total{_POOL}[$__rate_interval]))",
                        "{{pool}}",
                    ),
                ),
                "percentunit",
                "Near 100 %, more green threads bring nothing: the operator adds workers.",
            ),
            Graph("Hub lag", _quantiles("greenworker_hub_lag_seconds"), "s"),
            Graph(
                "Blocked, by task",
                (
                    (
                        f"sum by (pool, task) (rate(greenworker_hub_blocked_seconds_total{_POOL}[$__rate_interval]))",
                        "{{pool}} {{task}}",
                    ),
                ),
                "percentunit",
                "Candidates for spec.prefork.tasks.",
            ),
            Graph("Runtime", _quantiles("greenworker_task_runtime_seconds", "pool, task"), "s", width=12),
            Graph(
                "Forwarded to prefork",
                (
                    (
                        f"sum by (pool, task) (rate(greenworker_tasks_forwarded_total{_POOL}[$__rate_interval]))",
                        "{{pool}} {{task}}",
                    ),
                ),
                "reqps",
                width=12,
            ),
        ),
    ),
    (
        "Operator",
        (
            Graph("Loop lag", (("max(greenfleet_loop_lag_seconds)", "lag"),), "s"),
            Graph(
                "Prometheus queries",
                (
                    (
                        "histogram_quantile(0.95, sum by (server, le) "
                        "(rate(greenfleet_query_duration_seconds_bucket[$__rate_interval])))",
                        "{{server}} p95",
                    ),
                ),
                "s",
            ),
            Graph(
                "Query failures",
                (
                    (
                        "sum by (server, reason) (rate(greenfleet_query_failures_total[$__rate_interval]))",
                        "{{server}} {{reason}}",
                    ),
                ),
                "reqps",
            ),
            Graph(
                "API requests",
                (
                    (
                        "sum by (verb, resource, status) (rate(greenfleet_api_requests_total[$__rate_interval]))",
                        "{{verb}} {{resource}} {{status}}",
                    ),
                ),
                "reqps",
            ),
            Graph(
                "Reconciliations",
                (("sum by (outcome) (rate(greenfleet_reconciles_total[$__rate_interval]))", "{{outcome}}"),),
                "reqps",
            ),
            Graph(
                "Brokers that answer",
                (("min by (broker) (greenfleet_queue_up)", "{{broker}}"),),
                description="1: the exporter reads its queues.",
            ),
        ),
    ),
)


def dashboard_json() -> str:
    """The dashboard as Grafana imports it."""
    panels: list[Panel] = []
    top = 0
    for title, graphs in ROWS:
        panels.append(_row(title, top))
        top, left = top + 1, 0
        height = 4 if graphs[0].stat else 8
        for graph in graphs:
            if left + graph.width > _COLUMNS:
                top, left = top + height, 0
            panels.append(_panel(graph, {"x": left, "y": top, "w": graph.width, "h": height}))
            left += graph.width
        top += height
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return json.dumps(_frame(panels), indent=1, ensure_ascii=False) + "\n"


def queries() -> list[str]:
    """Every query of every panel, with Grafana's variables in it."""
    return [query for _, graphs in ROWS for graph in graphs for query, _ in graph.queries]


def _row(title: str, top: int) -> Panel:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        "panels": [],
    }


def _panel(graph: Graph, place: dict[str, int]) -> Panel:
    custom = {} if graph.stat else {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    options: Panel = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
        if graph.stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": "stat" if graph.stat else "timeseries",
        "title": graph.title,
        "description": graph.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": graph.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(graph.queries)
        ],
    }


def _frame(panels: list[Panel]) -> Panel:
    return {
        "uid": "greenfleet",
        "title": "Greenfleet",
        "tags": ["celery", "greenfleet"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "pool",
                    "label": "Pool",
                    "type": "query",
                    "datasource": _DATASOURCE,
                    "query": {"query": "label_values(greenfleet_desired_workers, pool)", "refId": "pools"},
                    "definition": "label_values(greenfleet_desired_workers, pool)",
                    "refresh": 2,
                    "sort": 1,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                },
            ]
        },
        "panels": panels,
    }
