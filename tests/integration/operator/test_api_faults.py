"""The API server and the network between fail in the ways that they do: what the operator knows becomes right again."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from time import monotonic

import pytest

from greenfleet.k8s.client import ConflictError, OtherObjectError, connect
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.faulty_api import Answer, Expire, Fault, FaultyApi, Hold, Seen, Swallow
from tests.integration.operator.harness import Namespace, Object, eventually, fresh_name, only_exporters
from tests.integration.operator.test_upkeep import EGRESS

POOLS = "/greenworkerpools$"
EXPORTERS = "greenfleet.io/role=exporter"


@pytest.fixture
def world(make_world: WorldMaker) -> Iterator[World]:
    made = make_world("faults", runs=only_exporters)
    yield made
    made.close()


@pytest.fixture
def faulty(world: World) -> Iterator[FaultyApi]:
    """Between the operators of this test and the API server."""
    with FaultyApi(world.namespace.api.kubeconfig, world.directory) as proxy:
        yield proxy


def test_a_pool_whose_deletion_was_missed_is_forgotten_and_leaves_its_queue_to_its_successor(
    world: World, faulty: FaultyApi
) -> None:
    shop = world.namespace
    operator = world.operator().start(faulty.kubeconfig)
    shop.apply_pool("old", queues=["orders"])
    shop.await_condition("old", "Ready", "True")
    with faulty.rule(Swallow(("DELETED",)), path=POOLS) as missed:
        shop.delete_pool("old", wait=False)
        eventually(lambda: missed.happened, "the event is missed")
    with faulty.rule(Expire(), path=POOLS, times=1) as expired:
        faulty.end_watches(POOLS)
        eventually(lambda: expired.happened, "the watch begins with 410, and kopf lists again")
    shop.apply_pool("new", queues=["orders"])
    shop.await_condition("new", "Ready", "True", seconds=60)
    assert operator.metric("greenfleet_pools") == 1
    missed = len(faulty.seen(method="PATCH", path="/greenworkerpools/old/status"))
    before = operator.metric("greenfleet_loop_duration_seconds_count") or 0
    eventually(lambda: (operator.metric("greenfleet_loop_duration_seconds_count") or 0) > before + 3, "it looks again")
    assert len(faulty.seen(method="PATCH", path="/greenworkerpools/old/status")) == missed


def test_the_proxy_says_when_it_has_read_all_that_an_ended_client_had_sent(faulty: FaultyApi) -> None:
    judged = threading.Event()

    def busy(_: Seen) -> Fault | None:
        judged.set()
        time.sleep(0.5)  # the proxy has much to do
        return Answer(503)

    faulty.judge = busy
    host, port = faulty.server.removeprefix("http://").split(":")
    head = f"DELETE /api/v1/namespaces/no/pods/no HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as first:
        first.sendall(head)
        assert judged.wait(5)
        for _ in range(3):
            with socket.create_connection((host, int(port))) as late:
                late.sendall(head)
    faulty.await_hung_up()
    noted = len(faulty.requests)
    time.sleep(2)
    assert len(faulty.requests) == noted


def test_a_pool_whose_creation_was_missed_is_found(world: World, faulty: FaultyApi) -> None:
    shop = world.namespace
    world.operator().start(faulty.kubeconfig)
    shop.apply_pool("seen")
    shop.await_condition("seen", "Ready", "True")
    with faulty.rule(Swallow(), path=POOLS):
        shop.apply_pool("missed")
        shop.await_condition("missed", "Ready", "True", seconds=60)


def test_ten_namespaces_are_looked_after_by_a_leader_that_keeps_its_lease(world: World) -> None:
    """Each is watched for pools, their pods and three kinds of children; writes and the Lease wait for none of
    these.
    """
    others = [Namespace(world.namespace.api, fresh_name("many")) for _ in range(9)]
    everywhere = [world.namespace, *others]
    operator = world.operator(namespaces=[one.name for one in everywhere]).start()
    eventually(operator.leads, "it leads", 30, operator.tail)
    for namespace in everywhere:
        namespace.apply_pool("feeds")
    for namespace in everywhere:
        eventually(
            lambda one=namespace: one.deployment("feeds"), f"{namespace.name} has its workers", 30, operator.tail
        )
    assert "no longer leading" not in operator.text()
    assert operator.leads()


def test_no_write_arrives_after_the_lease_is_gone(world: World, faulty: FaultyApi) -> None:
    shop, lease_seconds = world.namespace, 6.0
    operator = world.operator(leaseDuration=f"{lease_seconds:g}s").start(faulty.kubeconfig)
    eventually(operator.leads, "it leads")
    with faulty.rule(Hold(8), method="PATCH", path="/deployments/feeds-eventlet$") as slow:
        shop.apply_pool("feeds")
        eventually(lambda: slow.happened, "a write is on its way")
        with faulty.rule(Answer(500), path="/leases/"):
            [*_, renewed] = [one for one in faulty.seen(path="/leases") if one.is_write and one.status in (200, 201)]
            [write] = faulty.seen(method="PATCH", path="/deployments/feeds-eventlet$")
            eventually(lambda: operator.metric("greenfleet_leader") == 0, "it stops leading", 3 * lease_seconds)
            eventually(lambda: monotonic() > write.at + 9, "the slow network is through with it", 20)
            late = [
                one
                for one in faulty.seen()
                if one.is_write
                and not one.path.endswith("/leases/greenfleet")
                and one.passed_at is not None
                and one.passed_at > renewed.at + lease_seconds
            ]
    assert not late


def test_no_replica_is_ready_while_nobody_leads_and_each_is_when_somebody_does(world: World, faulty: FaultyApi) -> None:
    operators = [world.operator(f"operator-{number}", leaseDuration="3s").start(faulty.kubeconfig) for number in (1, 2)]
    eventually(lambda: any(one.leads() for one in operators), "one leads")
    assert [one.status("/readyz") for one in operators] == [200, 200]
    with faulty.rule(Answer(500), path="/leases/"):
        eventually(lambda: [one.status("/readyz") for one in operators] == [503, 503], "neither is ready", 30)
        eventually(lambda: all((one.metric("greenfleet_leaderless_seconds") or 0) > 0 for one in operators), "it shows")
        eventually(lambda: all("nobody leads" in one.text() for one in operators), "both say so")
    eventually(lambda: [one.status("/readyz") for one in operators] == [200, 200], "both are ready")
    assert [one.metric("greenfleet_leaderless_seconds") for one in operators] == [0, 0]


def test_a_refused_exporter_marks_every_pool_of_its_broker_until_it_is_made(world: World, faulty: FaultyApi) -> None:
    shop = world.namespace
    world.operator().start(faulty.kubeconfig)
    with faulty.rule(Answer(422, "a policy says no"), method="PATCH", path="/deployments/greenfleet-queues-"):
        for name in ("a", "b"):
            shop.apply_pool(name)
        for name in ("a", "b"):
            stalled = shop.await_condition(name, "Stalled", "True", "Refused")
            assert "the queue exporter: a policy says no" in stalled["message"]
        image = "registry.example/hub:2"
        shop.apply_pool("a", image=image)

        def reconciled() -> bool:
            found = shop.deployment("a")
            return found is not None and found["spec"]["template"]["spec"]["containers"][0]["image"] == image

        eventually(reconciled, "a is reconciled by itself")
        eventually(lambda: shop.pool("a")["status"]["observedGeneration"] == 2, "its status says so")
        shop.await_condition("a", "Stalled", "True", "Refused")
    shop.apply_pool("c")  # whatever has the exporter looked at again
    for name in ("a", "b", "c"):
        shop.await_condition(name, "Stalled", "False")


def test_the_config_of_an_exporter_that_goes_is_not_forgotten_for_a_conflict(world: World, faulty: FaultyApi) -> None:
    """Nothing would tell of it any more: the Deployment that does goes after it."""
    shop = world.namespace
    world.operator().start(faulty.kubeconfig)
    shop.apply_pool("feeds", queues=["orders"])
    shop.await_condition("feeds", "Ready", "True")
    query = {"fieldManager": "greenfleet-reconciler"}
    with faulty.rule(Answer(409), path="/configmaps/greenfleet-queues-", query=query, times=1) as refused:
        shop.api.delete(shop.path("greenworkerpools", "feeds"), propagationPolicy="Orphan")
        eventually(lambda: refused.happened, "the API server refuses once")

    def left() -> list[str]:
        kinds = ("configmaps", "deployments")
        found = [item for kind in kinds for item in shop.api.items(shop.path(kind), labelSelector=EXPORTERS)]
        return [item["metadata"]["name"] for item in found]

    # The garbage collector learns within 30 s of a kind that is new to it.
    eventually(lambda: not left(), "nothing of the exporter is left", seconds=90)


@pytest.mark.parametrize("there", [True, False])
def test_a_write_to_an_object_that_is_gone_says_so_and_any_other_conflict_does_not(
    world: World, faulty: FaultyApi, there: bool
) -> None:
    """What the API server says tells them apart, not its status."""
    path = world.namespace.path("configmaps", "mine")
    mine: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "uid": "the-one-before"}}
    if there:
        world.namespace.api.create(world.namespace.path("configmaps"), {"metadata": {"name": "mine"}})

    async def write() -> None:
        client = await connect(str(faulty.kubeconfig), write_seconds=lambda: 10.0)
        try:
            with pytest.raises(OtherObjectError):
                await client.apply(path, mine, "test")
            await client.delete(path, "the-one-before")
            with faulty.rule(Answer(409), path=path):
                with pytest.raises(ConflictError) as refused:
                    await client.delete(path, "the-one-before")
                assert not isinstance(refused.value, OtherObjectError)
        finally:
            await client.close()

    asyncio.run(write())
    assert bool(world.namespace.find("configmaps", "mine")) is there


def test_a_pool_whose_network_policy_is_denied_says_so_and_goes_on_being_scaled(
    world: World, faulty: FaultyApi
) -> None:
    shop, manual = world.namespace, {"scaling": {"mode": "Manual"}}
    world.operator().start(faulty.kubeconfig)
    shop.apply_pool("feeds", manualReplicas=1, **manual)
    eventually(lambda: shop.replicas("feeds") == 1, "one worker")
    denied = Answer(403, 'ValidatingAdmissionPolicy "rules" with binding "rules" denied request: no policies here')
    with faulty.rule(denied, method="PATCH", path="/networkpolicies/"):
        shop.apply_pool("feeds", manualReplicas=1, network=EGRESS, **manual)
        assert "no policies here" in shop.await_condition("feeds", "Stalled", "True", "Refused")["message"]
        shop.apply_pool("feeds", manualReplicas=3, network=EGRESS, **manual)
        eventually(lambda: shop.replicas("feeds") == 3, "three workers")
        assert shop.condition("feeds", "Stalled")["status"] == "True"


@pytest.mark.slow
def test_drift_is_repaired_although_the_watch_that_would_tell_of_it_is_silent(world: World, faulty: FaultyApi) -> None:
    shop = world.namespace
    world.operator().start(faulty.kubeconfig)
    shop.apply_pool("feeds")
    shop.await_condition("feeds", "Ready", "True")
    eventually(lambda: shop.condition("feeds", "Reconciling").get("status") == "False", "it is settled")
    path = shop.path("poddisruptionbudgets", "feeds-eventlet")
    with faulty.rule(Swallow(only_open=True), path="/poddisruptionbudgets$") as silent:
        shop.api.merge(path, {"spec": {"maxUnavailable": 5}})
        eventually(lambda: silent.happened, "the event is missed")
        eventually(lambda: shop.api.get(path)["spec"]["maxUnavailable"] == 1, "it is repaired", 100)
