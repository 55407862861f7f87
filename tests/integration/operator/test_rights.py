"""The operator under exactly the rights that its chart gives it: nothing is forbidden to it, and no right goes unused."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.operator.conftest import WorldMaker
from tests.integration.operator.harness import Object, Operator, eventually, kubectl, only_exporters
from tests.integration.operator.rights import Identity, operators_identity

REQUEST = re.compile(
    r'^greenfleet_api_requests_total\{resource="([^"]*)",status="(\d+)",verb="([A-Z]+)"\} ([0-9.e+]+)', re.M
)
NEEDED_ELSEWHERE = {
    ("get", "deployments"),
    ("get", "poddisruptionbudgets"),
    ("get", "pods"),
    ("get", "greenworkerpools"),
}
"""Reads of one object, which kopf or a slow path may ask for, beside the lists and watches that are seen here."""


def _requests(operator: Operator) -> dict[tuple[str, str], set[int]]:
    """(verb, resource) → the statuses that the API server answered with."""
    seen: dict[tuple[str, str], set[int]] = {}
    for resource, status, verb, _ in REQUEST.findall(operator.get("/metrics")):
        rights_verb = {"POST": "create", "PUT": "update"}.get(verb, verb.lower())
        seen.setdefault((rights_verb, resource), set()).add(int(status))
    return seen


def _never_forbidden(operator: Operator) -> None:
    forbidden = {what for what, statuses in _requests(operator).items() if statuses & {401, 403}}
    assert not forbidden, operator.tail(40)
    assert "forbidden" not in operator.text().lower(), operator.tail(40)


def test_in_named_namespaces_nothing_is_forbidden_and_every_right_to_write_is_used(
    make_world: WorldMaker, tmp_path: Path
) -> None:
    world = make_world("rights")
    shop = world.namespace
    identity = operators_identity(shop, tmp_path, [shop.name])
    operator = world.operator()
    operator.start(identity.kubeconfig)
    shop.apply_pool(
        "feeds",
        replicas={"min": 1, "max": 2},
        prefork={"replicas": {"min": 0}},
        recycle={"maxAge": "3s"},
        agent="installed",
        queues=[f"{shop.name}-feeds"],
    )
    shop.await_condition("feeds", "Ready", "True")
    eventually(lambda: _told_threads(shop.pods("feeds")), "a worker is told its green threads", 40, operator.tail)
    eventually(lambda: shop.events("feeds", "Recycled"), "a worker is evicted", 60, operator.tail)
    shop.api.merge(shop.path("greenworkerpools", "feeds"), {"spec": {"prefork": None, "recycle": None}})
    eventually(lambda: shop.deployment("feeds", "prefork") is None, "the companion is removed")
    shop.secret("other", url=world.redis.url)
    shop.api.merge(
        shop.path("greenworkerpools", "feeds"), {"spec": {"broker": {"secretRef": {"name": "other", "key": "url"}}}}
    )
    eventually(lambda: len(_exporters(shop.api.items(shop.path("deployments")))) == 1, "the old exporter is removed")
    _never_forbidden(operator)
    assert _unused(identity, operator) <= {
        # deleted with their owner by the collector, unless the pool stays and stops wanting them
        ("delete", "configmaps"),
        ("create", "configmaps"),  # server-side apply is a patch, and needs the right to create
        ("create", "deployments"),
        ("create", "poddisruptionbudgets"),
        ("patch", "events"),
        ("patch", "leases"),
    }
    operator.stop()
    shop.delete_pool("feeds", wait=False)


def _told_threads(pods: list[Object]) -> bool:
    return any("greenfleet.io/threads" in (pod["metadata"].get("annotations") or {}) for pod in pods)


def _exporters(deployments: list[Object]) -> list[Object]:
    return [one for one in deployments if one["metadata"]["name"].startswith("greenfleet-queues-")]


def _unused(identity: Identity, operator: Operator) -> set[tuple[str, str]]:
    used = set(_requests(operator))
    readings = {(verb, resource) for verb, resource in identity.rights() if verb in {"get", "list", "watch"}}
    return identity.rights() - used - readings


def test_in_the_whole_cluster_nothing_is_forbidden(make_world: WorldMaker, tmp_path: Path) -> None:
    world = make_world("wide", runs=only_exporters)
    shop = world.namespace
    identity = operators_identity(shop, tmp_path, [])
    operator = world.operator(namespaces=[])
    operator.start(identity.kubeconfig)
    shop.apply_pool("feeds", replicas={"min": 1, "max": 2}, queues=[f"{shop.name}-feeds"])
    shop.await_condition("feeds", "Ready", "True")
    shop.api.delete(shop.path("deployments", "feeds-eventlet"))
    eventually(lambda: shop.deployment("feeds"), "what was deleted by hand comes back")
    _never_forbidden(operator)
    operator.stop()
    shop.delete_pool("feeds", wait=False)


def test_the_operator_itself_can_read_no_secret_run_nothing_in_a_pod_and_change_no_image(
    make_world: WorldMaker, tmp_path: Path
) -> None:
    world = make_world("narrow", runs=only_exporters)
    shop = world.namespace
    identity = operators_identity(shop, tmp_path, [])
    for attempt in (
        ("get", "secrets"),
        ("list", "secrets", "--all-namespaces"),
        ("watch", "secrets"),
        ("create", "pods"),
        ("update", "pods"),
        ("patch", "pods"),
        ("create", "pods/exec"),
        ("get", "configmaps"),
        ("create", "serviceaccounts/token"),
        ("update", "greenworkerpools.greenfleet.io"),
        ("patch", "greenworkerpools.greenfleet.io"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
    ):
        asked = kubectl(shop.api, f"--kubeconfig={identity.kubeconfig}", "auth", "can-i", *attempt, "-n", shop.name)
        assert asked.stdout.strip().endswith("no"), attempt
    allowed = kubectl(
        shop.api, f"--kubeconfig={identity.kubeconfig}", "auth", "can-i", "patch", "pods/status", "-n", shop.name
    )
    assert allowed.stdout.strip() == "yes", "the question itself works"
