"""The whole loop with real workers: backlog in Redis → Prometheus → the autoscaler → threads first, workers second,
zero at the end.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from greenfleet.manifests import names
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Object, Prometheus, eventually, fresh_name, kubectl

FLEET: Object = {
    "greenThreads": {"min": 2, "max": 40, "start": 5},
    "replicas": {"min": 0, "max": 3},
    "scaling": {"maxWait": "8s", "cooldown": "4s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}},
    "drain": {"timeout": "10s"},
}

TICKS = "greenfleet_loop_duration_seconds_count"
"""How often the scaling loop has looked at all pools."""


@pytest.fixture
def own_prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that a test may stop."""
    server = Prometheus(tmp_path / "prometheus")
    yield server
    server.stop()


@pytest.fixture
def world(make_world: WorldMaker, own_prometheus: Prometheus) -> Iterator[World]:
    made = make_world("loop", server=own_prometheus)
    yield made
    made.close()


@pytest.fixture(scope="module")
def calm_world(make_world: WorldMaker) -> World:
    """Shared by the tests that need one operator and leave it in peace."""
    made = make_world("calm")
    made.operator().start()
    return made


class Hub:
    """One pool with its producer and the journal of what its tasks did."""

    def __init__(self, world: World, name: str, **spec: Any) -> None:
        self.world = world
        self.shop = world.namespace
        self.name = name
        self.queue = f"{world.namespace.name}-{name}"
        self.journal = world.directory / f"{name}-journal"
        self.journal.touch()
        self.sent = 0
        self.producer = Celery("producer", broker=world.redis.url, set_as_current=False)
        environment = [{"name": "JOURNAL", "value": str(self.journal)}]
        self.shop.apply_pool(
            name, **{**FLEET, **spec}, queues=[self.queue], worker={"env": environment}, agent="Installed"
        )

    def publish(self, count: int, seconds: float) -> None:
        with self.producer.pool.acquire(block=True) as connection, self.producer.amqp.Producer(connection) as producer:
            for number in range(self.sent, self.sent + count):
                self.producer.send_task(
                    "hub_app.fetch", (number, seconds), queue=self.queue, producer=producer, ignore_result=True
                )
        self.sent += count

    def done(self) -> Counter[str]:
        return Counter(self.journal.read_text().split())

    def await_done(self, seconds: float = 60) -> None:
        eventually(
            lambda: len(self.done()) >= self.sent, f"all {self.sent} tasks are done", seconds, self.world.kubelet.tail
        )
        assert len(self.done()) == self.sent

    def await_seen(self) -> None:
        """Until the pool's knowledge is complete."""
        self.shop.await_condition(self.name, "MetricsAvailable", "True", seconds=40)

    def await_replicas(self, wanted: int, seconds: float = 30) -> None:
        eventually(
            lambda: self.shop.replicas(self.name) == wanted,
            f"{wanted} workers",
            seconds,
            lambda: f"there are {self.shop.replicas(self.name)}; {self.why()}",
        )

    def why(self) -> str:
        return self.world.operators[-1].get(f"/api/v1/pools/{self.shop.name}/{self.name}/why")[:3000]

    def await_workers(self, wanted: int, seconds: float = 40) -> None:
        """Until so many workers are ready and consume."""
        eventually(
            lambda: (self.shop.pool(self.name).get("status") or {}).get("readyReplicas") == wanted,
            f"{wanted} ready workers",
            seconds,
            self.world.kubelet.tail,
        )

    def threads(self) -> list[int]:
        """What the pods were told."""
        annotations = [pod["metadata"].get("annotations") or {} for pod in self.shop.pods(self.name)]
        return [int(found["greenfleet.io/threads"]) for found in annotations if "greenfleet.io/threads" in found]

    def events(self, reason: str) -> list[Object]:
        return self.shop.events(self.name, reason)


