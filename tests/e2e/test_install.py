"""What a new user gets from `helm install` without any value and the smallest pool, on a cluster without Prometheus."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from celery import Celery

from demo import stage as demo_stage
from demo.api import GROUP
from demo.observer import PROMETHEUS
from tests.e2e.conftest import EXAMPLE, KUBE, Cluster, await_condition

RELEASE, CHART = "greenfleet", demo_stage.REPOSITORY / "charts" / "greenfleet"
POOL = "first"
pytestmark = pytest.mark.timeout(1800)  # the first test of a session builds the images


def _helm(cluster: Cluster, *arguments: str) -> str:
    done = subprocess.run(
        [str(cluster.stage.helm), *arguments, "--namespace", demo_stage.OPERATOR_NAMESPACE],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "KUBECONFIG": str(cluster.stage.kubeconfig)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _give_the_official_image_to_the_cluster(cluster: Cluster) -> None:
    """This machine cannot pull it. The same program, built here, is put under the name that the chart uses."""
    manifests = yaml.safe_load_all(_helm(cluster, "template", RELEASE, str(CHART)))
    (image,) = {
        one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in manifests
        if one and one["kind"] == "Deployment" and one["metadata"]["name"] == PROMETHEUS
    }
    tag = ":".join(demo_stage.LOCAL_PROMETHEUS.values())
    subprocess.run([KUBE, "image", "build", "prometheus", "--tag", tag, "--alias", image], check=True)


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Cluster]:
    """The chart without any value in place of the release of the other tests, which comes back afterwards."""
    _give_the_official_image_to_the_cluster(cluster)
    _helm(cluster, "uninstall", RELEASE, "--wait")
    try:
        _helm(cluster, "install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout", "4m")
        yield cluster
    finally:
        cluster.api.delete(f"{GROUP}/namespaces/{demo_stage.NAMESPACE}/greenworkerpools/{POOL}")
        _helm(cluster, "uninstall", RELEASE, "--wait")
        revisions = {image.name: demo_stage.revision(image.sources) for image in demo_stage.IMAGES}
        demo_stage.install_charts(cluster.stage, cluster.api, revisions)


@pytest.fixture(scope="module")
def pool(installed: Cluster) -> str:
    """examples/minimal.yaml with this app, image and queue in it, and what lets a test see its end: where feeds are, a
    short cooldown.
    """
    body = yaml.safe_load((demo_stage.REPOSITORY / "examples" / "minimal.yaml").read_text(encoding="utf-8"))
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["spec"]
    body["metadata"]["name"] = POOL
    body["spec"] |= {"app": example["app"], "image": example["image"], "queues": [POOL]}
    body["spec"] |= {"scaling": {"cooldown": "10s"}, "worker": {"env": example["worker"]["env"]}}
    installed.kubectl("apply", "--namespace", demo_stage.NAMESPACE, "-f", "-", stdin=yaml.safe_dump(body))
    await_condition(
        "the pool sees its queue", lambda: installed.condition(POOL, "MetricsAvailable").get("status") == "True"
    )
    return POOL


def _replicas(cluster: Cluster) -> int:
    path = f"/apis/apps/v1/namespaces/{demo_stage.NAMESPACE}/deployments/{POOL}-eventlet"
    return int(cluster.api.get(path)["spec"]["replicas"])


def test_without_any_value_the_smallest_pool_scales_out_and_back(installed: Cluster, pool: str) -> None:
    await_condition("no worker while nothing waits", lambda: _replicas(installed) == 0)
    redis = installed.api.get(f"/api/v1/namespaces/{demo_stage.NAMESPACE}/services/redis")["spec"]["clusterIP"]
    with Celery(broker=f"redis://{redis}:6379/0") as app:
        for number in range(200):
            app.send_task("feedhub.fetch", args=[number, "install"], queue=pool)
        await_condition("workers come", lambda: _replicas(installed) > 0)
        with app.connection_for_read() as connection:
            await_condition("everything is taken", lambda: connection.default_channel.client.llen(pool) == 0)
    await_condition("the last worker goes", lambda: _replicas(installed) == 0, 120)


def test_kubectl_get_names_the_bundled_prometheus_when_it_is_down_and_the_pool_holds(
    installed: Cluster, pool: str
) -> None:
    def listed() -> str:
        return installed.kubectl("get", "gwp", pool, "-n", demo_stage.NAMESPACE)

    await_condition("all is well", lambda: "Every sample is fresh." in listed())
    installed.api.scale(demo_stage.OPERATOR_NAMESPACE, PROMETHEUS, 0)
    try:
        await_condition("it is named", lambda: "Prometheus 'bundled' cannot be reached" in listed())
    finally:
        installed.api.scale(demo_stage.OPERATOR_NAMESPACE, PROMETHEUS, 1)
    await_condition("it is back, without its memory", lambda: "Every sample is fresh." in listed())


def test_prometheus_has_each_pod_once_with_the_labels_that_it_attached_itself(installed: Cluster, pool: str) -> None:
    answer = installed.api.service(
        demo_stage.OPERATOR_NAMESPACE, PROMETHEUS, 9090, "/api/v1/query", query="greenfleet_queue_up"
    )
    labels = [series["metric"] for series in answer["data"]["result"]]
    assert labels
    assert {one["namespace"] for one in labels} == {demo_stage.NAMESPACE}
    assert len({one["pod"] for one in labels}) == len(labels)
