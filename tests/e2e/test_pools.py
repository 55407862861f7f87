"""What a person meets besides a happy run: wrong references, broken images, kubectl's own verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stage import NAMESPACE
from tests.e2e.conftest import Cluster, await_condition

pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images


def _stalled(cluster: Cluster, name: str, word: str) -> dict[str, str]:
    def found() -> dict[str, str]:
        condition = cluster.condition(name, "Stalled")
        return condition if condition.get("status") == "True" and word in condition.get("message", "") else {}

    return dict(await_condition(f"pool {name} is Stalled and says {word!r}", found))


def test_a_missing_secret_is_named_and_its_creation_repairs_the_pool(cluster: Cluster, pool_name: str) -> None:
    secret = f"{pool_name}-broker"
    cluster.kubectl("delete", "secret", secret, "-n", NAMESPACE, "--ignore-not-found")
    cluster.apply(pool_name, broker={"urlFrom": {"secretKeyRef": {"name": secret, "key": "url"}}})
    condition = _stalled(cluster, pool_name, secret)
    assert condition["reason"] == "ReferenceMissing"
    assert "create it" in condition["message"]

    url = "redis://redis.demo.svc.cluster.local.:6379/3"
    cluster.kubectl("create", "secret", "generic", secret, "-n", NAMESPACE, f"--from-literal=url={url}")
    try:
        cluster.kubectl("wait", "gwp", pool_name, "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s")
        assert cluster.condition(pool_name, "Stalled")["status"] == "False"
    finally:
        cluster.kubectl("delete", "secret", secret, "-n", NAMESPACE)


def test_an_app_that_cannot_be_imported_is_said_in_four_parts(cluster: Cluster, pool_name: str) -> None:
    cluster.apply(pool_name, app="nosuchmodule", replicas={"min": 1, "max": 1})
    condition = _stalled(cluster, pool_name, "nosuchmodule")
    assert condition["reason"] == "WorkerMisconfigured"
    assert cluster.condition("feedhub", "Stalled").get("status", "False") == "False"


def test_an_image_that_does_not_exist_is_said_with_its_name(cluster: Cluster, pool_name: str) -> None:
    cluster.apply(pool_name, image="greenfleet/nosuchimage:1", imagePullPolicy="Never", replicas={"min": 1, "max": 1})
    condition = _stalled(cluster, pool_name, "greenfleet/nosuchimage:1")
    assert condition["reason"] == "ImageUnavailable"


def test_two_pools_on_one_queue_are_both_stalled_until_one_goes(cluster: Cluster, pool_name: str) -> None:
    other = f"{pool_name}-2"
    cluster.apply(pool_name)
    cluster.apply(other, queues=[pool_name])
    try:
        assert _stalled(cluster, pool_name, other)["reason"] == "QueueConflict"
        assert _stalled(cluster, other, pool_name)["reason"] == "QueueConflict"
    finally:
        cluster.kubectl("delete", "gwp", other, "-n", NAMESPACE)
    await_condition("the remaining pool is well", lambda: cluster.condition(pool_name, "Ready").get("status") == "True")


def test_kubectl_scale_sets_the_workers_of_a_manual_pool(cluster: Cluster, pool_name: str) -> None:
    cluster.apply(pool_name, scaling={"mode": "Manual"}, manualReplicas=0)
    cluster.kubectl("wait", "gwp", pool_name, "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s")
    cluster.kubectl("scale", "gwp", pool_name, "-n", NAMESPACE, "--replicas=1")
    await_condition(
        "one worker is ready", lambda: (cluster.pool(pool_name).get("status") or {}).get("readyReplicas") == 1
    )
    cluster.kubectl("scale", "gwp", pool_name, "-n", NAMESPACE, "--replicas=0")
    await_condition("no worker is left", lambda: not (cluster.pool(pool_name).get("status") or {}).get("replicas"))


def test_a_worker_has_a_core_until_it_has_started(cluster: Cluster, pool_name: str, tmp_path: Path) -> None:
    """kubectl watches, because a worker that starts in two seconds is over between two questions."""
    tenth = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "256Mi"}}
    fields = ("restartCount", "started", "resources.limits.cpu")
    columns = ",".join(f"{field}:.status.containerStatuses[0].{field}" for field in fields)
    watch = ["get", "pods", "-n", NAMESPACE, "-l", _worker_of(pool_name), "--watch", "--no-headers"]
    said = tmp_path / "watch"

    def seen() -> list[list[str]]:
        """Whether the worker has started, and the CPU limit that kubelet says the runtime enforces."""
        return [line.split() for line in said.read_text().splitlines()]

    with (
        said.open("wb") as out,
        cluster.kubectl_in_the_background(*watch, f"--output=custom-columns={columns}", stdout=out),
    ):
        cluster.apply(pool_name, scaling={"mode": "Manual"}, manualReplicas=1, worker={"resources": tenth})
        await_condition("it has started and its own limit is back", lambda: ["0", "true", "100m"] in seen())
    assert ["0", "false", "1"] in seen()
    assert {line[0] for line in seen()} <= {"<none>", "0"}, "how often the container was restarted"


def _worker_of(pool: str) -> str:
    return f"greenfleet.io/pool={pool},greenfleet.io/role=eventlet"


def test_deleting_a_pool_leaves_nothing_behind(cluster: Cluster, pool_name: str) -> None:
    cluster.apply(pool_name, replicas={"min": 1, "max": 1})
    cluster.kubectl("wait", "gwp", pool_name, "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s")
    cluster.kubectl("delete", "gwp", pool_name, "-n", NAMESPACE)

    def left() -> list[str]:
        kinds = "deployments,configmaps,poddisruptionbudgets,pods"
        found = json.loads(
            cluster.kubectl("get", kinds, "-n", NAMESPACE, "-l", f"greenfleet.io/pool={pool_name}", "-o", "json")
        )
        return [f"{item['kind']}/{item['metadata']['name']}" for item in found["items"]]

    await_condition("nothing of the pool is left", lambda: not left(), 120)


def test_why_answers_in_plain_sentences(cluster: Cluster, pool_name: str) -> None:
    cluster.apply(pool_name)
    cluster.kubectl("wait", "gwp", pool_name, "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s")
    command = [sys.executable, "-m", "greenfleet", "why", pool_name, "-n", NAMESPACE, "--history", "5"]
    tools = f"{cluster.stage.helm.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(cluster.stage.kubeconfig), "PATH": tools}

    def answer() -> str:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
        return said if "nothing waits" in said else ""

    assert f"{pool_name} (eventlet): 0 workers" in await_condition("the leader explains the pool", answer)


def test_a_password_in_a_broker_url_appears_nowhere(cluster: Cluster, pool_name: str) -> None:
    secret, password = f"{pool_name}-broker"[:60], "hunter2hunter2"
    url = f"redis://somebody:{password}@redis.demo.svc.cluster.local.:6379/3"
    cluster.kubectl("delete", "secret", secret, "-n", NAMESPACE, "--ignore-not-found")
    cluster.kubectl("create", "secret", "generic", secret, "-n", NAMESPACE, f"--from-literal=url={url}")
    try:
        cluster.apply(
            pool_name,
            broker={"urlFrom": {"secretKeyRef": {"name": secret, "key": "url"}}},
            replicas={"min": 1, "max": 1},
        )
        await_condition(
            "the broker's refusal is noticed",
            lambda: _exporter_metrics(cluster, secret).find("greenfleet_queue_up{") > 0,
        )
        said = {
            "metrics of the exporter": _exporter_metrics(cluster, secret),
            "logs of the exporter and the worker": _logs(cluster, pool_name, secret),
            "logs of the operator": cluster.kubectl(
                "logs", "-n", "greenfleet-system", "-l", "app.kubernetes.io/name=greenfleet", "--tail=-1"
            ),
            "Events": cluster.kubectl("get", "events", "-n", NAMESPACE, "-o", "json"),
            "pools": cluster.kubectl("get", "gwp", "-n", NAMESPACE, "-o", "json"),
        }
        assert [place for place, text in said.items() if password in text] == []
    finally:
        cluster.kubectl("delete", "secret", secret, "-n", NAMESPACE)


def _exporter_pods(cluster: Cluster, secret: str) -> list[str]:
    items = json.loads(
        cluster.kubectl("get", "pods", "-n", NAMESPACE, "-l", "greenfleet.io/role=exporter", "-o", "json")
    )["items"]
    mounted = [
        item for item in items if any(v.get("secret", {}).get("secretName") == secret for v in item["spec"]["volumes"])
    ]
    return [item["metadata"]["name"] for item in mounted]


def _exporter_metrics(cluster: Cluster, secret: str) -> str:
    pods = _exporter_pods(cluster, secret)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pods[0]}:9540/proxy/metrics" if pods else ""
    return cluster.kubectl("get", "--raw", path, check=False) if path else ""


def _logs(cluster: Cluster, pool: str, secret: str) -> str:
    workers = cluster.kubectl(
        "logs", "-n", NAMESPACE, "-l", f"greenfleet.io/pool={pool}", "--tail=-1", "--all-containers", check=False
    )
    return workers + "".join(
        cluster.kubectl("logs", "-n", NAMESPACE, pod, check=False) for pod in _exporter_pods(cluster, secret)
    )
