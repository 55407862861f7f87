"""Whose an object is: a pool takes over what it or its predecessor made, asks before it makes, and leaves alone what is
somebody else's.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.faulty_api import FaultyApi, Hold
from tests.integration.operator.harness import Namespace, Object, eventually, only_exporters
from tests.integration.operator.test_upkeep import EGRESS, EXPORTER, settled

HELM = {"app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/name": "shop"}


@pytest.fixture(scope="module")
def calm_world(make_world: WorldMaker) -> World:
    """Shared by the tests that need one operator and leave it in peace."""
    made = make_world("owners", runs=only_exporters)
    made.operator().start()
    return made


def theirs(kind: str, name: str) -> Object:
    """What somebody else has, without a word of ours."""
    selector = {"matchLabels": {"app": "shop"}}
    container = {"name": "shop", "image": "registry.example/shop:1"}
    parts: Object = {
        "configmaps": {"data": {"threads": "their own"}},
        "poddisruptionbudgets": {"spec": {"minAvailable": 3, "selector": selector}},
        "networkpolicies": {"spec": {"podSelector": selector, "policyTypes": ["Ingress"]}},
        "deployments": {
            "spec": {
                "replicas": 0,
                "selector": selector,
                "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [container]}},
            }
        },
    }[kind]
    return {"metadata": {"name": name, "labels": HELM}, **parts}


def said(found: Object | None) -> Object:
    """Everything but what controllers report."""
    assert found is not None
    metadata = {key: found["metadata"].get(key) for key in ("uid", "labels", "ownerReferences")}
    return {"metadata": metadata, "spec": found.get("spec"), "data": found.get("data")}


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        ("configmaps", "web{}-greenfleet"),
        ("poddisruptionbudgets", "web{}-eventlet"),
        ("networkpolicies", "web{}-greenfleet"),
        ("deployments", "web{}-eventlet"),
    ],
)
def test_an_object_of_somebody_else_is_refused_in_four_parts_and_survives_the_pool(
    kind: str, called: str, calm_world: World
) -> None:
    shop = calm_world.namespace
    pool, name = f"web{kind}", called.format(kind)
    before = said(shop.api.create(shop.path(kind), theirs(kind, name)))
    shop.apply_pool(pool, network=EGRESS)
    stalled = shop.await_condition(pool, "Stalled", "True", "NameTaken")
    for part in (f"metadata.name is '{pool}'", name, "managed by Helm", "give the pool another name, or"):
        assert part in stalled["message"]
    made = [
        f"{other}/{one}" for other, one in ours(shop, pool) if shop.find(other, one) and (other, one) != (kind, name)
    ]
    assert not made, "half a pool is no pool"
    assert said(shop.find(kind, name)) == before
    shop.delete_pool(pool, wait=False)
    eventually(lambda: not shop.find("greenworkerpools", pool), "the pool is gone")
    assert said(shop.find(kind, name)) == before
    shop.api.delete(shop.path(kind, name))


def ours(shop: Namespace, pool: str) -> list[tuple[str, str]]:
    return [
        ("configmaps", f"{pool}-greenfleet"),
        ("networkpolicies", f"{pool}-greenfleet"),
        ("deployments", f"{pool}-eventlet"),
        ("poddisruptionbudgets", f"{pool}-eventlet"),
    ]


def test_a_pool_that_was_refused_is_made_once_the_name_is_free(calm_world: World) -> None:
    shop = calm_world.namespace
    shop.api.create(shop.path("configmaps"), theirs("configmaps", "patient-greenfleet"))
    shop.apply_pool("patient")
    shop.await_condition("patient", "Stalled", "True", "NameTaken")
    shop.api.delete(shop.path("configmaps", "patient-greenfleet"))
    shop.await_condition("patient", "Ready", "True", seconds=40)
    shop.delete_pool("patient", wait=False)


def test_an_exporter_of_somebody_else_is_left_alone(make_world: WorldMaker) -> None:
    world = make_world("exporter-owner", runs=only_exporters)
    shop = world.namespace
    before = said(shop.api.create(shop.path("deployments"), theirs("deployments", EXPORTER)))
    world.operator().start()
    shop.apply_pool("web")
    stalled = shop.await_condition("web", "Stalled", "True", "NameTaken")
    assert "broker.urlFrom is 'broker'" in stalled["message"]
    assert said(shop.find("deployments", EXPORTER)) == before
    world.close()


def test_what_a_pool_of_the_same_name_left_behind_is_taken_over_as_it_is(calm_world: World) -> None:
    """`--cascade=orphan` takes the owner off, and the ConfigMap's labels are all that says whose it was."""
    shop = calm_world.namespace
    shop.apply_pool("again", replicas={"min": 1, "max": 2}, network=EGRESS)
    settled(shop, "again")
    before = {one: (shop.find(*one) or {})["metadata"]["uid"] for one in ours(shop, "again")}
    shop.api.delete(shop.path("greenworkerpools", "again"), propagationPolicy="Orphan")
    eventually(lambda: not shop.find("greenworkerpools", "again"), "the pool is gone")
    uid = shop.apply_pool("again", replicas={"min": 1, "max": 2}, network=EGRESS)["metadata"]["uid"]

    def owned(one: tuple[str, str]) -> bool:
        owners = (shop.find(*one) or {"metadata": {}})["metadata"].get("ownerReferences") or ()
        return [owner["uid"] for owner in owners] == [uid]

    for one in ours(shop, "again"):
        eventually(lambda one=one: owned(one), f"{one} is taken over")
        assert (shop.find(*one) or {})["metadata"]["uid"] == before[one]
    shop.delete_pool("again", wait=False)


