"""What one tenant writes into its own namespace costs nobody else the operator: real objects, as large and as odd as
the API server takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from greenfleet.k8s.client import connect
from greenfleet.k8s.events import EventRecorder
from greenfleet.manifests import names
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import RESTRICTED, Namespace, Object, eventually, only_exporters
from tests.unit.operator.objects import pool

OURS = {"app.kubernetes.io/managed-by": "greenfleet"}
COMPARED_SECONDS = 16.0
"""In which the operator looks at all that it sees once more."""


@pytest.fixture(scope="module")
def calm_world(make_world: WorldMaker) -> World:
    made = make_world("hostile", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture(autouse=True)
def others_are_served(calm_world: World) -> Iterator[None]:
    """Whatever a test makes: the operator is the same process, and a new pool gets its workers."""
    operator = calm_world.operators[0]
    process = operator.process
    yield
    assert not operator.gone(), operator.tail()
    assert operator.process is process
    shop, name = calm_world.namespace, f"honest-{monotonic():.0f}"
    shop.apply_pool(name, replicas={"min": 1})
    eventually(lambda: shop.replicas(name) == 1, "a new pool gets its worker", 30, operator.tail)
    shop.delete_pool(name, wait=False)


def pod(name: str, text: str) -> Object:
    """A pod that nobody runs, labelled as if it were ours, with `text` in it."""
    container = {
        "name": "worker",
        "image": "x",
        "env": [{"name": "LARGE", "value": text}],
        "securityContext": {**RESTRICTED, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    labels = {**OURS, "greenfleet.io/pool": "honest", "greenfleet.io/role": "eventlet"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"schedulerName": "nobody", "containers": [container]},
    }


@pytest.mark.parametrize("character", ["x", "<", "\x01", "€"])
def test_a_pod_as_large_as_etcd_takes_it_ends_no_watch(calm_world: World, character: str) -> None:
    """JSON writes `<` with six characters: the watch's line was longer than the client's bound for one, and the
    operator ended.
    """
    shop = calm_world.namespace
    size = {"\x01": 480_000, "€": 400_000}.get(character, 1_300_000)
    name = f"large-{ord(character)}"
    shop.api.create(shop.path("pods"), pod(name, character * size))
    for number in range(3):
        shop.api.merge(shop.path("pods", name), {"metadata": {"annotations": {"touched": str(number)}}})
    shop.api.delete(shop.path("pods", name), gracePeriodSeconds=0)


@pytest.mark.parametrize(("secret", "key"), [("broker", ""), ("", ""), ("a", "b/c/../d"), ("..", "..")])
def test_a_deployment_that_claims_to_be_an_exporter_breaks_nothing(calm_world: World, secret: str, key: str) -> None:
    shop = calm_world.namespace
    name, broker = names.exporter_name(f"{secret}/{key}"), f"{shop.name}/{secret}" + (f"/{key}" if key else "")
    labels = {**OURS, "greenfleet.io/role": "exporter", "app.kubernetes.io/instance": name}
    container = {"name": "c", "image": "x", "env": [{"name": "GREENWORKER_BROKER", "value": broker}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    shop.api.create(shop.path("deployments"), {"metadata": {"name": name, "labels": labels}, "spec": spec})
    sleep(COMPARED_SECONDS)
    shop.api.delete(shop.path("deployments", name))


def test_objects_of_ours_by_label_that_say_nothing_at_all(calm_world: World) -> None:
    shop = calm_world.namespace
    for kind, version in (("PodDisruptionBudget", "policy/v1"), ("NetworkPolicy", "networking.k8s.io/v1")):
        path = shop.path({"PodDisruptionBudget": "poddisruptionbudgets"}.get(kind, "networkpolicies"))
        shop.api.create(path, {"apiVersion": version, "kind": kind, "metadata": {"name": "empty", "labels": OURS}})
        shop.api.delete(f"{path}/empty")


def test_an_event_with_words_of_any_language_is_written(calm_world: World) -> None:
    """The API server counts bytes: a note of 1,000 characters that are not ASCII was refused, and the Event lost."""
    shop = calm_world.namespace

    async def write() -> None:
        client = await connect(str(shop.api.kubeconfig), write_seconds=lambda: 10.0)
        try:
            await EventRecorder(client, "test").warning(
                pool("events", namespace=shop.name), "ContainerFails", "列" * 2_000
            )
        finally:
            await client.close()

    asyncio.run(write())
    assert shop.events("events", "ContainerFails")


def test_a_config_map_that_somebody_made_immutable_stops_no_scaling(calm_world: World) -> None:
    shop: Namespace = calm_world.namespace
    shop.apply_pool("frozen", replicas={"min": 1, "max": 3})
    eventually(lambda: shop.find("configmaps", "frozen-greenfleet"), "the ConfigMap")
    eventually(lambda: shop.replicas("frozen") == 1, "the first worker")
    shop.api.merge(shop.path("configmaps", "frozen-greenfleet"), {"immutable": True, "data": {"routes": "[1]"}})
    shop.apply_pool("frozen", replicas={"min": 2, "max": 3}, greenThreads={"min": 200, "max": 400, "start": 300})
    shop.await_condition("frozen", "Stalled", "True", "Refused")
    assert "frozen-greenfleet" in shop.condition("frozen", "Stalled")["message"]
    eventually(lambda: shop.replicas("frozen") == 2, "scaling goes on", 30, calm_world.operators[0].tail)
    shop.api.delete(shop.path("configmaps", "frozen-greenfleet"))
    shop.await_condition("frozen", "Stalled", "False", seconds=90)
    shop.delete_pool("frozen", wait=False)
