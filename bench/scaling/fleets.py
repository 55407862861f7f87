"""The fleets that are compared: the same pods in a namespace of its own for each autoscaler, and what scales them.

The pods of KEDA's fleets are built by the operator's own code, so that nothing differs but who decides: they are
Deployments with the worker runtime and a fixed number of green threads. That flatters KEDA, whose users would run stock
Celery.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import greenfleet
from bench.scaling.load import QUEUE
from greenfleet.api import GROUP as POOL_GROUP
from greenfleet.api import VERSION, GreenWorkerPool
from greenfleet.api.pool import parse_pool
from greenfleet.manifests import Role, children_of_pool, exporter_children
from greenfleet.manifests.config import start_threads
from greenfleet.manifests.names import fleet_name
from greenfleet.simulator.autoscalers import Autoscaler, Keda, autoscaler_named
from greenfleet.simulator.traces import Trace

POOL = "work"
IMAGE = f"greenfleet/worker:{greenfleet.__version__}"
APP = Path(__file__).parent / "app" / "bench_tasks.py"
OURS = "greenfleet"
OVERHEAD_CPU = 0.0015
"""CPU seconds that a saturated worker of 0.1 cores needs for a task besides what the task burns, ledger included: with
tasks that burn 4.1 ms and always something waiting it starts 15.7 a second, whether it has 45, 65 or 200 green threads,
next to 0.01 cores at rest. (On another machine 0.9 ms.) One task at a time costs it two milliseconds more, for nothing
is fetched together then.
"""

REDIS_HOST = "redis.demo.svc.cluster.local."
_FIRST_DATABASE = 2

Object = tuple[str, dict[str, Any]]
"""Path in the API, and manifest."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One autoscaler on the cluster."""

    label: str
    """`greenfleet`, `default`, `single`, …: the role of the autoscaler in the comparison."""
    autoscaler: str
    """As the simulator calls it."""
    index: int

    @property
    def namespace(self) -> str:
        return f"bench-{self.label}"

    @property
    def ours(self) -> bool:
        return self.autoscaler == OURS

    @property
    def broker_database(self) -> int:
        return _FIRST_DATABASE + 2 * self.index

    @property
    def ledger_database(self) -> int:
        return self.broker_database + 1

    @property
    def keda(self) -> Keda:
        autoscaler: Autoscaler = autoscaler_named(self.autoscaler)
        assert isinstance(autoscaler, Keda)
        return autoscaler

    @property
    def deployment(self) -> str:
        return fleet_name(POOL, Role.EVENTLET)


def pool_body(fleet: Fleet, trace: Trace) -> dict[str, Any]:
    """The GreenWorkerPool. For Greenfleet itself it says what the other autoscalers are told too, and `maxWait`;
    nothing else is set.
    """
    tasks = asdict(trace)
    wanted = ("runtime", "cpu", "blocking", "blocking_seconds", "downstream", "changes")
    told = {key: tasks[key] for key in wanted}
    if trace.startup[0] > 20:
        told["startup"] = [trace.startup[0] - 7, trace.startup[1] - 11]
    env = {
        "PYTHONPATH": "/bench",
        "BENCH_LEDGER": f"redis://{REDIS_HOST}:6379/{fleet.ledger_database}",
        "BENCH_TASKS": json.dumps(told),
        "BENCH_OVERHEAD_CPU": str(OVERHEAD_CPU),
    }
    cores = f"{round(trace.cores * 1000)}m"
    return {
        "apiVersion": f"{POOL_GROUP}/{VERSION}",
        "kind": "GreenWorkerPool",
        "metadata": {"name": POOL, "namespace": fleet.namespace},
        "spec": {
            "app": "bench_tasks",
            "image": IMAGE,
            "agent": "Installed",
            "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
            "queues": [QUEUE],
            "replicas": {"min": 0, "max": trace.replicas_max},
            "scaling": {"maxWait": f"{trace.max_wait:g}s"},
            "worker": {
                "env": [{"name": name, "value": value} for name, value in env.items()],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "64Mi"},
                    "limits": {"cpu": cores, "memory": "256Mi"},
                },
                "volumes": [{"name": "app", "configMap": {"name": "app"}}],
                "volumeMounts": [{"name": "app", "mountPath": "/bench"}],
            },
        },
    }