@pytest.mark.parametrize("lost", ["app.kubernetes.io/managed-by", "greenfleet.io/pool"])
def test_a_deployment_that_lost_a_label_keeps_its_workers(lost: str, make_world: WorldMaker) -> None:
    """Even while nothing is known of the load: no tick would bring back what an apply took."""
    world = make_world("labels", runs=only_exporters)
    shop = world.namespace
    unreachable = {"prometheus": {"servers": {"default": {"url": "http://127.0.0.1:9", "timeout": "1s"}}}}
    operator = world.operator(**unreachable).start()
    shop.apply_pool("feeds", replicas={"min": 0, "max": 8})
    settled(shop, "feeds")
    path = shop.path("deployments", "feeds-eventlet")
    shop.api.merge(path, {"spec": {"replicas": 5}})
    eventually(lambda: len(shop.pods("feeds")) == 5, "five workers")
    seen: list[int | None] = []

    def repaired() -> bool:
        seen.append(shop.replicas("feeds"))
        return lost in shop.api.get(path)["metadata"]["labels"]

    shop.api.merge(path, {"metadata": {"labels": {lost: None}}})
    eventually(repaired, f"{lost} is back", more=operator.tail)
    decided = operator.metric("greenfleet_loop_duration_seconds_count") or 0
    eventually(lambda: (operator.metric("greenfleet_loop_duration_seconds_count") or 0) > decided + 3, "ticks later")
    seen.append(shop.replicas("feeds"))
    assert set(seen) == {5}, json.dumps(shop.deployment("feeds"))
    world.close()


def test_a_write_under_way_does_not_bring_back_the_config_map_of_a_deleted_pool(make_world: WorldMaker) -> None:
    world = make_world("late-write", runs=only_exporters)
    shop = world.namespace
    with FaultyApi(shop.api.kubeconfig, world.directory) as faulty:
        autoscaler = {"fieldManager": "greenfleet-autoscaler"}
        with faulty.rule(Hold(50), path="/configmaps/feeds-greenfleet$", query=autoscaler) as held:
            world.operator(leaseDuration="60s").start(faulty.kubeconfig)
            shop.apply_pool("feeds", replicas={"min": 1, "max": 2})
            eventually(lambda: held.happened, "the start value is on its way", 40)
            shop.delete_pool("feeds", wait=False)
            eventually(lambda: not shop.find("configmaps", "feeds-greenfleet"), "the collector took it", 45)
        [write, *_] = [one for one in faulty.seen(path="/configmaps/") if autoscaler.items() <= one.query.items()]
        eventually(lambda: write.status, "it has arrived")
        assert shop.find("configmaps", "feeds-greenfleet") is None
    world.close()
