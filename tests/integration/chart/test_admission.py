"""The organisation's rules in the chart's ValidatingAdmissionPolicy, as a real API server applies them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
import yaml

from greenfleet.manifests import Monitoring, children_of_pool
from tests.integration.chart.conftest import CRD, Release
from tests.integration.operator.harness import (
    DEFINITIONS,
    POD_MONITORS,
    RESTRICTED,
    Api,
    Namespace,
    Object,
    Refused,
    cluster,
    eventually,
    fresh_name,
)
from tests.unit.operator.objects import pool

RULES = {
    "registries": ["registry.example/apps"],
    "serviceAccounts": ["default", "feeds"],
    "queuePrefixes": {"*": ["other."]},
}


@pytest.fixture(scope="module")
def ruled(chart_api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release with all rules; queues of its own namespace begin with `shop.` or `shared:`."""
    namespace = Namespace(chart_api, fresh_name("ruled"))
    home = tmp_path_factory.mktemp("helm")
    release = Release(Path(cluster("program", "helm")), namespace, "greenfleet", home)
    chart_api.create(DEFINITIONS, POD_MONITORS)
    eventually(lambda: _is_served(namespace, "podmonitors"), "PodMonitors are served")
    prefixes = {namespace.name: ["shop.", "shared:"], **RULES["queuePrefixes"]}  # type: ignore[dict-item]
    release.install(
        admissionPolicy={"enabled": True, **RULES, "queuePrefixes": prefixes},
        metrics={"podMonitor": {"enabled": True, "perPool": True}},
    )
    release.crd_is_served()
    eventually(lambda: _refused(namespace, image="elsewhere.example/x"), "the policy is in force")
    yield release
    release.uninstall()
    chart_api.delete(CRD)
    chart_api.delete(f"{DEFINITIONS}/{POD_MONITORS['metadata']['name']}")
    eventually(lambda: chart_api.find(CRD) is None, "the CRD is gone", 60)


def _is_served(namespace: Namespace, kind: str) -> bool:
    try:
        return namespace.api.find(namespace.path(kind)) is not None
    except Refused:  # 429: storage is (re)initializing
        return False


def _refused(namespace: Namespace, **spec: Any) -> str:
    good: dict[str, Any] = {"image": "registry.example/apps/hub:1", "queues": ["shop.feeds"]}
    try:
        namespace.apply_pool("feeds", **{**good, **spec})
    except Refused as refusal:
        return refusal.message
    namespace.api.delete(namespace.path("greenworkerpools", "feeds"))
    return ""


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"queues": ["shop.a", "shared:b"]},
        {"worker": {"serviceAccountName": "feeds"}},
        {"image": "registry.example/apps/deep/hub@sha256:" + "a" * 64},
    ],
    ids=["as it is", "both prefixes", "an allowed account", "a digest"],
)
def test_what_the_rules_allow_is_taken(ruled: Release, spec: dict[str, Any]) -> None:
    assert _refused(ruled.namespace, **spec) == ""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"image": "docker.example/hub:1"}, "spec.image is docker.example/hub:1, which does not come from a registry"),
        ({"image": "registry.example/apps.evil/hub:1"}, "take it from registry.example/apps/"),
        ({"worker": {"serviceAccountName": "admin"}}, "spec.worker.serviceAccountName is admin, which is not allowed"),
        ({"queues": ["shop.a", "news.b"]}, "spec.queues has news.b, which is not a name for namespace"),
        ({"queues": ["other.a"]}, "begin it with shop. or shared:"),
    ],
    ids=["registry", "a registry that only begins alike", "service account", "one queue of two", "another namespace's"],
)
def test_what_the_rules_forbid_is_refused_with_field_value_reason_and_fix(
    ruled: Release, spec: dict[str, Any], said: str
) -> None:
    assert said in _refused(ruled.namespace, **spec)


def test_an_update_is_held_to_the_same_rules(ruled: Release) -> None:
    ruled.namespace.apply_pool("held", image="registry.example/apps/hub:1", queues=["shop.held"])
    path = ruled.namespace.path("greenworkerpools", "held")
    with pytest.raises(Refused, match=r"spec\.image is evil\.example/x"):
        ruled.api.merge(path, {"spec": {"image": "evil.example/x"}})
    ruled.api.delete(path)


def test_a_namespace_that_is_not_listed_has_the_common_prefixes(ruled: Release) -> None:
    elsewhere = Namespace(ruled.api, fresh_name("elsewhere"))
    assert "begin it with other." in _refused(elsewhere, queues=["shop.feeds"])
    assert _refused(elsewhere, queues=["other.feeds"]) == ""


