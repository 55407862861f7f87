"""What no pool can say, and what no overlay can take away: read from the schema, and from what is rendered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from greenfleet.api import parse_pool
from greenfleet.api.crd import render
from greenfleet.manifests import children_of_pool, exporter_children
from greenfleet.manifests.names import AGENT_ANNOTATION
from tests.golden.test_golden import IMAGE, pools_of

SPEC = yaml.safe_load(render())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

WILD: dict[str, Any] = {
    "labels": {"greenfleet.io/pool": "another", "greenfleet.io/role": "exporter", "team": "news"},
    "annotations": {
        "container.apparmor.security.beta.kubernetes.io/worker": "unconfined",
        "greenfleet.io/threads": "100000",
        "greenfleet.io/agent-image": "evil.example/agent",
        "team": "news",
    },
    "securityContext": {"runAsUser": 1, "runAsGroup": 1, "fsGroup": 1, "readOnlyRootFilesystem": False},
    "volumes": [{"name": "work", "emptyDir": {}}],
    "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    "serviceAccountName": "admin",
    "tolerations": [{"operator": "Exists"}],
}
"""As far as an overlay goes; the API server refuses some of it, and the operator does not rely on that."""


def _fields(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _fields(field, f"{path}.{name}")
    if "items" in schema:
        yield from _fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _fields(schema["additionalProperties"], f"{path}{{}}")


SELECTORS = ("spec.network.", "spec.worker.affinity.", "spec.prefork.affinity.", "spec.exporter.affinity.")
"""Peers of a NetworkPolicy, and whom the scheduler keeps apart: they select pods by namespace, and read nothing
there.
"""
FIELDS = [field for field in _fields(SPEC) if not field.startswith(SELECTORS)]


def test_no_field_of_the_resource_names_a_namespace() -> None:
    assert len(FIELDS) > 100
    assert not [field for field in FIELDS if "namespace" in field.lower()]


def test_no_field_of_the_resource_is_an_address() -> None:
    found = [field for field in FIELDS if re.search(r"(url|host|address|endpoint|proxy)$", field, re.IGNORECASE)]
    assert found == ["spec.broker.host", "spec.resultBackend.host"], "the tenant's own pods call these"


def test_no_field_of_the_resource_widens_a_pod() -> None:
    words = r"privileged|hostNetwork|hostPID|hostIPC|hostPath|capabilities|allowPrivilegeEscalation|procMount|projected"
    assert not [field for field in FIELDS if re.search(words, field)]


def _pods(worker: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod templates of a pool with this overlay, and of its exporter."""
    (minimal,) = [pool for pool in pools_of("minimal")][:1]
    spec = minimal.spec.model_dump(by_alias=True, exclude_none=True)
    body = {
        "metadata": {"name": "feeds", "namespace": "shop", "uid": "1"},
        "spec": {**spec, "worker": worker, "prefork": {}},
    }
    pool = parse_pool(body)
    manifests = [child.manifest for child in children_of_pool(pool, IMAGE, "IfNotPresent")]
    manifests += [child.manifest for child in exporter_children([pool], IMAGE, "IfNotPresent", [])]
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"shop"}
    templates = [one["spec"]["template"] for one in manifests if one["kind"] == "Deployment"]
    assert len(templates) == 3
    return templates


@pytest.mark.parametrize("worker", [{}, WILD], ids=["nothing", "everything"])
def test_no_overlay_takes_a_pod_out_of_restricted(worker: dict[str, Any]) -> None:
    for template in _pods(worker):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in container["securityContext"]
        assert not [name for name in template["metadata"].get("annotations", {}) if "apparmor" in name]


def test_no_overlay_speaks_for_the_operator_or_for_another_pool() -> None:
    for template in _pods(WILD):
        labels, annotations = template["metadata"]["labels"], template["metadata"].get("annotations", {})
        assert labels.get("greenfleet.io/pool", "feeds") == "feeds"
        assert annotations.get("greenfleet.io/threads") is None
        assert annotations.get(AGENT_ANNOTATION, IMAGE) == IMAGE


def test_a_token_of_the_api_is_mounted_only_for_an_account_that_the_pool_names() -> None:
    assert all(template["spec"]["automountServiceAccountToken"] is False for template in _pods({}))
    assert [template["spec"]["automountServiceAccountToken"] for template in _pods(WILD)] == [True, True, False]