def test_threads_rise_first_then_workers_and_the_end_is_zero_with_nothing_lost(world: World) -> None:
    operator = world.operator().start()
    hub = Hub(
        world,
        "feeds",
        scaling={**FLEET["scaling"], "maxWait": "25s"},
        greenThreads={"min": 2, "max": 20, "start": 5},
    )
    hub.await_seen()
    assert hub.shop.replicas("feeds") == 0
    # A backlog that one worker with more green threads can take: no second worker.
    hub.publish(25, 1.0)
    hub.await_replicas(1)
    hub.await_workers(1)
    eventually(lambda: max(hub.threads(), default=0) > 5, "the green threads rise", 15, hub.why)
    assert len(world.kubelet.started) == 2, "the exporter and one worker"
    hub.await_done()

    # More than one worker can start in time.
    hub.publish(400, 3.0)
    eventually(lambda: (hub.shop.replicas("feeds") or 0) > 1, "workers follow", 20, hub.why)
    hub.await_done(120)
    hub.await_replicas(0, 60)
    eventually(lambda: not hub.shop.pods("feeds"), "every worker has left", 40)
    counts = hub.done()
    assert sum(counts.values()) == hub.sent, "nothing lost, nothing twice"
    assert hub.events("ScaledOut")
    assert hub.events("ScaledIn")
    assert hub.events("ThreadsRaised")
    learned = hub.shop.pool("feeds")["status"].get("learned")
    assert learned is not None
    assert learned["runtime"].endswith("ms")
    assert "worker" in hub.shop.pool("feeds")["status"]["lastScale"]["message"]
    ready = f'greenfleet_ready_workers{{pool="{hub.shop.name}/feeds",role="eventlet"}}'
    eventually(lambda: operator.metric(ready) == 0, "the next tick counts none", 5)


def test_pools_without_metrics_hold_or_rise_to_their_floor_say_so_once_and_recover(
    world: World, own_prometheus: Prometheus
) -> None:
    operator = world.operator().start()
    scaling = {**FLEET["scaling"], "cooldown": "3s"}
    held = Hub(world, "held", scaling=scaling)
    floor = Hub(world, "floor", scaling={**scaling, "onMissingMetrics": {"policy": "Floor", "floor": 1}})
    held.await_seen()
    floor.await_seen()
    held.publish(5, 0.1)
    held.await_replicas(1)
    held.await_done()
    floor.await_replicas(0)  # without metrics at first, like every new pool
    own_prometheus.stop()

    said = held.shop.await_condition("held", "MetricsAvailable", "False", "PrometheusUnreachable")
    assert "'default'" in said["message"]
    listed = kubectl(held.shop.api, "-n", held.shop.name, "get", "gwp", "held").stdout
    assert "Prometheus 'default' cannot be reached" in listed
    assert held.shop.condition("held", "ScalingActive")["reason"] == "MetricsMissing"
    floor.await_replicas(1)
    floor.publish(5, 0.1)
    floor.await_done()
    looked = operator.metric(TICKS) or 0
    eventually(lambda: (operator.metric(TICKS) or 0) > looked + 14, "many ticks, longer than the cooldown", 60)
    assert held.shop.replicas("held") == 1, "no scale-in while metrics are missing"
    assert len(held.events("PrometheusUnreachable")) == 1
    assert operator.metric(f'greenfleet_metrics_missing{{pool="{held.shop.name}/held",role="eventlet"}}') == 1

    own_prometheus.start()
    for hub in (held, floor):
        hub.await_seen()
        hub.await_replicas(0, 40)
        assert len(hub.events("PrometheusUnreachable")) == 1


@pytest.mark.parametrize(
    "labels", [{"namespace": "elsewhere"}, pytest.param({}, marks=pytest.mark.slow)], ids=["foreign", "missing"]
)
def test_a_sample_without_the_pools_own_namespace_label_is_not_believed(
    labels: dict[str, str], calm_world: World
) -> None:
    operator, prometheus = calm_world.operators[0], calm_world.prometheus
    name = fresh_name("label")
    calm_world.namespace.secret(name, url=calm_world.redis.url)  # so that its exporter is its own
    hub = Hub(calm_world, name, broker={"urlFrom": {"secretKeyRef": {"name": name, "key": "url"}}})
    hub.await_seen()
    deployment = names.exporter_name(f"{name}/url")
    [exporter] = [target for target in prometheus.names() if target.startswith(deployment)]
    prometheus.relabel(exporter, {**labels, "pod": exporter})
    eventually(lambda: hub.shop.condition(name, "MetricsAvailable").get("status") != "True", "no sample counts")
    hub.publish(1, 0.1)
    looked = operator.metric(TICKS) or 0
    eventually(lambda: (operator.metric(TICKS) or 0) > looked + 5, "the loop looks at it")
    assert hub.shop.replicas(name) == 0
    prometheus.relabel(exporter, {"namespace": hub.shop.name, "pod": exporter})
    hub.await_replicas(1)
    hub.await_done()