class Account:
    """The operator's own service account, by a token and no more: who has stolen it."""

    def __init__(self, release: Release) -> None:
        namespace = release.namespace
        path = f"/api/v1/namespaces/{namespace.name}/serviceaccounts/greenfleet/token"
        self._token = namespace.api.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
        self._server = namespace.api.server
        kubeconfig = namespace.api.kubeconfig
        trust = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        name = trust.get("certificate-authority", "harness-certificate-authority.pem")
        self._http = urllib3.PoolManager(ca_certs=str(kubeconfig.parent / name), retries=False, timeout=20)

    def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> str:
        """The API server's refusal, or nothing. Nothing is kept: a dry run."""
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self._token}"}
        query = urlencode({"dryRun": "All", **({"fieldManager": "greenfleet"} if "apply" in kind else {})})
        answer = self._http.request(
            method, f"{self._server}{path}?{query}", body=None if body is None else json.dumps(body), headers=headers
        )
        return "" if answer.status < 400 else str(json.loads(answer.data)["message"])


@pytest.fixture(scope="module")
def operators(ruled: Release) -> Account:
    """The account, once the policy is in force."""
    account = Account(ruled)
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe-greenfleet"}}
    path = ruled.namespace.path("configmaps")
    eventually(
        lambda: "greenfleet-operator-" in account.ask("POST", path, foreign), "the operator's policy is in force", 40
    )
    return account


def children(namespace: Namespace) -> dict[str, Object]:
    """What the operator makes for a pool with everything, by kind."""
    spec = pool(prefork={}, network={"egress": [{"to": [{"podSelector": {}}]}]})
    made = children_of_pool(spec, "worker:1", "IfNotPresent", monitoring=Monitoring("2s"))
    found = {child.kind: copy.deepcopy(child.manifest) for child in made}
    for manifest in found.values():
        manifest["metadata"]["namespace"] = namespace.name
    return found


COLLECTIONS = {
    "Deployment": "deployments",
    "ConfigMap": "configmaps",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PodMonitor": "podmonitors",
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_the_operator_may_write_what_belongs_to_a_pool(operators: Account, ruled: Release, kind: str) -> None:
    manifest = children(ruled.namespace)[kind]
    path = ruled.namespace.path(COLLECTIONS[kind], manifest["metadata"]["name"])
    assert operators.ask("PATCH", path, manifest, "application/apply-patch+yaml") == ""


def _without_labels(manifest: Object) -> None:
    manifest["metadata"]["labels"] = {"app": "mine"}


def _without_owner(manifest: Object) -> None:
    del manifest["metadata"]["ownerReferences"]


def _of_another_owner(manifest: Object) -> None:
    manifest["metadata"]["ownerReferences"][0].update(apiVersion="v1", kind="ConfigMap", name="x", controller=False)


@pytest.mark.parametrize("kind", COLLECTIONS)
@pytest.mark.parametrize("change", [_without_labels, _without_owner, _of_another_owner])
def test_the_operator_may_make_nothing_that_belongs_to_no_pool(
    operators: Account, ruled: Release, kind: str, change: Callable[[Object], None]
) -> None:
    manifest = children(ruled.namespace)[kind]
    change(manifest)
    refusal = operators.ask("POST", ruled.namespace.path(COLLECTIONS[kind]), manifest)
    assert (
        f"metadata of {COLLECTIONS[kind]} {ruled.namespace.name}/{manifest['metadata']['name']} has no label" in refusal
    )
    assert "makes only what belongs to a pool: make it as somebody else" in refusal


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_the_operator_may_write_nothing_in_kube_system(operators: Account, ruled: Release, kind: str) -> None:
    manifest = children(ruled.namespace)[kind]
    manifest["metadata"]["namespace"] = "kube-system"
    path = ruled.namespace.path(COLLECTIONS[kind]).replace(ruled.namespace.name, "kube-system")
    assert "namespace is kube-system, in which the operator" in operators.ask("POST", path, manifest)


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_the_operator_may_neither_take_nor_remove_what_is_somebody_elses(
    operators: Account, ruled: Release, kind: str
) -> None:
    shop, manifest = ruled.namespace, children(ruled.namespace)[kind]
    foreign = copy.deepcopy(manifest)
    _without_labels(foreign)
    _without_owner(foreign)
    path = shop.path(COLLECTIONS[kind], manifest["metadata"]["name"])
    shop.api.create(shop.path(COLLECTIONS[kind]), foreign)
    try:
        taken = operators.ask("PATCH", f"{path}", manifest, "application/apply-patch+yaml")
        assert "conflict" in taken.lower() or "it is somebody else's, and the operator leaves it alone" in taken
        labelled = {"metadata": manifest["metadata"]}
        merged = operators.ask("PATCH", path, labelled, "application/merge-patch+json")
        assert "it is somebody else's, and the operator leaves it alone" in merged
        assert operators.ask("PATCH", path, {}, "application/merge-patch+json") == "", "it may find out whose it is"
        if kind != "ConfigMap":  # it has no right to delete those
            assert "it is somebody else's" in operators.ask("DELETE", path)
    finally:
        shop.api.delete(path)


def test_the_operator_may_ask_for_no_more_of_a_node_than_a_pool_can(operators: Account, ruled: Release) -> None:
    deployments = ruled.namespace.path("deployments")
    for change in (
        {"hostNetwork": True},
        {"hostPID": True},
        {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
        {"volumes": [{"name": "disk", "nfs": {"server": "host", "path": "/"}}]},
        {"volumes": [{"name": "disk", "csi": {"driver": "any.example"}}]},
        {"securityContext": {"runAsUser": 0}},
        {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
        {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80, "hostPort": 80}]}]},
        {"containers": [{"name": "c", "image": "x", "securityContext": {"runAsUser": 0}}]},
        {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]},
        {"initContainers": [{"name": "c", "image": "x", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
    ):
        manifest = children(ruled.namespace)["Deployment"]
        spec = manifest["spec"]["template"]["spec"]
        for name, value in change.items():
            spec[name] = [*spec.get(name, []), *value] if isinstance(value, list) else value
        assert "reaches into the node or has privileges" in operators.ask("POST", deployments, manifest), change


def test_the_operator_reads_no_config_map_that_is_not_called_like_one_of_its_own(
    operators: Account, ruled: Release
) -> None:
    """An empty patch answers with the object: the right to patch was one to read every ConfigMap whose name is
    known.
    """
    shop = ruled.namespace
    for name, readable in (("settings", False), ("greenfleet-queues-0123456789-x", False), ("web-greenfleet", True)):
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}
        shop.api.create(shop.path("configmaps"), config)
        refusal = operators.ask("PATCH", shop.path("configmaps", name), {}, MERGE)
        assert ("an empty patch would read it" in refusal) is not readable, name


def test_the_operator_may_let_traffic_to_nothing_but_pods_of_a_pool(operators: Account, ruled: Release) -> None:
    manifest = children(ruled.namespace)["NetworkPolicy"]
    manifest["spec"]["podSelector"] = {}
    refusal = operators.ask("POST", ruled.namespace.path("networkpolicies"), manifest)
    assert "does not name pods of a pool" in refusal


def _pod(name: str, labels: dict[str, str]) -> Object:
    container = {
        "name": "worker",
        "image": "x",
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}},
        "securityContext": RESTRICTED,
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "securityContext": security},
    }


MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def test_the_operator_may_annotate_resize_and_evict_workers_and_nothing_else_of_them(
    operators: Account, ruled: Release
) -> None:
    shop = ruled.namespace
    worker, foreign = "feeds-eventlet-5d8f7c9b6d-abcde", "database-0"
    shop.api.create(shop.path("pods"), _pod(worker, {"greenfleet.io/pool": "feeds"}))
    shop.api.create(shop.path("pods"), _pod(foreign, {"app": "database"}))
    shop.api.create(shop.path("pods"), _pod("exporter", {"greenfleet.io/role": "exporter"}))
    path, other = shop.path("pods", worker), shop.path("pods", foreign)
    annotation = {"metadata": {"annotations": {"greenfleet.io/threads": "5"}}}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": worker, "namespace": shop.name}}
    assert operators.ask("PATCH", f"{path}/status", annotation, MERGE) == ""
    assert operators.ask("PATCH", f"{shop.path('pods', 'exporter')}/status", annotation, MERGE) == ""
    assert operators.ask("POST", f"{path}/eviction", eviction) == ""
    assert "it is not of a pool" in operators.ask("PATCH", f"{other}/status", annotation, MERGE)
    for change in (
        {"metadata": {"labels": {"app": "database"}}},
        {"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}},
        {"status": {"phase": "Succeeded"}},
        {"metadata": {"finalizers": ["example.com/held"]}},
    ):
        assert "would get other labels or another status" in operators.ask("PATCH", f"{path}/status", change, MERGE), (
            change
        )
    eviction["metadata"]["name"] = foreign
    assert "is not of a worker, by its name" in operators.ask("POST", f"{other}/eviction", eviction)
    more = {"spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": "8"}}}]}}
    assert "it is not of a pool" in operators.ask("PATCH", f"{other}/resize", more, STRATEGIC)


def test_everybody_else_is_none_of_its_business(operators: Account, ruled: Release) -> None:
    """The same objects as the administrator: the policy asks for the operator's account alone."""
    shop = ruled.namespace
    for kind, collection in COLLECTIONS.items():
        manifest = children(shop)[kind]
        _without_labels(manifest)
        _without_owner(manifest)
        shop.api.ask("POST", shop.path(collection), manifest, dryRun="All")
