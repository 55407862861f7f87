"""The chart on a real cluster: `helm test`, and what the operator's pods are allowed to be."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from demo import stage as demo_stage
from tests.e2e.conftest import Cluster, await_condition
from tools.audit import pins

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images


def _helm_test(cluster: Cluster, timeout: str) -> subprocess.CompletedProcess[str]:
    command = [str(cluster.stage.helm), "test", "greenfleet", "--namespace", demo_stage.OPERATOR_NAMESPACE]
    return subprocess.run(
        [*command, "--timeout", timeout],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "KUBECONFIG": str(cluster.stage.kubeconfig)},
    )


def test_helm_test_waits_until_every_pool_is_ready(cluster: Cluster, pool_name: str) -> None:
    """The pool is not Ready yet when the test begins."""
    cluster.apply(pool_name)
    done = _helm_test(cluster, "3m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout
    assert cluster.condition(pool_name, "Ready")["status"] == "True"


def test_both_operator_pods_are_ready_and_one_of_them_leads(cluster: Cluster) -> None:
    namespace = demo_stage.OPERATOR_NAMESPACE
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/component%3Doperator"

    def ready() -> set[str]:
        return {
            pod["metadata"]["name"]
            for pod in cluster.api.get(path)["items"]
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        }

    pods = await_condition("two operator pods are ready", lambda: len(found := ready()) == 2 and found)
    lease = cluster.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/greenfleet")
    assert lease["spec"]["holderIdentity"] in pods


@pytest.mark.parametrize("image", ["operator", "worker"])
def test_the_images_hold_what_their_bill_of_materials_says(cluster: Cluster, image: str) -> None:
    """Every package of the image's lock, in the locked version, and the system below it."""
    kube = str(REPOSITORY / "cluster" / "kube")
    done = subprocess.run(
        [kube, "image", "file", image, "/opt/greenfleet/sbom.cdx.json"], check=True, capture_output=True, text=True
    )
    bill = json.loads(done.stdout)
    purls = {component["purl"].split("?")[0] for component in bill["components"]}
    lock = (REPOSITORY / "requirements" / f"{image}.lock").read_text(encoding="utf-8")
    conditional = {"colorama", "tzdata", "async-timeout", "uvloop", "winloop"}
    missing = {
        pin.name
        for pin in pins(lock)
        if f"pkg:pypi/{pin.name.lower().replace('_', '-')}@{pin.version}" not in purls and pin.name not in conditional
    }
    assert not missing
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)
    assert any(purl.startswith("pkg:generic/python@3.") for purl in purls)
