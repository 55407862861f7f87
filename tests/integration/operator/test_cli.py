"""The command line against a real API server: one form for names, a sentence for each wrong input, and never a
traceback.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import RESTRICTED, Namespace, Object, only_exporters, program
from tests.integration.operator.rights import kubeconfig_with, rendered

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    made = make_world("cli", runs=only_exporters)
    made.operator().start()
    made.namespace.apply_pool("feeds")
    made.namespace.await_condition("feeds", "Ready", "True")
    return made


def greenfleet(
    *arguments: str, kubeconfig: Path | str, namespace: str = "", path: str = ""
) -> subprocess.CompletedProcess[str]:
    """With kubectl on the PATH; `namespace` is the operator's."""
    place = [f"--operator-namespace={namespace}"] if namespace else []
    done = subprocess.run(
        [sys.executable, "-m", "greenfleet", *arguments, *place],
        env={
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": path or f"{Path(program('kubectl')).parent}:{os.environ['PATH']}",
        },
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def account(namespace: Namespace, name: str, directory: Path) -> Path:
    """A kubeconfig of somebody who may do nothing yet."""
    path = f"/api/v1/namespaces/{namespace.name}/serviceaccounts"
    namespace.api.create(path, {"metadata": {"name": name}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = namespace.api.create(f"{path}/{name}/token", request)["status"]["token"]
    return kubeconfig_with(namespace.api, token, directory / f"{name}.kubeconfig")


@pytest.mark.parametrize("form", ["slash", "option", "both"])
def test_a_pool_is_named_in_one_way_everywhere(world: World, form: str) -> None:
    shop, kubeconfig = world.namespace.name, world.namespace.api.kubeconfig
    for command, name in (("wait", "feeds"), ("why", "feeds"), ("adopt", "nobody")):
        words = [name if form == "option" else f"{shop}/{name}", *(["-n", shop] if form != "slash" else [])]
        place = shop if command != "adopt" else ""
        done = greenfleet(command, *words, kubeconfig=kubeconfig, namespace=place)
        if command == "wait":
            assert (done.returncode, done.stdout) == (0, f"ready: {shop}/feeds\n")
        elif command == "why":  # it came as far as the Service
            assert "there is no Service greenfleet-why" in done.stderr
        else:
            assert 'deployments.apps "nobody" not found' in done.stderr


def test_two_namespaces_for_one_name_are_refused(world: World) -> None:
    for command in ("wait", "why", "adopt"):
        done = greenfleet(command, "shop/feeds", "-n", "news", kubeconfig=world.namespace.api.kubeconfig)
        assert done.returncode == 1
        assert "shop/feeds is in namespace shop, and -n says news: leave one of the two out" in done.stderr


def test_why_says_which_thing_is_not_there(world: World) -> None:
    shop, kubeconfig = world.namespace.name, world.namespace.api.kubeconfig
    nobody = greenfleet("why", "feeds", "-n", shop, kubeconfig=kubeconfig, namespace="nowhere")
    assert "no operator has ever led in namespace nowhere" in nobody.stderr
    assert "--operator-namespace" in nobody.stderr
    unknown = greenfleet("why", "nope", "-n", shop, kubeconfig=kubeconfig, namespace=shop)
    assert f"there is no pool {shop}/nope" in unknown.stderr
    assert "could not find the requested resource" not in unknown.stderr


def test_who_lacks_a_right_hears_which_role_to_ask_for_and_the_role_is_enough(world: World, tmp_path: Path) -> None:
    shop = world.namespace
    somebody = account(shop, "somebody", tmp_path)
    user = f"system:serviceaccount:{shop.name}:somebody"
    for command in ("why", "wait"):
        done = greenfleet(command, f"{shop.name}/feeds", kubeconfig=somebody, namespace=shop.name)
        assert done.returncode == 1
        assert f"the Role greenfleet-why in namespace {shop.name}" in done.stderr.replace("rights of ", "")
    adopt = greenfleet("adopt", f"{shop.name}/feeds", kubeconfig=somebody)
    assert "needs the ClusterRole edit" in adopt.stderr
    (role,) = [
        one
        for one in rendered("greenfleet", shop.name, {}, tmp_path)
        if (one["kind"], one["metadata"]["name"]) == ("Role", "greenfleet-why")
    ]
    shop.api.apply(f"{RBAC}/{shop.name}/roles/greenfleet-why", role)
    shop.api.create(f"{RBAC}/{shop.name}/rolebindings", _binding("greenfleet-why", user))
    shop.api.create(f"{RBAC}/{shop.name}/roles", _reads_pools())
    shop.api.create(f"{RBAC}/{shop.name}/rolebindings", _binding("reads-pools", user))
    why = greenfleet("why", f"{shop.name}/feeds", kubeconfig=somebody, namespace=shop.name)
    assert "there is no Service greenfleet-why" in why.stderr, "the Role was enough to come as far as that"
    ready = greenfleet("wait", f"{shop.name}/feeds", kubeconfig=somebody, namespace=shop.name)
    assert ready.returncode == 0, ready.stderr


def test_why_reaches_the_leader_among_all_replicas_and_its_role_reaches_nothing_else(
    world: World, tmp_path: Path
) -> None:
    shop = world.namespace
    world.operator("operator-2").start()
    chart = {(one["kind"], one["metadata"]["name"]): one for one in rendered("greenfleet", shop.name, {}, tmp_path)}
    services = f"/api/v1/namespaces/{shop.name}"
    service = chart["Service", "greenfleet-why"]
    del service["spec"]["selector"]  # the replicas are processes here, and no pods
    shop.api.apply(f"{services}/services/greenfleet-why", service)
    subsets = [_behind_the_service(shop, replica.name, replica.port) for replica in world.operators]
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "greenfleet-why"}, "subsets": subsets}
    shop.api.apply(f"{services}/endpoints/greenfleet-why", endpoints)
    asker = account(shop, "asker", tmp_path)
    shop.api.apply(f"{RBAC}/{shop.name}/roles/greenfleet-why", chart["Role", "greenfleet-why"])
    binding = _binding("greenfleet-why", f"system:serviceaccount:{shop.name}:asker")
    shop.api.create(f"{RBAC}/{shop.name}/rolebindings", {**binding, "metadata": {"name": "asker"}})

    assert [replica.leads() for replica in world.operators].count(True) == 1
    for _ in range(6):  # each meets the standby first with one half: all six meet the leader at once in 1 of 64 runs
        done = greenfleet("why", f"{shop.name}/feeds", kubeconfig=asker, namespace=shop.name)
        assert done.returncode == 0, done.stderr
        assert f"{shop.name}/feeds (eventlet)" in done.stdout
    for kind, name in (("pods", "any:9541"), ("services", "any:metrics")):
        command = [
            program("kubectl"),
            f"--kubeconfig={asker}",
            "get",
            "--raw",
            f"{services}/{kind}/{name}/proxy/metrics",
        ]
        refused = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "(Forbidden)" in refused.stderr


def _behind_the_service(shop: Namespace, name: str, port: int) -> Object:
    """An Endpoints subset for one replica, and a pod for it: the API server's proxy passes nothing to an address that
    is no pod's.
    """
    address = _own_address()
    container = {"name": "operator", "image": "registry.example/operator:1", "securityContext": RESTRICTED}
    spec = {
        "nodeName": "elsewhere",
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    shop.api.create(shop.path("pods"), {"metadata": {"name": name}, "spec": spec})
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    shop.api.merge(f"{shop.path('pods', name)}/status", {"status": status})
    target = {"kind": "Pod", "namespace": shop.name, "name": name}
    return {
        "addresses": [{"ip": address, "targetRef": target}],
        "ports": [{"name": "metrics", "port": port, "protocol": "TCP"}],
    }


def _own_address() -> str:
    """An address of this machine that is not its loopback one, which no Service may have behind it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def _reads_pools() -> Object:
    rule = {"apiGroups": ["greenfleet.io"], "resources": ["greenworkerpools"], "verbs": ["get", "list"]}
    return {"metadata": {"name": "reads-pools"}, "rules": [rule]}


def _binding(role: str, user: str) -> Object:
    return {
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
