"""Over the life of a pool: drift, restarts by hand, upgrades of the operator, PodMonitors that come late, deletion in
any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from greenfleet.manifests import names
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import (
    DEFINITIONS,
    POD_MONITORS,
    Kubelet,
    Namespace,
    Object,
    eventually,
    kubectl,
    only_exporters,
)
from tests.integration.operator.test_loop import Hub

EGRESS = {"egress": [{"to": [{"ipBlock": {"cidr": "198.18.0.0/15"}}], "ports": [{"port": 6379}]}]}
EXPORTER = names.exporter_name("broker/url")


@pytest.fixture(scope="module")
def calm_world(make_world: WorldMaker) -> World:
    """Shared by the tests that need one operator and leave it in peace."""
    made = make_world("upkeep", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture
def world(make_world: WorldMaker) -> Iterator[World]:
    made = make_world("upgrade", runs=only_exporters)
    yield made
    made.close()


def settled(shop: Namespace, pool: str) -> None:
    """Until the operator has done all that it has to."""
    eventually(
        lambda: (
            (shop.pool(pool).get("status") or {}).get("observedGeneration") == shop.pool(pool)["metadata"]["generation"]
            and shop.condition(pool, "Reconciling").get("status") == "False"
        ),
        f"{pool} is settled",
        more=lambda: json.dumps(shop.pool(pool).get("status"), indent=1),
    )


def template(shop: Namespace, pool: str) -> Object:
    found: Object = (shop.deployment(pool) or {})["spec"]["template"]
    return found


def agent(shop: Namespace, pool: str) -> str:
    return str(template(shop, pool)["spec"]["initContainers"][0]["image"])


def test_drift_of_every_child_is_repaired(calm_world: World) -> None:
    shop = calm_world.namespace
    shop.apply_pool("drifts", network=EGRESS, prefork={})
    settled(shop, "drifts")
    eventually(lambda: shop.find("configmaps", "drifts-greenfleet"), "the ConfigMap")
    watched = (
        ("poddisruptionbudgets", "drifts-eventlet", {"spec": {"maxUnavailable": 5}}),
        ("networkpolicies", "drifts-greenfleet", {"spec": {"egress": [{}]}}),
        ("networkpolicies", EXPORTER, {"spec": {"egress": [{}]}}),
        ("deployments", "drifts-prefork", {"spec": {"minReadySeconds": 7, "revisionHistoryLimit": 9}}),
    )

    def owned(kind: str, name: str) -> Object | None:
        """What the operator said of a child: spec and labels, as far as they are its own."""
        found = shop.find(kind, name)
        if found is None:
            return None
        spec = {key: value for key, value in found["spec"].items() if key != "minReadySeconds"}
        metadata = found["metadata"]
        return {"spec": spec, "labels": metadata.get("labels"), "owners": metadata.get("ownerReferences")}

    def repaired(kind: str, name: str, before: Object, what: str) -> None:
        eventually(
            lambda: owned(kind, name) == before,
            f"{name} is {what}",
            30,
            lambda: f"{json.dumps(before)} is now {json.dumps(owned(kind, name))}; {calm_world.operators[0].tail()}",
        )

    try:
        for kind, name, damage in watched:
            before = owned(kind, name)
            assert before is not None
            shop.api.merge(shop.path(kind, name), damage)
            repaired(kind, name, before, "as before")
            foreign = {"app.kubernetes.io/managed-by": "somebody"}
            shop.api.merge(shop.path(kind, name), {"metadata": {"labels": foreign}})
            repaired(kind, name, before, "labelled")
            shop.api.merge(shop.path(kind, name), {"metadata": {"ownerReferences": None}})
            repaired(kind, name, before, "owned")
            shop.api.delete(shop.path(kind, name))
            repaired(kind, name, before, "back")
    finally:
        shop.delete_pool("drifts", wait=False)


def test_drift_of_the_config_map_is_repaired_by_an_operator_that_cannot_read_config_maps(calm_world: World) -> None:
    shop = calm_world.namespace
    for name in ("edited", "deleted"):
        shop.apply_pool(name, replicas={"min": 1, "max": 2})

    def data(pool: str) -> Object:
        return (shop.find("configmaps", f"{pool}-greenfleet") or {}).get("data") or {}

    eventually(lambda: all(data(name).keys() == {"threads", "routes"} for name in ("edited", "deleted")), "both parts")
    before = data("edited")
    shop.api.merge(
        shop.path("configmaps", "edited-greenfleet"), {"data": {"threads": "9999", "routes": '["everything"]'}}
    )
    shop.api.delete(shop.path("configmaps", "deleted-greenfleet"))
    for name in ("edited", "deleted"):
        eventually(lambda name=name: data(name) == before, f"both parts of the {name} one are as before", 60)
        shop.delete_pool(name, wait=False)


def test_the_config_map_of_a_pool_that_slept_is_as_it_was_when_its_workers_come(calm_world: World) -> None:
    shop = calm_world.namespace
    queue = f"{shop.name}-slept"
    shop.apply_pool("slept", queues=[queue])
    shop.await_condition("slept", "MetricsAvailable", "True", seconds=40)
    path = shop.path("configmaps", "slept-greenfleet")

    def ours() -> Object:
        found = shop.find("configmaps", "slept-greenfleet") or {"metadata": {}}
        owners = [owner["name"] for owner in found["metadata"].get("ownerReferences", ())]
        return {"routes": found.get("data", {}).get("routes"), "owners": owners}

    assert ours() == {"routes": "[]", "owners": ["slept"]}
    shop.api.merge(path, {"metadata": {"ownerReferences": None}, "data": {"routes": '["everything"]'}})
    producer = Celery("producer", broker=calm_world.redis.url, set_as_current=False)
    producer.send_task("hub_app.fetch", (1, 0.1), queue=queue, ignore_result=True)
    eventually(lambda: shop.pods("slept"), "a worker")
    eventually(lambda: ours() == {"routes": "[]", "owners": ["slept"]}, "it is as before", 60)
    shop.delete_pool("slept", wait=False)


def test_a_network_policy_that_is_no_longer_wanted_is_removed(calm_world: World) -> None:
    shop = calm_world.namespace
    shop.apply_pool("walls", network=EGRESS)
    for name in ("walls-greenfleet", EXPORTER):
        eventually(lambda name=name: shop.find("networkpolicies", name), f"the policy {name}")
    settled(shop, "walls")
    shop.apply_pool("walls")
    for name in ("walls-greenfleet", EXPORTER):
        eventually(lambda name=name: not shop.find("networkpolicies", name), f"{name} is gone")
    shop.delete_pool("walls", wait=False)


def test_a_restart_by_hand_is_carried_out_and_survives_what_the_operator_applies(calm_world: World) -> None:
    """`kubectl rollout restart`: how workers take a changed Secret or ConfigMap without a change of the pool."""
    shop = calm_world.namespace
    shop.apply_pool("restarted", replicas={"min": 1, "max": 2})
    eventually(lambda: shop.pods("restarted"), "a worker")
    settled(shop, "restarted")
    [before] = shop.pods("restarted")
    done = kubectl(shop.api, "-n", shop.name, "rollout", "restart", "deployment/restarted-eventlet")
    assert done.returncode == 0, done.stderr
    marked = "kubectl.kubernetes.io/restartedAt"
    at = template(shop, "restarted")["metadata"]["annotations"][marked]
    eventually(
        lambda: [pod["metadata"]["uid"] for pod in shop.pods("restarted")] not in ([before["metadata"]["uid"]], []),
        "a new worker",
    )
    done = kubectl(shop.api, "-n", shop.name, "rollout", "status", "deployment/restarted-eventlet", "--timeout=30s")
    assert done.returncode == 0, done.stderr
    shop.apply_pool("restarted", replicas={"min": 1, "max": 2}, image="registry.example/hub:2")
    eventually(
        lambda: template(shop, "restarted")["spec"]["containers"][0]["image"] == "registry.example/hub:2", "an apply"
    )
    assert template(shop, "restarted")["metadata"]["annotations"][marked] == at
    shop.delete_pool("restarted", wait=False)


def test_an_upgraded_operator_restarts_no_fleet(world: World) -> None:
    shop = world.namespace
    first = world.operator("operator-1", worker={"image": "greenfleet/worker:1"}).start()
    shop.apply_pool("pinned", replicas={"min": 1, "max": 2})
    settled(shop, "pinned")
    before = template(shop, "pinned")
    assert agent(shop, "pinned") == "greenfleet/worker:1"
    first.stop()
    second = world.operator("operator-2", worker={"image": "greenfleet/worker:2"}).start()
    eventually(lambda: second.metric('greenfleet_reconciles_total{outcome="success"}'), "it has reconciled")
    assert template(shop, "pinned") == before
    shop.apply_pool("pinned", replicas={"min": 1, "max": 5}, greenThreads={"max": 50}, scaling={"maxWait": "7s"})
    settled(shop, "pinned")
    assert template(shop, "pinned") == before
    shop.apply_pool("pinned", replicas={"min": 1, "max": 5}, image="registry.example/hub:2")
    eventually(lambda: agent(shop, "pinned") == "greenfleet/worker:2", "a change that replaces the workers anyway")


@pytest.mark.slow
def test_templates_that_a_new_version_builds_differently_reach_one_fleet_after_the_other(world: World) -> None:
    shop = world.namespace
    pools = ("one", "two", "three")
    first = world.operator("operator-1", worker={"image": "greenfleet/worker:1"}).start()
    for pool in pools:
        shop.apply_pool(pool, replicas={"min": 1, "max": 2})
    for pool in pools:
        settled(shop, pool)
    first.stop()
    for pool in pools:  # what a fleet looks like whose template another version has built
        annotation = {"metadata": {"annotations": {"greenfleet.io/template": "of another version"}}}
        shop.api.merge(shop.path("deployments", f"{pool}-eventlet"), annotation)
    world.kubelet.stop()  # no new worker becomes ready: the first fleet's rolling update does not end
    second = world.operator("operator-2", worker={"image": "greenfleet/worker:2"}).start()

    def upgraded() -> list[str]:
        return [pool for pool in pools if agent(shop, pool) == "greenfleet/worker:2"]

    def reconciles() -> float:
        return second.metric('greenfleet_reconciles_total{outcome="success"}') or 0

    eventually(lambda: len(upgraded()) == 1, "the first fleet")
    before = reconciles()
    eventually(lambda: reconciles() >= before + 2, "the others have asked for their turn", 30)
    assert len(upgraded()) == 1
    world.kubelet = Kubelet(shop, world.directory / "pods-again", world.prometheus, only_exporters)
    eventually(lambda: len(upgraded()) == 3, "all fleets, in turn", 60)


@pytest.mark.slow
def test_pod_monitors_appear_when_the_cluster_learns_what_they_are(world: World) -> None:
    shop = world.namespace
    world.operator(podMonitors={"enabled": True, "labels": {"release": "kps"}}).start()
    shop.apply_pool("watched")
    shop.await_condition("watched", "Ready", "True")
    shop.api.create(DEFINITIONS, POD_MONITORS)
    try:
        for name in ("watched-greenfleet", EXPORTER):
            found = eventually(lambda name=name: shop.find("podmonitors", name), f"the PodMonitor {name}", 40)
            assert found["metadata"]["labels"]["release"] == "kps"
            assert found["metadata"]["ownerReferences"][0]["name"] == "watched"
            assert found["spec"]["podMetricsEndpoints"][0]["interval"] == "1s", "how often the server scrapes"
        eventually(lambda: (shop.api.delete(shop.path("podmonitors", "watched-greenfleet")), True)[1], "it is deleted")
        eventually(lambda: shop.find("podmonitors", "watched-greenfleet"), "it is back", 20)
        shop.await_condition("watched", "Ready", "True")
    finally:
        shop.api.delete(f"{DEFINITIONS}/{POD_MONITORS['metadata']['name']}")


@pytest.mark.slow
def test_a_rolling_update_under_load_loses_no_task_and_runs_none_twice(make_world: WorldMaker) -> None:
    """Real workers on Redis: each old one has tasks that run when it is asked to leave, and finishes or gives
    back all.
    """
    world = make_world("rolling")
    world.operator().start()
    hub = Hub(world, "rolled", replicas={"min": 2, "max": 2}, drain={"timeout": "20s"})
    hub.await_workers(2)
    before = {pod["metadata"]["name"] for pod in hub.shop.pods("rolled")}
    hub.publish(600, 1.0)
    eventually(lambda: len(hub.done()) > 20, "tasks run", 30)
    spec = hub.shop.pool("rolled")["spec"]
    spec["worker"]["env"].append({"name": "VERSION", "value": "2"})
    hub.shop.apply_pool("rolled", **spec)

    def replaced() -> bool:
        return not before & {pod["metadata"]["name"] for pod in hub.shop.pods("rolled")}

    eventually(replaced, "every worker is a new one", 90, world.kubelet.tail)
    hub.await_done(120)
    assert set(hub.done().values()) == {1}


def leftovers(shop: Namespace) -> list[str]:
    """What is in the namespace and somebody of ours made."""
    found = []
    for kind in ("deployments", "configmaps", "poddisruptionbudgets", "networkpolicies"):
        for item in shop.api.items(shop.path(kind), labelSelector="app.kubernetes.io/managed-by=greenfleet"):
            found.append(f"{kind}/{item['metadata']['name']}")
    for kind in ("replicasets", "pods"):
        for item in shop.api.items(shop.path(kind), labelSelector="greenfleet.io/role"):
            found.append(f"{kind}/{item['metadata']['name']}")
    return found


@pytest.mark.parametrize(
    "order",
    [
        "operator, pool",
        "children, pool",
        pytest.param("pool, operator", marks=pytest.mark.slow),
        pytest.param("secret, pool", marks=pytest.mark.slow),
    ],
)
def test_deletion_in_any_order_leaves_nothing_behind(order: str, world: World) -> None:
    shop = world.namespace
    operator = world.operator().start()
    shop.apply_pool("gone", replicas={"min": 1, "max": 2}, prefork={}, network=EGRESS)
    eventually(lambda: shop.pods("gone"), "a worker")
    settled(shop, "gone")
    assert len(leftovers(shop)) >= 10
    for what in order.split(", "):
        match what:
            case "pool":
                shop.api.delete(shop.path("greenworkerpools", "gone"))
            case "operator":
                operator.stop()
            case "secret":
                shop.api.delete(shop.path("secrets", "broker"))
            case "children":
                for child in leftovers(shop):
                    shop.api.delete(shop.path(*child.split("/")))
    eventually(lambda: not leftovers(shop), "nothing is left", 60, lambda: json.dumps(leftovers(shop)))


def test_deleting_with_orphans_leaves_the_workers_running_and_the_operator_keeps_its_hands_off(
    calm_world: World,
) -> None:
    shop = calm_world.namespace
    shop.apply_pool("orphaned", replicas={"min": 1, "max": 2})
    eventually(lambda: shop.pods("orphaned"), "a worker")
    settled(shop, "orphaned")
    [before] = shop.pods("orphaned")
    done = kubectl(shop.api, "-n", shop.name, "delete", "gwp", "orphaned", "--cascade=orphan")
    assert done.returncode == 0, done.stderr
    shop.apply_pool("later")
    settled(shop, "later")  # the operator has worked on what came after the deletion
    assert [pod["metadata"]["uid"] for pod in shop.pods("orphaned")] == [before["metadata"]["uid"]]
    assert "deletionTimestamp" not in shop.pods("orphaned")[0]["metadata"]
    assert not (shop.deployment("orphaned") or {})["metadata"].get("ownerReferences")
    shop.apply_pool("orphaned")  # and the collector clears up after the next pool of that name
    settled(shop, "orphaned")
    shop.delete_pool("orphaned", wait=False)
    shop.delete_pool("later", wait=False)
