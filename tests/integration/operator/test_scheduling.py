"""Pods for which there is no room, with a real scheduler and a node that is only an object."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.health import argo_health, kstatus
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import NODES, Api, cluster, eventually, fresh_name, live_node, only_exporters


@pytest.fixture
def scheduler(api: Api, tmp_path: Path) -> Iterator[None]:
    """The real one, for all namespaces."""
    command = [cluster("program", "kube-scheduler"), f"--kubeconfig={api.kubeconfig}", "--leader-elect=false"]
    with (tmp_path / "scheduler.log").open("wb") as log:
        process = subprocess.Popen([*command, "--secure-port=0"], stdout=log, stderr=subprocess.STDOUT)
    yield
    process.terminate()
    process.wait(30)


@pytest.fixture
def node(api: Api) -> Iterator[str]:
    """A node on which one worker of a core fits beside the exporter."""
    name = fresh_name("node")
    with live_node(api, name):
        yield name


@pytest.fixture
def world(make_world: WorldMaker, scheduler: None, node: str) -> World:
    made = make_world("crowd", runs=only_exporters, binds=False)
    made.operator().start()
    return made


def test_a_fleet_that_has_fewer_workers_than_it_wants_goes_on_and_says_what_it_waits_for(
    world: World, node: str
) -> None:
    shop = world.namespace
    shop.apply_pool("large", replicas={"min": 2, "max": 2}, worker={"resources": {"requests": {"cpu": "1"}}})
    said = shop.await_condition("large", "Reconciling", "True", "WorkersUnschedulable")
    for part in ("worker.resources", "1 pod waits", "Insufficient cpu", "ask for less, or add a node"):
        assert part in said["message"]
    shop.await_condition("large", "Ready", "True")
    eventually(lambda: shop.pool("large")["status"]["readyReplicas"] == 1, "one of the two works")
    assert shop.condition("large", "Stalled")["status"] == "False"
    pool = shop.pool("large")
    assert (kstatus(pool), argo_health(pool)[0]) == ("InProgress", "Progressing")
    more = {"cpu": "4", "memory": "8Gi", "pods": "20"}
    shop.api.merge(f"{NODES}/{node}/status", {"status": {"capacity": more, "allocatable": more}})
    shop.await_condition("large", "Reconciling", "False", "UpToDate")


@pytest.mark.slow
def test_a_fleet_of_which_no_worker_finds_a_node_is_stalled_after_a_while(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("huge", replicas={"min": 1, "max": 1}, worker={"resources": {"requests": {"cpu": "100"}}})
    shop.await_condition("huge", "Reconciling", "True", "WorkersUnschedulable")
    assert shop.condition("huge", "Stalled")["status"] == "False", "a node may come"
    stalled = shop.await_condition("huge", "Stalled", "True", "WorkersUnschedulable", seconds=120)
    for part in ("1 pod waits", "Insufficient cpu"):
        assert part in stalled["message"]
    pool = shop.pool("huge")
    assert (kstatus(pool), argo_health(pool)[0]) == ("Failed", "Degraded")
