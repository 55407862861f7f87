"""The API server and the network between fail in the ways that they do: what the operator knows becomes right again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.faulty_api import Expire, FaultyApi, Swallow
from tests.integration.operator.harness import eventually, only_exporters

POOLS = "/greenworkerpools$"


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
    with faulty.rule(Swallow(("DELETED",)), path=POOLS):
        shop.delete_pool("old")
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


def test_a_pool_whose_creation_was_missed_is_found(world: World, faulty: FaultyApi) -> None:
    shop = world.namespace
    world.operator().start(faulty.kubeconfig)
    shop.apply_pool("seen")
    shop.await_condition("seen", "Ready", "True")
    with faulty.rule(Swallow(), path=POOLS):
        shop.apply_pool("missed")
        shop.await_condition("missed", "Ready", "True", seconds=60)
