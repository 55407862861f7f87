"""More CPU for workers that start: what a real API server makes of the resizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import STAND_IN, Api, Namespace, Object, eventually, live_node, only_exporters

RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}
ONE = {"min": 1, "max": 1}


@pytest.fixture
def world(make_world: WorldMaker, api: Api) -> Iterator[World]:
    """Its pods stay without a node until a test says so, which is a start that lasts for as long as the test likes."""
    made = make_world("boost", runs=only_exporters, binds=False)
    with live_node(api, STAND_IN):  # a pod on a node that nobody knows cannot be resized
        yield made
        made.close()


def resources(shop: Namespace, name: str) -> Object:
    """Of the pool's only worker; empty while there is none."""
    workers = [pod for pod in shop.pods(name) if pod["metadata"]["labels"]["greenfleet.io/role"] == "eventlet"]
    found: Object = workers[0]["spec"]["containers"][0]["resources"] if len(workers) == 1 else {}
    return found


def cpu_limit(shop: Namespace, name: str) -> str | None:
    limit: str | None = resources(shop, name).get("limits", {}).get("cpu")
    return limit


def test_a_worker_has_more_until_it_has_started_and_nothing_else_changes(world: World) -> None:
    shop, operator = world.namespace, world.operator()
    operator.start()
    shop.apply_pool("feeds", replicas=ONE, worker={"resources": RESOURCES})
    eventually(lambda: cpu_limit(shop, "feeds") == "1", "its limit is raised", more=operator.tail)
    world.kubelet.binds = True
    eventually(
        lambda: resources(shop, "feeds") == RESOURCES, "it has started, and its own limit is back", 40, operator.tail
    )
    assert operator.metric('greenfleet_api_requests_total{resource="pods/resize",status="200",verb="PATCH"}') == 2
    limits = shop.deployment("feeds")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]  # type: ignore[index]
    assert limits == RESOURCES["limits"], "the Deployment is not touched"


def test_a_restart_of_the_operator_in_between_leaves_no_worker_with_more(world: World) -> None:
    shop, first = world.namespace, world.operator()
    first.start()
    shop.apply_pool("feeds", replicas=ONE, worker={"resources": RESOURCES})
    eventually(lambda: cpu_limit(shop, "feeds") == "1", "its limit is raised", more=first.tail)
    first.stop()
    world.kubelet.binds = True
    eventually(lambda: shop.pods("feeds")[0]["status"].get("phase") == "Running", "it starts without an operator", 40)
    assert cpu_limit(shop, "feeds") == "1"
    second = world.operator("operator-2")
    second.start()
    eventually(lambda: cpu_limit(shop, "feeds") == "100m", "the next one puts it back", 40, second.tail)


def test_a_refusal_costs_the_boost_and_nothing_else(world: World) -> None:
    shop, operator = world.namespace, world.operator()
    world.kubelet.binds = True
    limit = {"type": "Container", "max": {"cpu": "200m"}, "min": {"cpu": "1m"}}
    manifest = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small", "namespace": shop.name},
        "spec": {"limits": [limit]},
    }
    shop.api.create(f"/api/v1/namespaces/{shop.name}/limitranges", manifest)
    operator.start()
    shop.apply_pool("feeds", replicas=ONE, worker={"resources": RESOURCES})
    shop.await_condition("feeds", "Ready", "True")
    eventually(
        lambda: "could not be set to 1: " in operator.text(), "the log says why it starts slowly", 20, operator.tail
    )
    assert "maximum cpu usage per Container is 200m" in operator.text()
    assert cpu_limit(shop, "feeds") == "100m"


def test_who_wants_none_has_none(world: World) -> None:
    shop, operator = world.namespace, world.operator()
    operator.start()
    shop.apply_pool("feeds", replicas=ONE, worker={"resources": RESOURCES, "startupBoost": {"cpu": 0}})
    eventually(lambda: cpu_limit(shop, "feeds") == "100m", "a worker is made", more=operator.tail)
    world.kubelet.binds = True
    shop.await_condition("feeds", "Ready", "True")
    assert not operator.metric('greenfleet_api_requests_total{resource="pods/resize",status="200",verb="PATCH"}')
