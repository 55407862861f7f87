"""A release in a real registry: the cluster pulls it from there by digest, an operator is upgraded to it and rolled
back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import stage as demo_stage
from tests.e2e.conftest import KUBE, Cluster, await_condition
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "0.1.1-e2e"
pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of the CNCF's own registry program, empty, on loopback; gone afterwards."""
    place = tmp_path_factory.mktemp("registry")
    built = subprocess.run([str(KUBE), "program", "registry"], check=True, stdout=subprocess.PIPE, text=True)
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": address},
    }
    (place / "config.yml").write_text(json.dumps(config), encoding="utf-8")
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [built.stdout.split()[-1], "serve", str(place / "config.yml")], stderr=log, stdout=log
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (place / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_a_cluster_takes_a_release_from_a_registry_and_goes_back(
    cluster: Cluster, pool_name: str, registry: str
) -> None:
    """Nothing of it is in the node's image store before: its names are those of a registry that was empty."""
    command = [sys.executable, "-m", "tools.release", "--version", VERSION, "--registry", f"{registry}/greenfleet"]
    done = subprocess.run(
        [*command, "--plain-http", "--trial"], check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    published = json.loads(done.stdout.splitlines()[-1])
    operator = f"{registry}/greenfleet/operator@{published['images'][f'{registry}/greenfleet/operator']}"
    worker = f"{registry}/greenfleet/worker@{published['images'][f'{registry}/greenfleet/worker']}"

    before = _operator_images(cluster)
    assert before, "an operator of the release before runs"
    try:
        settings = [f"prometheus.bundled.image.{key}={value}" for key, value in demo_stage.LOCAL_PROMETHEUS.items()]
        _helm(cluster, "upgrade", "greenfleet", f"oci://{registry}/greenfleet/charts/greenfleet", "--version", VERSION,
              "--plain-http", "--reset-values", *(part for one in settings for part in ("--set", one)), "--wait",
              "--timeout", "4m")  # fmt: skip
        await_condition("all operators are the registry's", lambda: _operator_images(cluster) == {operator})
        cluster.apply(pool_name)
        await_condition(
            "a pool is Ready under it", lambda: cluster.condition(pool_name, "Ready").get("status") == "True", 120
        )
        path = f"/apis/apps/v1/namespaces/{demo_stage.NAMESPACE}/deployments/{pool_name}-eventlet"
        agents = {one["image"] for one in cluster.api.get(path)["spec"]["template"]["spec"]["initContainers"]}
        assert worker in agents
    finally:
        _helm(cluster, "rollback", "greenfleet", "--wait", "--timeout", "4m")
    await_condition("the operators of before are back", lambda: _operator_images(cluster) == before)


def _helm(cluster: Cluster, verb: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(cluster.stage.helm), verb, *arguments, "--namespace", demo_stage.OPERATOR_NAMESPACE],
        check=False, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": str(cluster.stage.kubeconfig)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _operator_images(cluster: Cluster) -> set[str]:
    """Images of the operator's pods that are not ending."""
    path = (
        f"/api/v1/namespaces/{demo_stage.OPERATOR_NAMESPACE}/pods?labelSelector=app.kubernetes.io/component%3Doperator"
    )
    pods: list[dict[str, Any]] = cluster.api.get(path)["items"]
    return {
        container["image"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
    }
