"""What each field of the spec changes, and that it changes it in the least disruptive way.

Every field can be changed: none needs to be immutable, because each one is either part of a pod template, and then a
rolling update that starts a worker before it takes one carries it out, or it is read by the loop at its next tick. What
cannot change is a pool's name and namespace, and the API server sees to that.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from greenfleet.api import GreenWorkerPool, parse_pool
from greenfleet.api.pool import URL_PARTS
from greenfleet.controller.pods import scaling_spec
from greenfleet.manifests import children_of_pool, exporter_children
from greenfleet.manifests.names import Role
from greenfleet.manifests.pods import PodDefaults
from tests.golden.test_golden import HERE as GOLDEN
from tests.unit.operator.objects import Object, body, crd_schema

EVERYTHING: Object = yaml.safe_load((GOLDEN / "everything.pools.yaml").read_text(encoding="utf-8"))["spec"]

IN_PARTS: Object = yaml.safe_load((GOLDEN / "parts.pools.yaml").read_text(encoding="utf-8"))["spec"]

E, P = "eventlet", "prefork"
NOTHING: set[str] = set()
BOTH = {E, P}

# Field → another value, and the fleets whose pods are replaced by it.
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "app": ("other", BOTH),
    "image": ("registry.example/proj:1.5", BOTH),
    "imagePullPolicy": ("Never", BOTH),
    "imagePullSecrets": ([{"name": "other"}], BOTH),
    "agent": ("Installed", BOTH),
    "queues": (["feeds"], BOTH),
    "broker.urlFrom": ({"secretKeyRef": {"name": "other", "key": "url"}}, BOTH),
    **{
        f"{url}.{part}": (value, BOTH)
        for url in ("broker", "resultBackend")
        for part, value in {
            "transport": "rediss",
            "host": {"value": "other"},
            "port": {"value": 7},
            "path": {"secretKeyRef": {"name": "other", "key": "path"}},
            "username": {"value": "other"},
            "password": {"secretKeyRef": {"name": "other", "key": "password"}},
        }.items()
    },
    "broker.keyPrefix": ("b:", BOTH),
    "broker.prioritySteps": ([0], BOTH),
    "broker.consumerTimeout": ("31m", BOTH),
    "broker.metricsPort": (15692, NOTHING),
    "broker.caSecretRef": ({"name": "broker-ca", "key": "other"}, BOTH),
    "broker.insecureSkipVerify": (True, BOTH),
    "resultBackend.caSecretRef": ({"name": "results-ca", "key": "other"}, BOTH),
    "resultBackend.insecureSkipVerify": (True, BOTH),
    "resultBackend.urlFrom": ({"secretKeyRef": {"name": "results", "key": "other"}}, BOTH),
    # Bounds and scaling: read by the loop, no pod is replaced.
    "greenThreads.min": (21, NOTHING),
    "greenThreads.max": (1999, NOTHING),
    "greenThreads.start": (201, NOTHING),
    "greenThreads.total": (9999, NOTHING),
    "replicas.min": (3, NOTHING),
    "replicas.max": (21, NOTHING),
    "manualReplicas": (6, NOTHING),
    "scaling.mode": ("Manual", NOTHING),
    "scaling.pause": ("None", NOTHING),
    "scaling.maxWait": ("2m", NOTHING),
    "scaling.prometheus": ({"source": "greenfleet"}, NOTHING),
    "scaling.activationThreshold": (4, NOTHING),
    "scaling.cooldown": ("11m", NOTHING),
    "scaling.behavior": ({}, NOTHING),
    "scaling.schedules": ([], NOTHING),
    "scaling.onMissingMetrics": ({"policy": "Hold"}, NOTHING),
    "network.egress": ([{"ports": [{"port": 6379}]}], NOTHING),
    "prefork.replicas": ({"min": 1, "max": 5}, NOTHING),
    "prefork.autoRoute": (True, NOTHING),
    "prefork.processes": (3, {P}),
    "prefork.resources": ({"limits": {"memory": "3Gi"}}, {P}),
    "prefork.tasks": ([], BOTH),
    "prefork.env": ([], {P}),
    "prefork.nodeSelector": ({}, {P}),
    "prefork.tolerations": ([], {P}),
    "prefork.affinity": ({"podAffinity": {}}, {P}),
    "prefork.topologySpreadConstraints": (None, {P}),
    "prefork.priorityClassName": ("other", {P}),
    "exporter.nodeSelector": ({}, NOTHING),
    "exporter.tolerations": ([], NOTHING),
    "exporter.affinity": ({"podAffinity": {}}, NOTHING),
    "exporter.priorityClassName": ("other", NOTHING),
    "exporter.labels": ({}, NOTHING),
    "exporter.annotations": ({}, NOTHING),
    "exporter.resources": ({"limits": {"memory": "96Mi"}}, NOTHING),
    "hubWatchdog.warnAfter": ("300ms", BOTH),
    "hubWatchdog.restartAfter": ("3m", BOTH),
    "taskTimeLimits.soft": ("31s", BOTH),
    "taskTimeLimits.hard": ("46s", BOTH),
    "recycle.maxAge": ("13h", BOTH),
    "recycle.maxMemory": ("769Mi", BOTH),
    "recycle.maxTasks": (1, BOTH),
    "drain.timeout": ("3m", BOTH),
    "deadLetter.maxDeliveries": (4, BOTH),
    "worker.env": ([], BOTH),
    "worker.envFrom": ([], BOTH),
    "worker.resources": ({"limits": {"cpu": 1, "memory": "2Gi"}}, {E}),
    "worker.startupBoost": ({"cpu": "500m"}, NOTHING),  # what turns the boost on or off is a test of its own, below
    "worker.nodeSelector": ({}, {E}),  # the companion of this pool has its own
    "worker.tolerations": ([], {E}),
    "worker.affinity": (None, BOTH),
    "worker.topologySpreadConstraints": ([], {E}),
    "worker.wrapper": (["ddtrace-run"], BOTH),
    "worker.podTemplatePatch": ({"spec": {"dnsPolicy": "None"}}, BOTH),
    "worker.volumes": ([], BOTH),
    "worker.volumeMounts": ([], BOTH),
    "worker.serviceAccountName": ("other", BOTH),
    "worker.priorityClassName": ("other", {E}),
    "worker.labels": ({"team": "other"}, BOTH),
    "worker.annotations": ({"checksum/settings": "b1946ac9"}, BOTH),
    "worker.extraArgs": ([], BOTH),
    "worker.prefetchMultiplier": (3, BOTH),
    "worker.python": ("python3.12", BOTH),
    "worker.acceptContent": (["json", "pickle"], BOTH),
    "worker.remoteControl": ("Full", BOTH),
    "worker.securityContext": ({"runAsUser": 1001}, BOTH),
}

PATCHES = PodDefaults(allow_patch=True)
READ_BY_THE_LOOP = {"scaling.prometheus", "prefork.autoRoute", "worker.startupBoost"}
"""Neither in a manifest nor in the autoscaler's own spec: which query is asked, whether tasks are auto-routed, and what
pods may use that start.
"""


def base(field: str) -> Object:
    """What is changed: a URL is whole or in parts."""
    spec = copy.deepcopy(EVERYTHING)
    group, _, name = field.partition(".")
    if name in URL_PARTS:
        spec[group] = copy.deepcopy(IN_PARTS[group])
    return spec


def changed(field: str) -> GreenWorkerPool:
    spec = base(field)
    *groups, name = field.split(".")
    place = spec
    for group in groups:
        place = place[group]
    place[name] = CHANGES[field][0]
    if place[name] is None:
        del place[name]
    return parse_pool(body("everything", **spec))


def original(field: str = "") -> GreenWorkerPool:
    return parse_pool(body("everything", **base(field)))


def templates(pool: GreenWorkerPool) -> dict[str, Object]:
    children = children_of_pool(pool, "greenfleet/worker:1", "IfNotPresent", defaults=PATCHES)
    return {
        child.manifest["metadata"]["labels"]["greenfleet.io/role"]: child.manifest["spec"]["template"]
        for child in children
        if child.is_deployment
    }


def test_the_table_has_every_field_of_the_spec() -> None:
    fields = set()
    for name, schema in crd_schema("spec")["properties"].items():
        inner = schema.get("properties")
        fields |= {f"{name}.{child}" for child in inner} if inner else {name}
    assert fields == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_replaces_the_pods_that_it_must_and_no_others(field: str) -> None:
    before, after = templates(original(field)), templates(changed(field))
    assert {role for role in before if before[role] != after[role]} == CHANGES[field][1]


def test_a_boost_above_the_limit_where_there_was_none_replaces_pods_because_the_agent_loses_its_limit() -> None:
    spec = copy.deepcopy(EVERYTHING)
    spec["worker"]["startupBoost"] = {"cpu": "1500m"}
    before, after = templates(original()), templates(parse_pool(body("everything", **spec)))
    assert {role for role in before if before[role] != after[role]} == {E}


@pytest.mark.parametrize("field", sorted(CHANGES.keys() - READ_BY_THE_LOOP))
def test_every_change_has_an_effect(field: str) -> None:
    def everything(pool: GreenWorkerPool) -> list[Any]:
        children = [
            *children_of_pool(pool, "a", "IfNotPresent", defaults=PATCHES),
            *exporter_children([pool], "a", "IfNotPresent", []),
        ]
        return [child.manifest for child in children] + [
            scaling_spec(pool, role, 2.0) for role in (Role.EVENTLET, Role.PREFORK)
        ]

    assert everything(original(field)) != everything(changed(field))


@pytest.mark.parametrize("role", [E, P])
def test_a_rolling_update_starts_a_worker_before_it_takes_one(role: str) -> None:
    """And the one that goes has its whole drain: with late acks a rolling update loses nothing."""
    children = children_of_pool(original(), "greenfleet/worker:1", "IfNotPresent")
    (fleet,) = [one.manifest for one in children if one.is_deployment and one.name.endswith(role)]
    assert fleet["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert fleet["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120 + 15
