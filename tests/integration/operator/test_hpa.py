"""A HorizontalPodAutoscaler in place of our own loop: a real one of the controller manager, through the scale
subresource.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.external_metrics import ExternalMetrics
from tests.integration.operator.harness import Object, eventually, only_exporters


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    made = make_world("hpa", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture
def metrics(world: World) -> Iterator[ExternalMetrics]:
    served = ExternalMetrics(world.namespace.api, world.namespace.name, world.directory)
    yield served
    served.close()


@pytest.mark.slow  # the controller manager looks every 15 s
def test_an_hpa_takes_the_place_of_our_own_loop_in_manual_mode(world: World, metrics: ExternalMetrics) -> None:
    shop = world.namespace
    shop.apply_pool("scaled", scaling={"mode": "Manual"})  # manualReplicas is the HPA's: not applied by the user
    eventually(lambda: shop.replicas("scaled") == 1, "one worker, the default")
    metrics.values["feeds-waiting"] = 35
    path = f"/apis/autoscaling/v2/namespaces/{shop.name}/horizontalpodautoscalers"
    metric = {"metric": {"name": "feeds-waiting"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    at_once: Object = {"stabilizationWindowSeconds": 0}
    shop.api.create(
        path,
        {
            "metadata": {"name": "scaled"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "greenfleet.io/v1alpha1", "kind": "GreenWorkerPool", "name": "scaled"},
                "minReplicas": 1,
                "maxReplicas": 8,
                "metrics": [{"type": "External", "external": metric}],
                "behavior": {"scaleDown": at_once, "scaleUp": at_once},
            },
        },
    )

    def said() -> str:
        return str(shop.api.get(f"{path}/scaled").get("status"))

    def workers() -> tuple[int, int | None]:
        return shop.pool("scaled")["spec"]["manualReplicas"], shop.replicas("scaled")

    eventually(lambda: workers() == (4, 4), "35 messages at 10 each are four workers", 75, said)
    eventually(lambda: shop.pool("scaled")["status"].get("readyReplicas") == 4, "all are ready", 30)
    metrics.values["feeds-waiting"] = 12
    eventually(lambda: workers() == (2, 2), "12 messages are two", 75, said)
    conditions = {one["type"]: one["status"] for one in shop.api.get(f"{path}/scaled")["status"]["conditions"]}
    assert (conditions["AbleToScale"], conditions["ScalingActive"]) == ("True", "True")
    assert shop.condition("scaled", "ScalingActive")["reason"] == "Manual"
    # Threads stay ours: the workers have been told how many they have.
    told = [(pod["metadata"].get("annotations") or {}).get("greenfleet.io/threads") for pod in shop.pods("scaled")]
    assert all(told)
