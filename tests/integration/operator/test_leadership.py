"""Two replicas, one leader: who writes, who takes over and when, and who stops."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Iterator

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Operator, eventually, only_exporters

LEASE_SECONDS = 6.0


@pytest.fixture
def world(make_world: WorldMaker) -> Iterator[World]:
    made = make_world("leaders", runs=only_exporters)
    yield made
    made.close()


def pair(world: World) -> tuple[Operator, Operator]:
    """Two replicas; the first one leads."""
    first = world.operator("operator-1").start()
    eventually(first.leads, "the first leads")
    return first, world.operator("operator-2").start()


def holder(world: World) -> str:
    lease = world.namespace.find("leases", "greenfleet")
    return "" if lease is None else str(lease["spec"].get("holderIdentity") or "")


def test_one_leads_and_the_standby_is_ready_and_writes_nothing(world: World) -> None:
    first, second = pair(world)
    shop = world.namespace
    shop.apply_pool("feeds")
    shop.await_condition("feeds", "Ready", "True")
    eventually(lambda: second.metric("greenfleet_pools") == 1, "the standby knows the pool too")
    assert (first.leads(), second.leads()) == (True, False)
    assert (second.status("/readyz"), second.status("/healthz")) == (200, 200)
    written = [
        line
        for line in second.get("/metrics").splitlines()
        if line.startswith("greenfleet_api_requests_total{") and ('"PATCH"' in line or '"POST"' in line)
    ]
    assert not written
    assert holder(world) == "operator-1"


def test_a_leader_that_is_killed_is_replaced_within_the_lease_and_the_work_goes_on(world: World) -> None:
    first, second = pair(world)
    shop = world.namespace
    shop.apply_pool("feeds")
    shop.await_condition("feeds", "Ready", "True")
    first.send(signal.SIGKILL)
    eventually(second.leads, "the second takes over", LEASE_SECONDS + 6)
    assert holder(world) == "operator-2"
    shop.apply_pool("feeds", image="registry.example/hub:2")

    def image() -> str:
        return str((shop.deployment("feeds") or {})["spec"]["template"]["spec"]["containers"][0]["image"])

    eventually(lambda: image() == "registry.example/hub:2", "the new leader reconciles")


def test_a_leader_that_is_asked_to_leave_gives_the_lease_back_at_once(world: World) -> None:
    first, second = pair(world)
    first.send(signal.SIGTERM)
    # Sooner than the Lease could have run out: the standby looks every tenth of its duration.
    eventually(second.leads, "the second takes over", LEASE_SECONDS / 2)
    eventually(first.gone, "the first has left")
    assert first.process is not None
    assert first.process.returncode == 0, first.tail()


@pytest.mark.slow
def test_a_leader_that_was_frozen_stops_writing_when_it_wakes_up(world: World) -> None:
    first, second = pair(world)
    shop = world.namespace
    shop.apply_pool("feeds")
    shop.await_condition("feeds", "Ready", "True")
    first.send(signal.SIGSTOP)
    eventually(second.leads, "the second takes over", LEASE_SECONDS + 6)
    first.send(signal.SIGCONT)
    eventually(lambda: first.metric("greenfleet_leader") == 0, "the first sees that it no longer leads")
    assert holder(world) == "operator-2"
    assert second.leads()
    assert first.status("/healthz") == 200


def test_a_leader_that_cannot_renew_stops_writing_before_its_lease_runs_out(world: World) -> None:
    """Somebody else's name is in the Lease: every renewal conflicts, as it does when the API server cannot be
    reached.
    """
    first = world.operator("operator-1").start()
    eventually(first.leads, "the first leads")
    shop = world.namespace
    path = shop.path("leases", "greenfleet")

    def usurp() -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        shop.api.merge(path, {"spec": {"holderIdentity": "somebody", "renewTime": now}})

    usurp()
    eventually(lambda: first.metric("greenfleet_leader") == 0, "it stops leading", LEASE_SECONDS)
    usurp()
    shop.apply_pool("feeds")
    eventually(lambda: first.metric("greenfleet_pools") == 1, "it knows the pool")
    assert shop.deployment("feeds") is None
    # The usurper never renews again: after a whole duration the Lease is free.
    eventually(lambda: shop.deployment("feeds"), "it leads again and works", 3 * LEASE_SECONDS)


def test_a_restart_changes_nothing_that_runs(world: World) -> None:
    shop = world.namespace
    first = world.operator("operator-1").start()
    shop.apply_pool("feeds", replicas={"min": 2, "max": 4})
    eventually(lambda: len(shop.pods("feeds")) == 2, "two workers")
    shop.await_condition("feeds", "Ready", "True")
    eventually(lambda: shop.condition("feeds", "Reconciling").get("status") == "False", "it is settled")

    def versions() -> tuple[str, list[str]]:
        deployment = shop.deployment("feeds") or {}
        uids = sorted(pod["metadata"]["uid"] for pod in shop.pods("feeds"))
        return str(deployment["metadata"]["generation"]), uids

    before = versions()
    first.stop()
    second = world.operator("operator-2").start()
    eventually(second.leads, "the second leads")
    eventually(
        lambda: (second.metric('greenfleet_desired_workers{pool="' + shop.name + '/feeds",role="eventlet"}')) == 2,
        "it has looked at the pool",
    )
    assert versions() == before
