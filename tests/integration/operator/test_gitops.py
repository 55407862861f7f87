"""What Flux (by kstatus) and Argo CD (by the Lua check in docs/gitops.md) make of real pools at every stage."""

from __future__ import annotations

import pytest

from tests.health import argo_health, kstatus
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Kubelet, eventually, only_exporters


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    return make_world("gitops", runs=only_exporters)


def test_health_follows_a_pool_through_its_life(world: World) -> None:
    shop = world.namespace

    def health(pool: str) -> tuple[str, str]:
        found = shop.pool(pool)
        return kstatus(found), argo_health(found)[0]

    untouched = shop.apply_pool("feeds", replicas={"min": 1, "max": 2})
    assert argo_health(untouched)[0] == "Progressing"
    world.operator().start()
    eventually(lambda: health("feeds") == ("Current", "Healthy"), "healthy", more=lambda: str(health("feeds")))

    world.kubelet.stop()  # a new worker does not get ready: the rolling update lasts
    changed = shop.apply_pool("feeds", replicas={"min": 1, "max": 2}, image="registry.example/hub:2")
    assert (kstatus(changed), argo_health(changed)[0]) == ("InProgress", "Progressing")
    shop.await_condition("feeds", "Reconciling", "True", "RollingUpdate")
    assert health("feeds") == ("InProgress", "Progressing")
    world.kubelet = Kubelet(shop, world.directory / "pods-again", world.prometheus, only_exporters)
    eventually(lambda: health("feeds") == ("Current", "Healthy"), "healthy again", more=lambda: str(health("feeds")))

    shop.apply_pool("feeds", replicas={"min": 1, "max": 2}, scaling={"prometheus": {"server": "elsewhere"}})
    eventually(lambda: health("feeds") == ("Failed", "Degraded"), "degraded", more=lambda: str(health("feeds")))
    assert "scaling.prometheus.server is 'elsewhere'" in argo_health(shop.pool("feeds"))[1]

    shop.apply_pool("idle")
    eventually(lambda: health("idle") == ("Current", "Healthy"), "zero workers are healthy")
    doomed = {**shop.pool("idle")}
    doomed["metadata"] = {**doomed["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert (kstatus(doomed), argo_health(doomed)[0]) == ("Terminating", "Progressing")


def test_the_conditions_keep_kstatus_contract(world: World) -> None:
    """`Reconciling` and `Stalled` are never both true, each carries the generation it speaks of, and Ready is always
    there.
    """
    shop = world.namespace
    world.operator().start()
    shop.apply_pool("good", replicas={"min": 1, "max": 1})
    shop.apply_pool("bad", scaling={"prometheus": {"source": "guesswork"}})
    shop.await_condition("good", "Ready", "True")
    shop.await_condition("bad", "Stalled", "True")
    for name in ("good", "bad"):
        pool = shop.pool(name)
        conditions = {one["type"]: one for one in pool["status"]["conditions"]}
        assert {"Ready", "Reconciling", "Stalled"} <= conditions.keys()
        assert (conditions["Reconciling"]["status"], conditions["Stalled"]["status"]) != ("True", "True")
        for one in conditions.values():
            assert one["observedGeneration"] == pool["metadata"]["generation"]
            assert one["reason"]
            assert one["message"]
    # The list is a map by type: what another manager adds stays, and ours cannot be there twice.
    path = f"{shop.path('greenworkerpools', 'good')}/status"
    theirs = {
        "type": "Audited",
        "status": "True",
        "reason": "Seen",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": "good"},
        "status": {"conditions": [theirs]},
    }
    shop.api.apply(path, body, manager="auditor")
    shop.apply_pool("good", replicas={"min": 1, "max": 1}, greenThreads={"max": 99})
    eventually(lambda: shop.pool("good")["status"]["observedGeneration"] == 2, "our next word")
    types = [one["type"] for one in shop.pool("good")["status"]["conditions"]]
    assert "Audited" in types
    assert len(types) == len(set(types))