def test_an_operator_that_is_killed_and_comes_back_does_not_scale_in_and_loses_nothing(world: World) -> None:
    first = world.operator("operator-1").start()
    hub = Hub(world, "restart", replicas={"min": 0, "max": 2})
    hub.await_seen()
    hub.publish(200, 2.0)
    hub.await_replicas(2)
    hub.await_workers(2)
    pods = {pod["metadata"]["uid"] for pod in hub.shop.pods("restart")}
    first.send(signal.SIGKILL)
    second = world.operator("operator-2").start()
    eventually(second.leads, "the second leads", 20)
    series = f'greenfleet_desired_workers{{pool="{hub.shop.name}/restart",role="eventlet"}}'
    eventually(lambda: second.metric(series) is not None, "it has decided")
    while len(hub.done()) < hub.sent * 2 // 3:
        assert hub.shop.replicas("restart") == 2
        assert {pod["metadata"]["uid"] for pod in hub.shop.pods("restart")} == pods
        before = len(hub.done())
        eventually(lambda before=before: len(hub.done()) > before, "tasks go on", 30)
    hub.await_done()
    assert sum(hub.done().values()) == hub.sent


def test_green_threads_move_by_the_pods_and_the_config_map_is_written_before_a_new_pod_needs_it(
    world: World,
) -> None:
    """The ConfigMap says only what a new pod starts with: its writes must not follow every change of the threads."""
    operator = world.operator().start()
    hub = Hub(world, "moves", replicas={"min": 1, "max": 2}, greenThreads={"min": 10, "max": 10, "start": 10})
    hub.await_seen()
    hub.await_workers(1)
    patches = 'greenfleet_api_requests_total{resource="configmaps",status="200",verb="PATCH"}'

    def change(threads: int, workers: int = 1) -> None:
        bounds = {"min": threads, "max": threads, "start": threads}
        spec = {**hub.shop.pool("moves")["spec"], "greenThreads": bounds, "replicas": {"min": workers, "max": 2}}
        hub.shop.apply_pool("moves", **spec)

    def start() -> str:
        return str(hub.shop.api.get(hub.shop.path("configmaps", "moves-greenfleet"))["data"]["threads"])

    eventually(lambda: start() == "10", "the start value is there")
    before = operator.metric(patches) or 0
    changes = (20, 40, 60, 80, 100, 120)
    for threads in changes:
        change(threads)
        eventually(lambda threads=threads: hub.threads() == [threads], f"{threads} green threads", 20, hub.why)
    # One for each change of the spec, and what a minute asks for: one start value, two rounds of the resync.
    assert (operator.metric(patches) or 0) - before <= len(changes) + 3
    change(160, workers=2)
    eventually(lambda: len(hub.shop.pods("moves")) == 2, "a second worker")
    assert start() == "160"


def test_dry_run_decides_and_writes_nothing(calm_world: World) -> None:
    operator = calm_world.operators[0]
    hub = Hub(calm_world, "dry", scaling={**FLEET["scaling"], "mode": "DryRun"})
    hub.await_seen()
    hub.publish(5, 0.1)
    series = f'greenfleet_desired_workers{{pool="{hub.shop.name}/dry",role="eventlet"}}'
    eventually(lambda: operator.metric(series) == 1, "it would start a worker")
    assert hub.shop.replicas("dry") == 0
    assert hub.shop.condition("dry", "ScalingActive")["reason"] == "DryRun"


def test_pausing_out_holds_and_unpausing_lets_go(calm_world: World) -> None:
    operator = calm_world.operators[0]
    hub = Hub(calm_world, "pause", scaling={**FLEET["scaling"], "pause": "Out"})
    hub.await_seen()
    hub.publish(5, 0.1)
    hub.shop.await_condition("pause", "ScalingLimited", "True", "Paused")
    assert hub.shop.replicas("pause") == 0
    hub.shop.apply_pool(
        "pause",
        **FLEET,
        queues=[hub.queue],
        worker={"env": [{"name": "JOURNAL", "value": str(hub.journal)}]},
        agent="Installed",
    )
    hub.await_replicas(1)
    hub.await_done()
    assert operator.metric("greenfleet_loop_lag_seconds") is not None


def test_a_worker_that_cannot_start_says_why_in_the_pools_own_words(calm_world: World) -> None:
    shop = calm_world.namespace
    shop.apply_pool("broken", app="no_such_app", agent="Installed", replicas={"min": 1, "max": 1})
    said = shop.await_condition("broken", "Stalled", "True", "WorkerMisconfigured", 40)
    assert "no_such_app" in said["message"]
    assert shop.condition("broken", "Ready")["status"] == "False"
