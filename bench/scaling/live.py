"""One trace on the cluster, under all autoscalers at once.

The fleets run side by side in the same two minutes, each with a queue, a ledger and pods of its own: what disturbs one
disturbs all.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from bench.scaling.fleets import (
    POOL,
    Fleet,
    deployments,
    in_namespaces,
    pool_body,
    scaled_object,
    surroundings,
    threads_of_metrics,
)
from bench.scaling.load import QUEUE, Producer, Template, messages
from bench.scaling.record import Record, Second, tasks
from demo.api import Api, ApiError, pool_path
from demo.observer import OPERATOR_NAMESPACE, OPERATOR_PORT, PROMETHEUS, PROMETHEUS_PORT, leader
from demo.shell import StepError
from demo.stage import NAMESPACE, until
from greenfleet.simulator.traces import Trace

WORKERS = "greenfleet.io/role=eventlet"
METRICS_PORT = 9540
KEDA_USERS = ("keda-operator", "system:serviceaccount:kube-system:horizontal-pod-autoscaler")
_READY_SECONDS = 120.0
_SETTLE_SECONDS = 5.0
_STILL_SECONDS = 45.0
"""More than a worker's heartbeat and the longest task: what a dead worker held is back by then."""


class Cluster:
    """What the bench needs of the cluster besides the API."""

    def __init__(self, api: Api, logs: Path) -> None:
        self.api = api
        self.audit = logs / "audit.log"
        self.prometheus = f"http://{_address(api, OPERATOR_NAMESPACE, PROMETHEUS)}:{PROMETHEUS_PORT}"
        self._redis = _address(api, NAMESPACE, "redis")

    def redis(self, database: int) -> redis.Redis:
        """A connection from outside of the cluster: the bench runs on its node."""
        return redis.Redis(host=self._redis, db=database, decode_responses=True, socket_timeout=10)

    def redis_url(self, database: int) -> str:
        return f"redis://{self._redis}:6379/{database}"


def _address(api: Api, namespace: str, service: str) -> str:
    return str(api.get(f"/api/v1/namespaces/{namespace}/services/{service}")["spec"]["clusterIP"])


# --- before and after
# ---------------------------------------------------------------------------------------------------


def clear(cluster: Cluster, fleets: Sequence[Fleet]) -> None:
    """No workers, no messages, nothing learned: every trace begins alike."""
    api = cluster.api
    for fleet in fleets:
        base = f"/namespaces/{fleet.namespace}"
        with contextlib.suppress(ApiError):
            api.delete(f"/apis/keda.sh/v1alpha1{base}/scaledobjects")
        api.delete(pool_path(fleet.namespace, POOL))
        api.delete(f"/apis/apps/v1{base}/deployments")
    namespaces = {fleet.namespace for fleet in fleets}

    def gone() -> bool:
        left = [
            pod
            for pod in api.items("/api/v1/pods", labelSelector="greenfleet.io/role")
            if pod["metadata"]["namespace"] in namespaces
        ]
        for pod in left:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            api.delete(path, gracePeriodSeconds="0")
        return not left

    if not until(gone, _READY_SECONDS):
        raise StepError("pods of the trace before are still there")
    if not until(lambda: not _seen(api) & namespaces, _READY_SECONDS):
        raise StepError("Prometheus still has samples of the trace before")
    for fleet in fleets:
        for database in (fleet.broker_database, fleet.ledger_database):
            cluster.redis(database).flushdb()


