"""An operator that takes a pool for alive although it has gone makes nothing of its own anew, and takes nothing over
that was left on purpose.

A restart in the middle of a deletion, or a watch with a gap: the children are seen as they are, the pool as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from greenfleet.controller.applier import Applier
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.monitors import PodMonitors
from greenfleet.controller.reconciler import Reconciler, note_drift
from greenfleet.controller.registry import Registry
from greenfleet.k8s.client import connect
from greenfleet.k8s.events import EventRecorder
from greenfleet.settings import WorkerImage
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Namespace, Object, eventually, only_exporters

EGRESS = {"egress": [{"to": [{"ipBlock": {"cidr": "198.18.0.0/15"}}], "ports": [{"port": 6379}]}]}


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    return make_world("stale", runs=only_exporters)


def children(shop: Namespace, pool: str) -> dict[str, str]:
    """What a pool has, each with its version."""
    names = {
        "configmaps": f"{pool}-greenfleet", "networkpolicies": f"{pool}-greenfleet",
        "deployments": f"{pool}-eventlet", "poddisruptionbudgets": f"{pool}-eventlet",
    }  # fmt: skip
    found = {kind: shop.find(kind, name) for kind, name in names.items()}
    return {
        kind: one["metadata"]["uid"] + str(one["metadata"].get("ownerReferences")) for kind, one in found.items() if one
    }


def reconcile_as_remembered(
    shop: Namespace,
    body: Object,
    meanwhile: Callable[[], object] | None = None,
    *,
    looks: bool = False,
    before_resync: Callable[[], object] | None = None,
    once_asked: Callable[[], object] | None = None,
) -> None:
    """What an operator does that starts now and has been told of this pool as it was. *meanwhile* happens after its
    first write, and it goes on when it has seen a child change. *looks*: the scaling loop looks at the pool each time
    a child changes. *before_resync* happens between the reconciliation and the next resync of the ConfigMap,
    *once_asked* when that resync has heard from the API server that the pool stays.
    """

    async def run() -> None:
        client = await connect(str(shop.api.kubeconfig), write_seconds=lambda: 10.0)
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        seen = asyncio.Event()

        def changed(*_: object) -> None:
            seen.set()
            if looks and record is not None and record.pool is not None:
                reconciler.adopt_generation(record, record.pool)

        record = None
        view = ClusterCache(client, [shop.name], changed, nothing)
        watching = [asyncio.create_task(reflector.run()) for reflector in view.reflectors]
        try:
            while not view.is_synced:  # noqa: ASYNC110 - several Events
                await asyncio.sleep(0.05)
            registry = Registry()
            events, monitors = EventRecorder(client, "test"), PodMonitors(client, view, None, nothing)
            reconciler = Reconciler(
                client, registry, view, events, Applier(client, view), image=WorkerImage(), monitors=monitors
            )
            record = registry.put(body)
            if meanwhile is not None:
                apply = client.apply

                async def apply_first(*arguments: Any, **options: Any) -> Object:
                    found = await apply(*arguments, **options)
                    client.apply = apply  # type: ignore[method-assign]
                    seen.clear()
                    await asyncio.to_thread(meanwhile)
                    await seen.wait()
                    note_drift(record)
                    return found

                client.apply = apply_first  # type: ignore[method-assign]
            await reconciler.reconcile_pool(record)
            if before_resync is not None:
                await asyncio.to_thread(before_resync)
                get = client.get

                async def get_first(path: str, *arguments: Any, **options: Any) -> Object:
                    found = await get(path, *arguments, **options)
                    if once_asked is not None and path.endswith("/greenworkerpools"):
                        client.get = get  # type: ignore[method-assign]
                        await asyncio.to_thread(once_asked)
                    return found

                client.get = get_first  # type: ignore[method-assign]
                await reconciler.repair_config(record)
        finally:
            for task in watching:
                task.cancel()
            await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("propagation", ["Background", "Orphan"])
def test_a_pool_that_has_gone_is_not_made_again_and_its_orphans_stay(world: World, propagation: str) -> None:
    shop, name = world.namespace, f"gone-{propagation.lower()}"
    body: Any = shop.apply_pool(name, network=EGRESS, replicas={"min": 1})
    reconcile_as_remembered(shop, body)
    assert len(children(shop, name)) == 4
    shop.api.delete(shop.path("greenworkerpools", name), propagationPolicy=propagation)
    eventually(lambda: shop.find("greenworkerpools", name) is None, "the pool is gone", 60)
    if propagation == "Background":
        eventually(lambda: not children(shop, name), "its children are gone", 60)
    left = children(shop, name)
    reconcile_as_remembered(shop, body)
    assert children(shop, name) == left


def test_a_pool_that_goes_while_it_is_reconciled_gets_back_no_owner(world: World) -> None:
    """The collector deletes whatever has the uid of a pool that is gone as its owner."""
    shop = world.namespace
    body: Any = shop.apply_pool("leaves", network=EGRESS, replicas={"min": 1})
    reconcile_as_remembered(shop, body)
    uids = {kind: one.split("[")[0] for kind, one in children(shop, "leaves").items()}

    def leave() -> None:
        shop.api.delete(shop.path("greenworkerpools", "leaves"), propagationPolicy="Orphan")
        eventually(lambda: shop.find("greenworkerpools", "leaves") is None, "the pool is gone", 60)

    reconcile_as_remembered(shop, body, leave)
    assert children(shop, "leaves") == {kind: f"{uid.removesuffix('None')}None" for kind, uid in uids.items()}


@pytest.mark.parametrize("when", ["before the resync", "once it has asked"])
def test_a_resync_of_the_config_map_of_a_pool_that_goes_puts_no_owner_back(world: World, when: str) -> None:
    """Nobody watches ConfigMaps, and the operator has not been told yet that the pool goes."""
    shop, name = world.namespace, f"resynced-{when.split(maxsplit=1)[0]}"
    body: Any = shop.apply_pool(name, network=EGRESS, replicas={"min": 1})

    def leave() -> None:
        shop.api.delete(shop.path("greenworkerpools", name), propagationPolicy="Orphan")
        eventually(lambda: shop.find("greenworkerpools", name) is None, "the pool is gone", 60)

    def change() -> None:
        shop.api.merge(shop.path("configmaps", f"{name}-greenfleet"), {"data": {"mine": "1"}})

    if when == "before the resync":
        reconcile_as_remembered(shop, body, before_resync=leave)
    else:
        reconcile_as_remembered(shop, body, before_resync=change, once_asked=leave)
    assert {kind for kind, one in children(shop, name).items() if not one.endswith("None")} == set()
    assert "configmaps" in children(shop, name)


def test_a_resync_of_the_config_map_of_a_pool_that_stays_puts_its_owner_back(world: World) -> None:
    shop = world.namespace
    body: Any = shop.apply_pool("kept", network=EGRESS, replicas={"min": 1})
    reconcile_as_remembered(shop, body)
    whole = children(shop, "kept")

    def lose() -> None:
        shop.api.merge(shop.path("configmaps", "kept-greenfleet"), {"metadata": {"ownerReferences": None}})
        assert children(shop, "kept") != whole

    reconcile_as_remembered(shop, body, before_resync=lose)
    assert children(shop, "kept") == whole
    shop.delete_pool("kept", wait=False)


@pytest.mark.parametrize("missing", ["configmaps", "networkpolicies", "deployments", "poddisruptionbudgets"])
def test_a_pool_that_goes_gets_back_nothing_that_the_collector_has_taken(world: World, missing: str) -> None:
    """A crash at any point of the collector's work: the pool waits for a finalizer here, so that the point
    holds still.
    """
    shop, name = world.namespace, f"going-{missing}"
    body: Any = shop.apply_pool(name, network=EGRESS, replicas={"min": 1})
    reconcile_as_remembered(shop, body)
    shop.api.merge(shop.path("greenworkerpools", name), {"metadata": {"finalizers": ["example.com/held"]}})
    shop.api.delete(shop.path("greenworkerpools", name))
    child = f"{name}-eventlet" if missing in ("deployments", "poddisruptionbudgets") else f"{name}-greenfleet"
    shop.api.delete(shop.path(missing, child))
    eventually(lambda: shop.find(missing, child) is None, "taken")
    reconcile_as_remembered(shop, body)
    assert missing not in children(shop, name)
    shop.api.merge(shop.path("greenworkerpools", name), {"metadata": {"finalizers": None}})


def test_a_pool_that_is_there_gets_back_what_it_has_lost(world: World) -> None:
    shop = world.namespace
    body: Any = shop.apply_pool("stays", network=EGRESS, replicas={"min": 1})
    reconcile_as_remembered(shop, body)
    whole = children(shop, "stays")
    shop.api.delete(shop.path("configmaps", "stays-greenfleet"))
    shop.api.merge(shop.path("networkpolicies", "stays-greenfleet"), {"metadata": {"ownerReferences": None}})
    reconcile_as_remembered(shop, body)
    again = children(shop, "stays")
    assert set(again) == set(whole)
    assert again["networkpolicies"] == whole["networkpolicies"]
    shop.delete_pool("stays", wait=False)


@pytest.mark.parametrize("looks", [True, False], ids=["looked at meanwhile", "after a crash"])
def test_what_a_spec_is_warned_of_is_said_though_its_deployment_was_seen_before(world: World, looks: bool) -> None:
    """That Deployment says of which generation it is, and looks like one of a pool that was reconciled before a
    restart.
    """
    shop, name = world.namespace, "warned-meanwhile" if looks else "warned-later"
    body: Any = shop.apply_pool(name, manualReplicas=3)
    if not looks:
        spec = {field: value for field, value in body["spec"].items() if field != "manualReplicas"}
        reconcile_as_remembered(shop, {**body, "spec": spec})
        assert not shop.events(name, "ManualReplicasIgnored")
    reconcile_as_remembered(shop, body, looks=True)
    assert len(shop.events(name, "ManualReplicasIgnored")) == 1


def test_a_pool_that_was_reconciled_before_a_restart_is_not_warned_again(world: World) -> None:
    shop = world.namespace
    body: Any = shop.apply_pool("warned-once", manualReplicas=3)
    reconcile_as_remembered(shop, body)
    condition = {"type": "Reconciling", "status": "False", "reason": "UpToDate", "observedGeneration": 1}
    reconcile_as_remembered(shop, {**body, "status": {"conditions": [condition]}})
    assert len(shop.events("warned-once", "ManualReplicasIgnored")) == 1
