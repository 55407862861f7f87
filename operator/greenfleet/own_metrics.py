"""The operator's own metrics, in a registry of their own so that two apps in one process do not collide."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from greenfleet import __version__
from greenfleet.autoscaling.model import Decision

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class _FleetGauges:
    """The series of one fleet: finding them by their labels takes longer than setting them."""

    desired_workers: Gauge
    desired_threads: Gauge
    ready_workers: Gauge
    metrics_missing: Gauge
    last_sample: Gauge


class _QueryMetrics:
    """How long the queries of one kind take, and how many of them fail, by Prometheus server."""

    def __init__(self, prefix: str, duration: str, failures: str, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(f"{prefix}_duration_seconds", duration, ["server"], buckets=_FAST, registry=registry)
        self._failures = Counter(f"{prefix}_failures", failures, ["server", "reason"], registry=registry)

    def observe(self, server: str, seconds: float, failure: str) -> None:
        self._seconds.labels(server).observe(seconds)
        if failure:
            self._failures.labels(server, failure).inc()


class OperatorMetrics:
    """Everything that the operator says about itself. Series of a deleted pool disappear with `forget`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nobody reads
        self.registry = registry = CollectorRegistry()
        self._gauges: dict[tuple[str, str], _FleetGauges] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge("python_asyncio_tasks", "Tasks of the event loop that have not ended.", registry=registry).set_function(
            _unfinished_tasks
        )
        Info("greenfleet_build", "Version of the operator.", registry=registry).info({"version": __version__})
        self.reconciles = Counter(
            "greenfleet_reconciles", "Reconciliations by outcome.", ["outcome"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            "greenfleet_reconcile_duration_seconds", "Duration of a reconciliation.", buckets=_FAST, registry=registry
        )
        self.api_requests = Counter(
            "greenfleet_api_requests", "Requests to the API server.", ["verb", "resource", "status"], registry=registry
        )
        self._queries = _QueryMetrics(
            "greenfleet_query",
            "Duration of a Prometheus query.",
            "Prometheus queries without a usable answer.",
            registry,
        )
        self._pool_queries = _QueryMetrics(
            "greenfleet_pool_query",
            "Duration of a query that a pool brings itself (scaling.prometheus.query).",
            "Such queries without a usable answer; the pool's condition MetricsAvailable says why.",
            registry,
        )
        self.decisions = Counter(
            "greenfleet_decisions",
            "Decisions that changed something.",
            ["pool", "role", "dimension", "direction", "reason"],
            registry=registry,
        )
        self.desired_workers = Gauge(
            "greenfleet_desired_workers", "Workers wanted.", ["pool", "role"], registry=registry
        )
        self.ready_workers = Gauge("greenfleet_ready_workers", "Workers ready.", ["pool", "role"], registry=registry)
        self.desired_threads = Gauge(
            "greenfleet_desired_threads", "Green threads wanted per worker.", ["pool", "role"], registry=registry
        )
        self.last_sample = Gauge(
            "greenfleet_last_complete_sample_timestamp_seconds",
            "Unix time of the last tick with complete knowledge.",
            ["pool", "role"],
            registry=registry,
        )
        self.metrics_missing = Gauge(
            "greenfleet_metrics_missing",
            "1 while the pool holds for want of knowledge.",
            ["pool", "role"],
            registry=registry,
        )
        self.oldest_wait = Gauge(
            "greenfleet_oldest_wait_seconds",
            "How long the oldest message has been waiting for a green thread.",
            ["pool", "role"],
            registry=registry,
        )
        self.max_wait = Gauge(
            "greenfleet_max_wait_seconds",
            "How long a message may wait: the pool's scaling.maxWait.",
            ["pool", "role"],
            registry=registry,
        )
        self.loop_lag = Gauge(
            "greenfleet_loop_lag_seconds", "How late the last tick of the scaling loop began.", registry=registry
        )
        self.loop_seconds = Histogram(
            "greenfleet_loop_duration_seconds", "Duration of one tick over all pools.", buckets=_FAST, registry=registry
        )
        self.leader = Gauge("greenfleet_leader", "1 while this replica leads.", registry=registry)
        self.leaderless = Gauge(
            "greenfleet_leaderless_seconds",
            "For how long no replica has led, as far as this one can see in the Lease; 0 while one does.",
            registry=registry,
        )
        self.pools = Gauge("greenfleet_pools", "Pools that this replica knows.", registry=registry)

    def observe_request(self, verb: str, resource: str, status: int) -> None:
        """One finished request to the API server; status 0: no answer."""
        self.api_requests.labels(verb, resource, str(status)).inc()

    def observe_query(self, server: str, seconds: float, failure: str, *, of_a_pool: bool = False) -> None:
        """One finished query; an empty failure is success. *of_a_pool*: a pool brought it, and how long it takes or
        whether it can be evaluated says nothing about the server.
        """
        (self._pool_queries if of_a_pool else self._queries).observe(server, seconds, failure)

    def observe_decision(self, pool: str, role: str, decision: Decision, ready: int, now: float) -> None:
        """The state after one tick of one fleet."""
        gauges = self._gauges.get((pool, role))
        if gauges is None:
            gauges = self._gauges[pool, role] = _FleetGauges(
                *(
                    gauge.labels(pool, role)
                    for gauge in (
                        self.desired_workers,
                        self.desired_threads,
                        self.ready_workers,
                        self.metrics_missing,
                        self.last_sample,
                    )
                )
            )
        gauges.desired_workers.set(decision.replicas)
        gauges.desired_threads.set(decision.threads)
        gauges.ready_workers.set(ready)
        gauges.metrics_missing.set(bool(decision.metrics_issues))
        if not decision.metrics_issues:
            gauges.last_sample.set(now)

    def observe_wait(self, pool: str, role: str, oldest_seconds: float, max_seconds: float) -> None:
        """How long the oldest message of a fleet waits, and may wait."""
        self.oldest_wait.labels(pool, role).set(oldest_seconds)
        self.max_wait.labels(pool, role).set(max_seconds)

    def observe_idle(self, pool: str, role: str, now: float) -> None:
        """One tick of an idle fleet: everything is known, and nothing changed."""
        self._gauges[pool, role].last_sample.set(now)

    def forget(self, pool: str) -> None:
        """Drops every series of a pool."""
        for metric in (
            self.desired_workers,
            self.desired_threads,
            self.ready_workers,
            self.metrics_missing,
            self.last_sample,
            self.oldest_wait,
            self.max_wait,
            self.decisions,
        ):
            metric.remove_by_labels({"pool": pool})
        for key in [key for key in self._gauges if key[0] == pool]:
            del self._gauges[key]


def _unfinished_tasks() -> float:
    """Of the loop that serves the metrics; 0 outside of one."""
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:
        return 0.0