def prepare(cluster: Cluster, fleets: Sequence[Fleet], trace: Trace) -> None:
    """Every fleet with its first workers Ready and its depth in Prometheus; nobody scales yet."""
    api = cluster.api
    for fleet in fleets:
        for path, manifest in surroundings(fleet):
            api.apply(path, manifest)
        if fleet.ours:
            body = pool_body(fleet, trace)
            # Held at the first workers until the trace begins; from then on it is the user's configuration, untouched.
            body["spec"]["scaling"]["mode"] = "Manual"
            body["spec"]["manualReplicas"] = trace.start_replicas
            api.apply(pool_path(fleet.namespace, POOL), body)
        else:
            for path, manifest in deployments(fleet, trace):
                api.apply(path, manifest)

    def ready() -> bool:
        pods = api.items("/api/v1/pods", labelSelector=WORKERS)
        counts = Counter(pod["metadata"]["namespace"] for pod in pods if is_ready(pod))
        seen = _seen(api)
        return all(counts[fleet.namespace] == trace.start_replicas and fleet.namespace in seen for fleet in fleets)

    if not until(ready, _READY_SECONDS):
        raise StepError(f"the first workers are not Ready after {_READY_SECONDS:.0f} s")


def _seen(api: Api) -> set[str]:
    """The namespaces whose queues Prometheus knows."""
    query = "greenfleet_queue_messages_ready"
    answer = api.service(OPERATOR_NAMESPACE, PROMETHEUS, PROMETHEUS_PORT, "/api/v1/query", query=query)
    return {str(series["metric"].get("namespace")) for series in answer["data"]["result"]}


def let_go(cluster: Cluster, fleets: Sequence[Fleet], trace: Trace) -> None:
    """From now on the autoscalers scale."""
    for fleet in fleets:
        if fleet.ours:
            cluster.api.apply(pool_path(fleet.namespace, POOL), pool_body(fleet, trace))
        else:
            path, manifest = scaled_object(fleet, trace, cluster.prometheus)
            cluster.api.apply(path, manifest)


def remove(cluster: Cluster, fleets: Sequence[Fleet]) -> None:
    """Take the bench out of the cluster."""
    clear(cluster, fleets)
    for fleet in fleets:
        cluster.api.delete(f"/api/v1/namespaces/{fleet.namespace}")


# --- the trace
# ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """Looks at all fleets once a second."""

    cluster: Cluster
    fleets: Sequence[Fleet]
    began: float
    seconds: dict[str, list[Second]] = field(default_factory=dict)
    startups: dict[str, dict[str, float]] = field(default_factory=dict)
    missed: int = 0
    confirmed: dict[str, int] = field(default_factory=dict)
    """Green threads by pod, as the worker itself said last."""
    asking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, "watch"))

    def look(self) -> None:
        """Once."""
        try:
            pods = self.cluster.api.items("/api/v1/pods", labelSelector=WORKERS, resourceVersion="0")
            sets = self.cluster.api.items("/apis/apps/v1/deployments", labelSelector=WORKERS, resourceVersion="0")
        except ApiError:
            self.missed += 1
            return
        replicas = {each["metadata"]["namespace"]: int(each["spec"].get("replicas", 1)) for each in sets}
        now = time.time() - self.began
        for fleet in self.fleets:
            own = [pod for pod in pods if pod["metadata"]["namespace"] == fleet.namespace]
            ready = [pod for pod in own if is_ready(pod)]
            for pod in ready:
                self.startups.setdefault(fleet.label, {}).setdefault(pod["metadata"]["name"], _startup_seconds(pod))
            threads = sum(self.asking.map(lambda pod, fleet=fleet: self._threads(fleet, pod), ready))  # type: ignore[misc]
            backlog = int(self.cluster.redis(fleet.broker_database).llen(QUEUE))  # type: ignore[arg-type]
            second = Second(round(now, 2), backlog, len(own), len(ready), replicas.get(fleet.namespace, 0), threads)
            self.seconds.setdefault(fleet.label, []).append(second)

    def _threads(self, fleet: Fleet, pod: dict[str, Any]) -> int:
        """Of one worker; a KEDA user's are fixed. It is asked only while it has not said what its annotation says: an
        answer costs it some milliseconds of CPU, and KEDA's workers are not asked.
        """
        if not fleet.ours:
            return fleet.keda.threads
        name = pod["metadata"]["name"]
        told = int((pod["metadata"].get("annotations") or {}).get("greenfleet.io/threads") or 0)
        known = self.confirmed.get(name)
        if known is None or known != told:
            found = _asked(pod["status"]["podIP"])
            if found is not None:
                known = self.confirmed[name] = found
        return told if known is None else known


