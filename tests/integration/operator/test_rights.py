"""The operator under exactly the rights that its chart gives it: nothing is forbidden to it, and no right goes
unused.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import (
    STAND_IN,
    Api,
    Namespace,
    Object,
    Operator,
    eventually,
    live_node,
    only_exporters,
)
from tests.integration.operator.rights import Identity, identity_of_the_tester, may, operators_identity

APPLIED = {
    ("create", resource) for resource in ("configmaps", "deployments", "networkpolicies", "poddisruptionbudgets")
}
"""Server-side apply is a patch in the metrics, and needs the right to create besides."""
REQUEST = re.compile(
    r'^greenfleet_api_requests_total\{resource="([^"]*)",status="(\d+)",verb="([A-Z]+)"\} ([0-9.e+]+)', re.M
)


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


def test_in_named_namespaces_nothing_is_forbidden_and_no_right_goes_unused(
    make_world: WorldMaker, tmp_path: Path, api: Api
) -> None:
    with live_node(api, STAND_IN):  # a pod on a node that nobody knows cannot be resized
        _use_every_right(make_world("rights"), tmp_path)


def _use_every_right(world: World, tmp_path: Path) -> None:
    shop = world.namespace
    identity = operators_identity(shop, tmp_path, [shop.name])
    operator = world.operator()
    operator.start(identity.kubeconfig)
    shop.apply_pool(
        "feeds",
        replicas={"min": 1, "max": 2},
        prefork={"replicas": {"min": 0}},
        recycle={"maxAge": "3s"},
        worker={"resources": {"limits": {"cpu": "900m"}, "requests": {"cpu": "100m"}}},
        network={"egress": [{"to": [{"podSelector": {}}]}]},
        agent="Installed",
        queues=[f"{shop.name}-feeds"],
    )
    shop.await_condition("feeds", "Ready", "True")
    eventually(
        lambda: _has_threads_annotation(shop.pods("feeds")), "a worker is told its green threads", 40, operator.tail
    )
    eventually(lambda: shop.events("feeds", "Recycled"), "a worker is evicted", 60, operator.tail)
    shop.api.merge(
        shop.path("greenworkerpools", "feeds"), {"spec": {"prefork": None, "recycle": None, "network": None}}
    )
    eventually(lambda: shop.deployment("feeds", "prefork") is None, "the companion is removed")
    eventually(lambda: not shop.api.items(shop.path("networkpolicies")), "the policies are removed")
    shop.secret("other", url=world.redis.url)
    shop.api.merge(
        shop.path("greenworkerpools", "feeds"),
        {"spec": {"broker": {"urlFrom": {"secretKeyRef": {"name": "other", "key": "url"}}}}},
    )
    eventually(lambda: len(_exporters(shop.api.items(shop.path("deployments")))) == 1, "the old exporter is removed")
    _never_forbidden(operator)
    assert _unused(identity, operator) <= APPLIED
    operator.stop()
    shop.delete_pool("feeds", wait=False)


def _has_threads_annotation(pods: list[Object]) -> bool:
    return any("greenfleet.io/threads" in (pod["metadata"].get("annotations") or {}) for pod in pods)


def _exporters(deployments: list[Object]) -> list[Object]:
    return [one for one in deployments if one["metadata"]["name"].startswith("greenfleet-queues-")]


def _unused(identity: Identity, operator: Operator) -> set[tuple[str, str]]:
    """A GET is a `get` or a `list`: what may be read by name is the Lease alone, as the golden roles say."""
    used = set(_requests(operator))
    read = {resource for verb, resource in used if verb == "get" and resource != "leases"}
    used |= {(verb, resource) for verb in ("list", "watch") for resource in read}  # a watch is counted when it ends
    used |= {("list", "greenworkerpools"), ("watch", "greenworkerpools")}  # kopf's, which has a client of its own
    return identity.rights() - used


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


def test_a_pool_where_a_policy_forbids_it_is_stalled_and_says_so(make_world: WorldMaker, tmp_path: Path) -> None:
    """In kube-system, where the chart's own policy lets the operator write nothing."""
    world = make_world("system", runs=only_exporters)
    identity = operators_identity(world.namespace, tmp_path, [])
    operator = world.operator(namespaces=[])
    operator.start(identity.kubeconfig)
    system = copy.copy(world.namespace)
    system.name = "kube-system"
    name = f"{world.namespace.name}-feeds"
    try:
        system.apply_pool(name)
        said = system.await_condition(name, "Stalled", "True", "Refused")
        assert "namespace is kube-system, in which the operator of Greenfleet writes nothing" in said["message"]
        assert system.deployment(name) is None
    finally:
        system.delete_pool(name, wait=False)
    operator.stop()


