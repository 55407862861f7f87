"""Promises of the demo's chart."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from tests.unit.charts.rendering import REPOSITORY, Manifests, Render, of_kind


@pytest.fixture(scope="module")
def manifests(render: Render) -> Manifests:
    return render("demo", namespace="demo")


def test_every_pod_meets_pod_security_restricted(manifests: Manifests) -> None:
    deployments = of_kind(manifests, "Deployment")
    assert {deployment["metadata"]["name"] for deployment in deployments} == {
        "redis",
        "feeds",
        "producer",
    }
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_every_service_finds_its_pods_and_their_port(manifests: Manifests) -> None:
    pods = {d["metadata"]["name"]: d["spec"]["template"] for d in of_kind(manifests, "Deployment")}
    for service in of_kind(manifests, "Service"):
        template = pods[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_broker_secret_is_the_one_that_the_example_pool_names(manifests: Manifests) -> None:
    (secret,) = of_kind(manifests, "Secret")
    pool = yaml.safe_load((REPOSITORY / "examples" / "feedhub.yaml").read_text(encoding="utf-8"))
    reference = pool["spec"]["broker"]["urlFrom"]["secretKeyRef"]
    assert secret["metadata"]["name"] == reference["name"]
    assert secret["stringData"] == {reference["key"]: "redis://redis.demo:6379/0"}


@pytest.mark.parametrize("values", [{"redis": {}}, {"images": {"redis": {"name": "x"}}}, {"prometheus": {}}])
def test_a_wrong_value_is_refused(render: Render, values: dict[str, Any]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        render("demo", values)