def _asked(address: str) -> int | None:
    """The green threads of a worker, from itself."""
    connection = http.client.HTTPConnection(address, METRICS_PORT, timeout=0.8)
    try:
        connection.request("GET", "/metrics")
        return threads_of_metrics(connection.getresponse().read().decode())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def play(
    cluster: Cluster, fleets: Sequence[Fleet], trace: Trace, seed: int, tell: Callable[[str], None]
) -> list[Record]:
    """Run one trace; a record of each fleet."""
    clear(cluster, fleets)
    prepare(cluster, fleets, trace)
    template = Template(redis.Redis.from_url(cluster.redis_url(0)), cluster.redis_url(0))
    let_go(cluster, fleets, trace)
    time.sleep(_SETTLE_SECONDS)
    began = time.time() + 1.0
    brokers = [cluster.redis(fleet.broker_database) for fleet in fleets]
    producer = Producer(messages(trace, seed), brokers, template, began)
    watch = Watch(cluster, fleets, began)
    counted = _counted(cluster)
    audit_from = cluster.audit.stat().st_size if cluster.audit.exists() else 0
    time.sleep(max(0.0, began - time.time()))
    producer.start()
    with _outages(cluster, trace, began):
        _every_second(watch, trace, tell)
    producer.join(timeout=10)
    if producer.error or producer.is_alive():
        raise StepError(producer.error or "the producer did not end")
    queries = _rates(counted, _counted(cluster), trace, sum(not fleet.ours for fleet in fleets))
    writes = _writes(cluster.audit, audit_from, fleets)
    drained = _drain(cluster, fleets, began, len(producer.published))
    for fleet in fleets:
        if drained[fleet.label] is None:
            tell(
                f"{fleet.label} has not done everything; its broker holds {_held(cluster.redis(fleet.broker_database))}"
            )
    records = []
    for fleet in fleets:
        lines = list(cluster.redis(fleet.ledger_database).lrange("ledger", 0, -1))  # type: ignore[arg-type]
        records.append(
            Record(
                trace=trace.name,
                label=fleet.label,
                autoscaler=fleet.autoscaler,
                seconds=tuple(watch.seconds.get(fleet.label, ())),
                tasks=tasks(producer.published, lines, began),
                startups=tuple(sorted(round(value, 1) for value in watch.startups.get(fleet.label, {}).values())),
                queries=queries.get("ours" if fleet.ours else "theirs"),
                writes=dict(writes.get(fleet.label, {})),
                drained_at=drained[fleet.label],
            )
        )
    return records


def _every_second(watch: Watch, trace: Trace, tell: Callable[[str], None]) -> None:
    told = 0
    while (elapsed := time.time() - watch.began) <= trace.seconds:
        watch.look()
        if elapsed >= told:
            told += 15
            states = (
                f"{label} {rows[-1].ready}/{rows[-1].replicas} ({rows[-1].backlog})"
                for label, rows in watch.seconds.items()
            )
            tell(f"{elapsed:4.0f} s  workers (backlog): " + "  ".join(states))
        time.sleep(max(0.0, 1.0 - (time.time() - watch.began) % 1.0))


@contextlib.contextmanager
def _outages(cluster: Cluster, trace: Trace, began: float) -> Iterator[None]:
    """Prometheus is away when the trace says so."""

    def away() -> None:
        for outage in trace.outages:
            time.sleep(max(0.0, began + outage.at - time.time()))
            cluster.api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 0)
            # It takes about two seconds until it answers again.
            time.sleep(max(0.0, began + outage.until - 2.0 - time.time()))
            cluster.api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 1)

    thread = threading.Thread(target=away, name="outages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=60)
        if trace.outages:
            cluster.api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 1)