NEVER = (
    ("get", "/secrets"),
    ("list", "/secrets"),
    ("watch", "/secrets"),
    ("get", "/configmaps"),
    ("list", "/configmaps"),
    ("create", "/pods"),
    ("update", "/pods"),
    ("patch", "/pods"),
    ("delete", "/pods"),
    ("create", "/pods/exec"),
    ("create", "/pods/attach"),
    ("create", "/pods/ephemeralcontainers"),
    ("patch", "/pods/ephemeralcontainers"),
    ("create", "/serviceaccounts/token"),
    ("impersonate", "/users"),
    ("impersonate", "/serviceaccounts"),
    ("get", "/nodes"),
    ("update", "greenfleet.io/greenworkerpools"),
    ("patch", "greenfleet.io/greenworkerpools"),
    ("create", "rbac.authorization.k8s.io/rolebindings"),
    ("create", "rbac.authorization.k8s.io/clusterrolebindings"),
    ("escalate", "rbac.authorization.k8s.io/clusterroles"),
    ("bind", "rbac.authorization.k8s.io/clusterroles"),
    ("patch", "apiextensions.k8s.io/customresourcedefinitions"),
)


def test_the_operator_itself_can_read_no_secret_run_nothing_in_a_pod_and_change_no_image(
    make_world: WorldMaker, tmp_path: Path
) -> None:
    """With the widest rights that the chart gives, in its own namespace, in another, and in all."""
    shop = make_world("narrow", runs=only_exporters).namespace
    user = operators_identity(shop, tmp_path, []).user
    for namespace in (shop.name, "kube-system", ""):
        assert may(shop.api, user, "patch", "/pods/status", namespace), "what it has is seen"
        assert not [right for right in NEVER if may(shop.api, user, *right, namespace)]


def test_in_named_namespaces_the_operator_has_no_right_elsewhere(make_world: WorldMaker, tmp_path: Path) -> None:
    shop = make_world("named", runs=only_exporters).namespace
    user = operators_identity(shop, tmp_path, [shop.name]).user
    for right in (("list", "greenfleet.io/greenworkerpools"), ("patch", "apps/deployments"), ("list", "/pods")):
        assert may(shop.api, user, *right, shop.name)
        assert not may(shop.api, user, *right, "kube-system")
        assert not may(shop.api, user, *right)


def _wait(shop: Namespace, identity: Identity, timeout: str, *more: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` runs."""
    command = [
        sys.executable,
        "-m",
        "greenfleet",
        "wait",
        f"--timeout={timeout}",
        f"--kubeconfig={identity.kubeconfig}",
    ]
    places = [f"--operator-namespace={shop.name}", f"--namespace={shop.name}", *more]
    return subprocess.run([*command, *places], check=False, capture_output=True, text=True)


def test_helm_tests_own_rights_suffice_to_wait_for_pools_and_it_says_what_it_waits_for(
    make_world: WorldMaker, tmp_path: Path
) -> None:
    world = make_world("tested", runs=only_exporters)
    shop = world.namespace
    identity = identity_of_the_tester(shop, tmp_path, [shop.name])
    nobody = _wait(shop, identity, "1s")
    assert nobody.returncode == 1
    assert "waiting" in nobody.stdout
    world.operator().start()
    shop.apply_pool(
        "feeds", replicas={"min": 1, "max": 1}, broker={"urlFrom": {"secretKeyRef": {"name": "late", "key": "url"}}}
    )
    shop.await_condition("feeds", "Stalled", "True", "ReferenceMissing")
    stalled = _wait(shop, identity, "1s")
    assert stalled.returncode == 1
    assert f"{shop.name}/feeds is not Ready (ReferenceMissing)" in stalled.stdout
    shop.secret("late", url=world.redis.url)
    ready = _wait(shop, identity, "60s")
    assert ready.returncode == 0, ready.stdout + ready.stderr
    named = _wait(
        shop, identity, "5s", "--namespace=elsewhere", f"{shop.name}/feeds"
    )  # as with several namespaces in the chart
    assert named.returncode == 0, named.stdout + named.stderr
    assert shop.condition("feeds", "Ready")["status"] == "True"
    shop.delete_pool("feeds", wait=False)
