"""Looks at the cluster once a second and says what it sees, as snapshots and reasons.

Whatever does not answer is missing in the snapshot, never zero by guess: a demo of an autoscaler that holds when its
metrics are missing must not be fooled itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from demo.api import Api, ApiError, condition, pool_path
from demo.timeline import Reason, Snapshot, Worker

OPERATOR_NAMESPACE = "greenfleet-system"
OPERATOR_PORT = 9541
PROMETHEUS, PROMETHEUS_PORT = "greenfleet-prometheus", 9090
"""The bundled one, in the operator's namespace."""
PRODUCER, PRODUCER_PORT = "producer", 8081
LEASE = "greenfleet"

_THREADS = "greenfleet.io/threads"
_SERIES = ("greenworker_threads_limit", "greenworker_threads_busy")
_SLOW_SECONDS = 3.0
"""How often Events and the operator's own account are asked for: they do not move every second."""

_SAME_SECONDS = 10.0

T = TypeVar("T")

Gauges = dict[str, dict[str, float]]
"""Metric → worker → value."""


class Observer:
    """One pool, seen from outside."""

    def __init__(self, api: Api, *, namespace: str, pool: str) -> None:
        self._api = api
        self._namespace = namespace
        self._pool = pool
        self._began = time.time()
        self._told: set[str] = set()
        self._said: dict[str, float] = {}
        self._why = ""
        self._slow_at = 0.0
        self._last: Snapshot | None = None

    def look(self) -> tuple[Snapshot, list[Reason]]:
        """Look once."""
        reasons = self._slow()
        pool = self._try(lambda: self._api.get(pool_path(self._namespace, self._pool))) or {}
        reasons += self._last_scale(pool)
        state = self._try(lambda: self._api.service(self._namespace, PRODUCER, PRODUCER_PORT, "/state"))
        gauges = self._gauges()
        pods = self._try(
            lambda: self._api.items(f"/api/v1/namespaces/{self._namespace}/pods", labelSelector=self._selector())
        )
        available = condition(pool, "MetricsAvailable")
        last = self._last
        snapshot = Snapshot(
            at=time.time(),
            phase=_kept(state, "phase", last.phase if last else ""),
            sent=_kept(state, "sent", last.sent if last else 0),
            executions=_kept(state, "executions", last.executions if last else 0),
            waiting=_kept(state, "waiting", last.waiting if last else 0),
            unacked=_kept(state, "unacked", last.unacked if last else 0),
            oldest_seconds=_kept(state, "oldest_seconds", last.oldest_seconds if last else 0.0),
            finished=_kept(state, "finished", last.finished if last else False),
            producer_error=_kept(state, "error", ""),
            phase_started_at=_phase_started_at(state, last),
            desired=self._desired(),
            workers=_workers(pods, gauges or {}) if pods is not None else (last.workers if last else ()),
            prometheus=gauges is not None,
            metrics_available=None if available is None else available.get("status") == "True",
            why=self._why or _last_scale_text(pool),
        )
        self._last = snapshot
        return snapshot, [reason for reason in reasons if self._is_new(reason)]

    def _is_new(self, reason: Reason) -> bool:
        """The operator says a change twice, in an Event and in `status.lastScale`: once is enough here."""
        known = self._said.get(reason.text)
        self._said[reason.text] = reason.at
        return known is None or abs(reason.at - known) > _SAME_SECONDS

    def account(self) -> dict[str, Any]:
        """The ledger held against what was sent."""
        path = f"/api/v1/namespaces/{self._namespace}/services/{PRODUCER}:{PRODUCER_PORT}/proxy/account"
        return dict(self._api.request("GET", path, timeout_seconds=60))

    def _selector(self) -> str:
        return f"greenfleet.io/pool={self._pool},greenfleet.io/role=eventlet"

    def _desired(self) -> int:
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{self._pool}-eventlet"
        deployment = self._try(lambda: self._api.find(path))
        if deployment is None:
            return self._last.desired if self._last else 0
        return int(deployment["spec"].get("replicas", 1))

    def _gauges(self) -> Gauges | None:
        query = f'{{__name__=~"{"|".join(_SERIES)}",pool="{self._namespace}/{self._pool}"}}'
        answer = self._try(
            lambda: self._api.service(OPERATOR_NAMESPACE, PROMETHEUS, PROMETHEUS_PORT, "/api/v1/query", query=query)
        )
        if not isinstance(answer, dict) or answer.get("status") != "success":
            return None
        gauges: Gauges = {name: {} for name in _SERIES}
        for series in answer["data"]["result"]:
            labels = series["metric"]
            gauges[labels["__name__"]][labels.get("worker", labels.get("pod", ""))] = float(series["value"][1])
        return gauges

    def _slow(self) -> list[Reason]:
        if time.monotonic() - self._slow_at < _SLOW_SECONDS:
            return []
        self._slow_at = time.monotonic()
        self._why = self._ask_why()
        return self._events()

    def _ask_why(self) -> str:
        leader_pod = self._try(lambda: leader(self._api))
        if not leader_pod:
            return ""
        path = f"/api/v1/pools/{self._namespace}/{self._pool}/why"
        answer = self._try(lambda: self._api.pod(OPERATOR_NAMESPACE, leader_pod, OPERATOR_PORT, path))
        return _summary(answer)

    def _events(self) -> list[Reason]:
        selector = f"involvedObject.kind=GreenWorkerPool,involvedObject.name={self._pool}"
        events = self._try(
            lambda: self._api.items(f"/api/v1/namespaces/{self._namespace}/events", fieldSelector=selector)
        )
        reasons = []
        for event in events or []:
            at = _event_time(event)
            key = f"{event['metadata']['uid']}/{event.get('count') or (event.get('series') or {}).get('count')}"
            if at >= self._began - 1 and key not in self._told:
                self._told.add(key)
                reasons.append(Reason(at, f"Event/{event.get('reason', '')}", str(event.get("message", ""))))
        return sorted(reasons, key=lambda reason: reason.at)

    def _last_scale(self, pool: Mapping[str, Any]) -> list[Reason]:
        last = (pool.get("status") or {}).get("lastScale") or {}
        at = unix_time(str(last.get("time") or ""))
        key = f"{last.get('time')} {last.get('message')}"
        if at < self._began - 1 or key in self._told:
            return []
        self._told.add(key)
        return [Reason(at, "lastScale", str(last.get("message", "")))]

    @staticmethod
    def _try(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except ApiError:
            return None


def leader(api: Api) -> str | None:
    """Name of the operator pod that holds the Lease."""
    lease = api.find(f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/{LEASE}")
    holder = str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")
    # A holder may add something of its own behind the pod's name.
    return holder.partition("_")[0].rpartition("/")[2] or None


def unix_time(text: str) -> float:
    """Of an RFC 3339 time; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _workers(pods: list[dict[str, Any]], gauges: Gauges) -> tuple[Worker, ...]:
    limits, busy = (gauges.get(name, {}) for name in _SERIES)
    workers = []
    for pod in pods:
        name = pod["metadata"]["name"]
        status = pod.get("status") or {}
        if status.get("phase") in {"Succeeded", "Failed"}:
            continue
        ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or [])
        asked = (pod["metadata"].get("annotations") or {}).get(_THREADS)
        workers.append(
            Worker(
                name=name,
                ready=ready,
                leaving="deletionTimestamp" in pod["metadata"],
                asked=int(asked) if asked and str(asked).isdecimal() else None,
                limit=int(limits[name]) if name in limits else None,
                busy=int(busy[name]) if name in busy else None,
            )
        )
    return tuple(sorted(workers, key=lambda worker: worker.name))


def _kept(state: Any, key: str, last: T) -> T:
    """The producer's figure, or the last known one while it does not answer."""
    value = state.get(key, last) if isinstance(state, dict) else last
    return value if isinstance(value, type(last)) else last


def _phase_started_at(state: Any, last: Snapshot | None) -> float:
    """On our clock: the producer tells its own time along with it."""
    if not isinstance(state, dict) or "at" not in state:
        return last.phase_started_at if last else 0.0
    return float(state["phase_started_at"]) + time.time() - float(state["at"])


def _summary(answer: Any) -> str:
    """The one sentence in the operator's account of its last decision, wherever it is in there."""
    if isinstance(answer, dict):
        for key in ("summary", "text"):
            if isinstance(answer.get(key), str):
                return str(answer[key])
        for value in answer.values():
            found = _summary(value)
            if found:
                return found
    elif isinstance(answer, list) and answer:
        return _summary(answer[-1])
    return ""


def _last_scale_text(pool: Mapping[str, Any]) -> str:
    return str(((pool.get("status") or {}).get("lastScale") or {}).get("message") or "")


def _event_time(event: Mapping[str, Any]) -> float:
    series = event.get("series") or {}
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        if text:
            return unix_time(str(text))
    return unix_time(str(event["metadata"].get("creationTimestamp") or ""))