def _drain(cluster: Cluster, fleets: Sequence[Fleet], began: float, published: int) -> dict[str, float | None]:
    """Wait until everything is done, as long as there is progress: what is missing then is lost."""
    done: dict[str, float | None] = {fleet.label: None for fleet in fleets}
    counts: dict[str, int] = {}
    moved = time.time()
    while None in done.values() and time.time() - moved < _STILL_SECONDS:
        for fleet in fleets:
            if done[fleet.label] is None:
                lines = cluster.redis(fleet.ledger_database).lrange("ledger", 0, -1)
                ended = len({line.split()[1] for line in lines if line[0] == "e"})  # type: ignore[union-attr]
                if ended != counts.get(fleet.label):
                    counts[fleet.label], moved = ended, time.time()
                if ended >= published:
                    done[fleet.label] = round(time.time() - began, 1)
        time.sleep(1.0)
    return done


def _held(broker: redis.Redis) -> dict[str, int]:
    """Every key with the number of its entries: where messages are that nobody executes."""
    sizes = {"list": broker.llen, "hash": broker.hlen, "zset": broker.zcard, "set": broker.scard}
    kinds = {key: str(broker.type(key)) for key in broker.scan_iter()}
    return {key: int(sizes[kind](key)) for key, kind in kinds.items() if kind in sizes}  # type: ignore[arg-type]


# --- counting
# -----------------------------------------------------------------------------------------------------------


def _counted(cluster: Cluster) -> dict[str, float]:
    """Prometheus queries so far: all of them, and ours, which the operator counts itself. The rest is KEDA's."""
    api = cluster.api
    counts: dict[str, float] = {}
    with contextlib.suppress(ApiError):
        text = str(api.pod(OPERATOR_NAMESPACE, leader(api) or "", OPERATOR_PORT, "/metrics"))
        counts["ours"] = _sum(text, r"^greenfleet_query_duration_seconds_count\S* (\S+)$")
        text = str(api.service(OPERATOR_NAMESPACE, PROMETHEUS, PROMETHEUS_PORT, "/metrics"))
        pattern = r'^prometheus_http_requests_total\{[^}]*handler="/api/v1/query"[^}]*\} (\S+)$'
        counts["theirs"] = _sum(text, pattern) - counts["ours"]
    return counts


def _sum(text: str, pattern: str) -> float:
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


def _rates(before: dict[str, float], after: dict[str, float], trace: Trace, theirs: int) -> dict[str, float | None]:
    """Per second and fleet. Prometheus forgets its own counters in an outage, so nothing is known of KEDA's then."""
    sharing = {"ours": 1, "theirs": theirs}
    known = before.keys() & after.keys() - ({"theirs"} if trace.outages or not theirs else set())
    rates = {who: round((after[who] - before[who]) / trace.seconds / sharing[who], 2) for who in known}
    return {who: rate for who, rate in rates.items() if rate >= 0}  # else another replica leads now


def _writes(audit: Path, offset: int, fleets: Sequence[Fleet]) -> dict[str, Counter[str]]:
    """From the API server's audit log: what each autoscaler wrote, its Events and status included, its Lease
    left out.
    """
    if not audit.exists():
        return {}
    if audit.stat().st_size < offset:
        offset = 0  # it was rotated
    known = in_namespaces(fleets)
    found: dict[str, Counter[str]] = {}
    with audit.open(encoding="utf-8") as file:
        file.seek(offset)
        for line in file:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                user = str(entry["user"]["username"])
                target = entry.get("objectRef") or {}
                fleet = known.get(target.get("namespace", ""))
                writers = (f"system:serviceaccount:{OPERATOR_NAMESPACE}:",) if fleet and fleet.ours else KEDA_USERS
                if fleet and user.startswith(writers):
                    resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
                    found.setdefault(fleet.label, Counter())[f"{entry['verb']} {resource}"] += 1
    return found


def is_ready(pod: dict[str, Any]) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _startup_seconds(pod: dict[str, Any]) -> float:
    ready = next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")
    moments = (pod["metadata"]["creationTimestamp"], ready["lastTransitionTime"])
    created, became = (datetime.fromisoformat(moment).timestamp() for moment in moments)
    return became - created
