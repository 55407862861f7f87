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
        "prometheus",
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


def test_prometheus_says_itself_whose_sample_it_is(render: Render) -> None:
    (config,) = of_kind(render("demo", {"discovery": "kubernetes"}), "ConfigMap")
    parsed = yaml.safe_load(config["data"]["prometheus.yml"])
    assert parsed["global"]["scrape_interval"] == "2s"
    (job,) = parsed["scrape_configs"]
    targets = {rule["target_label"]: rule["source_labels"] for rule in job["relabel_configs"] if "target_label" in rule}
    assert targets == {
        "namespace": ["__meta_kubernetes_namespace"],
        "pod": ["__meta_kubernetes_pod_name"],
    }
    assert "honor_labels" not in job


def test_the_broker_secret_is_the_one_that_the_example_pool_names(manifests: Manifests) -> None:
    (secret,) = of_kind(manifests, "Secret")
    pool = yaml.safe_load((REPOSITORY / "examples" / "feedhub.yaml").read_text(encoding="utf-8"))
    reference = pool["spec"]["broker"]["urlFrom"]["secretKeyRef"]
    assert secret["metadata"]["name"] == reference["name"]
    assert secret["stringData"] == {reference["key"]: "redis://redis.demo:6379/0"}


def test_the_discovery_helper_takes_labels_from_the_api_and_not_from_the_pod(manifests: Manifests) -> None:
    (config,) = of_kind(manifests, "ConfigMap")
    (job,) = yaml.safe_load(config["data"]["prometheus.yml"])["scrape_configs"]
    assert job["http_sd_configs"] == [{"url": "http://127.0.0.1:9091/targets", "refresh_interval": "2s"}]
    scope: dict[str, Any] = {"__name__": "targets"}
    exec(compile(config["data"]["targets.py"], "targets.py", "exec"), scope)
    metrics = {"name": "metrics", "containerPort": 9540}
    pods = [
        _pod("shop", "a", "198.18.0.5", [metrics, {"containerPort": 80}], labels={"namespace": "another"}),
        _pod("shop", "done", "198.18.0.6", [metrics], phase="Succeeded"),
        _pod("shop", "young", "", [metrics]),
        _pod("shop", "silent", "198.18.0.7", []),
    ]
    assert scope["targets"](pods) == [{"targets": ["198.18.0.5:9540"], "labels": {"namespace": "shop", "pod": "a"}}]


def _pod(
    namespace: str, name: str, address: str, ports: list[dict[str, Any]], *, phase: str = "Running", **metadata: Any
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name, **metadata},
        "spec": {"containers": [{"name": "worker", "ports": ports}]},
        "status": {"phase": phase, "podIP": address},
    }


@pytest.mark.parametrize("values", [{"redis": {}}, {"images": {"redis": {"name": "x"}}}, {"scrapeInterval": "fast"}])
def test_a_wrong_value_is_refused(render: Render, values: dict[str, Any]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        render("demo", values)