def surroundings(fleet: Fleet) -> list[Object]:
    """What every fleet has before its first pod."""
    base = f"/api/v1/namespaces/{fleet.namespace}"
    names = {"namespace": fleet.namespace}
    url = f"redis://{REDIS_HOST}:6379/{fleet.broker_database}"
    return [
        (base, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": fleet.namespace}}),
        (
            f"{base}/secrets/broker",
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broker", **names}, "stringData": {"url": url}},
        ),
        (
            f"{base}/configmaps/app",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "app", **names},
                "data": {APP.name: APP.read_text(encoding="utf-8")},
            },
        ),
    ]


def deployments(fleet: Fleet, trace: Trace) -> list[Object]:
    """A KEDA user's fleet: Deployment, ConfigMap and exporter, made by the operator's own code for a pool that does not
    exist.
    """
    body = pool_body(fleet, trace)
    body["metadata"]["uid"] = "none"
    pool: GreenWorkerPool = parse_pool(body)
    threads = fleet.keda.threads
    manifests = [child.manifest for child in children_of_pool(pool, IMAGE, "IfNotPresent")]
    manifests += [child.manifest for child in exporter_children([pool], IMAGE, "IfNotPresent", [])]
    objects: list[Object] = []
    for manifest in manifests:
        manifest["metadata"].pop("ownerReferences", None)
        if manifest["kind"] == "PodDisruptionBudget":
            continue
        if manifest["kind"] == "ConfigMap":
            manifest["data"] |= start_threads(pool, threads)["data"]
        if manifest["metadata"]["name"] == fleet.deployment:
            manifest["spec"]["replicas"] = trace.start_replicas
            manifest["spec"]["template"]["metadata"]["annotations"]["greenfleet.io/threads"] = str(threads)
        group = "/api/v1" if manifest["apiVersion"] == "v1" else f"/apis/{manifest['apiVersion']}"
        kind = f"{manifest['kind'].lower()}s"
        objects.append((f"{group}/namespaces/{fleet.namespace}/{kind}/{manifest['metadata']['name']}", manifest))
    return objects


def scaled_object(fleet: Fleet, trace: Trace, prometheus: str) -> Object:
    """KEDA's side, from the same figures that the simulator's autoscaler has. `prometheus` is a URL that works outside
    of the cluster.
    """
    autoscaler = fleet.keda
    metrics = "greenfleet_queue_messages_ready" + (
        "|greenfleet_queue_messages_unacked" if autoscaler.count_unacked else ""
    )
    query = f'sum({{__name__=~"{metrics}",namespace="{fleet.namespace}",queue="{QUEUE}"}})'
    spec: dict[str, Any] = {
        "scaleTargetRef": {"name": fleet.deployment},
        "minReplicaCount": 0,
        "maxReplicaCount": trace.replicas_max,
        # Else KEDA takes the first worker away at once: it counts its cooldown from activity that it has seen itself.
        "initialCooldownPeriod": 300,
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {"serverAddress": prometheus, "query": query, "threshold": f"{autoscaler.target:g}"},
            }
        ],
    }
    if autoscaler.name != "keda-default":
        window = autoscaler.down.stabilization_window_seconds or 0
        spec["pollingInterval"] = int(autoscaler.poll_seconds)
        spec["advanced"] = {
            "horizontalPodAutoscalerConfig": {
                "behavior": {
                    "scaleUp": {
                        "stabilizationWindowSeconds": 0,
                        "selectPolicy": "Max",
                        "policies": [{"type": "Pods", "value": 1000, "periodSeconds": 1}],
                    },
                    "scaleDown": {
                        "stabilizationWindowSeconds": window,
                        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
                    },
                }
            }
        }
    # The HPA remembers recommendations by its name, which is this one: another trace must not inherit them.
    name = trace.name
    return (
        f"/apis/keda.sh/v1alpha1/namespaces/{fleet.namespace}/scaledobjects/{name}",
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": name, "namespace": fleet.namespace},
            "spec": spec,
        },
    )


def fleets(autoscalers: Mapping[str, str]) -> list[Fleet]:
    """The fleets of one run, by label."""
    return [Fleet(label, autoscaler, index) for index, (label, autoscaler) in enumerate(autoscalers.items())]


def threads_of_metrics(text: str) -> int | None:
    """Green threads in a worker's own exposition."""
    found = re.search(r"^greenworker_threads_limit\S* (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


def in_namespaces(fleets: Sequence[Fleet]) -> dict[str, Fleet]:
    """By namespace."""
    return {fleet.namespace: fleet for fleet in fleets}
