"""Every way to know too little, through the real client, the real scaling loop and the real status writer.

Each fault: the fleet holds (or rises to its floor, from zero workers too), one condition and one Event say why, nothing
is written again while it lasts, and the recovery takes nobody away before a window has passed. Time is an argument: no
test waits.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.controller import actuator, scaling_loop, status_writer
from greenfleet.controller.actuator import Actuator
from greenfleet.controller.background import Background
from greenfleet.controller.booster import Booster
from greenfleet.controller.decider import Decider
from greenfleet.controller.pool_scaler import PoolScaler
from greenfleet.controller.reconciler import Reconciler
from greenfleet.controller.recycler import Recycler
from greenfleet.controller.registry import Record, Registry
from greenfleet.controller.scaling_loop import ScalingLoop
from greenfleet.controller.status_writer import EVENT_BURST, EVENT_SECONDS, StatusWriter
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.prometheus import client as prometheus
from greenfleet.prometheus import poller
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.crowded import LEFT_OUT_SECONDS
from greenfleet.prometheus.poller import Poller
from greenfleet.settings import Prometheus, Server
from tests.unit.operator.objects import Object, body
from tests.unit.operator.test_prometheus_client import serving

START = 1_800_000_000.0
TICK = 2.0
STALE = stale_after_seconds(2.0)
LONG = 80.0
"""Seconds: longer than the cooldown and every window."""


@dataclass
class Clock:
    """What the operator takes for the time."""

    now: float = START

    def time(self) -> float:
        return self.now

    monotonic = time


@dataclass
class World:
    """What Prometheus would answer, and the fault that it answers with instead."""

    clock: Clock
    replicas: int
    depth: float = 0.0
    queue_at: float = 0.0
    """Seconds to add to the time of the queue's scrape."""
    worker_at: float = 0.0
    up: float = 1.0
    missing: tuple[str, ...] = ()
    """Queues that the broker does not have."""
    error: str = ""
    """Kind of the error that keeps the exporter from the broker, as it says."""
    queues: tuple[str, ...] = ("feeds", "mail")
    busy: tuple[float, ...] = ()
    """Running tasks of each worker; none where it is not said."""
    silent_workers: int = 0
    """So many of the workers have no sample."""
    counted: float = 1000.0
    """Tasks that every worker has finished so far."""
    risks: tuple[tuple[str, str], ...] = ()
    """Reason and task of what every worker warns of."""
    dead: int | None = 0
    """Dead letters of the queue as the exporter counts them; None while it says nothing."""
    hangs_up: bool = False
    """The connection breaks off, as when the server is gone."""
    record: Record = field(init=False)
    """What the operator knows about the pool."""
    status: StatusWriter = field(init=False)
    sync_status: Callable[[], Awaitable[None]] = field(init=False)
    """Writes the status between two ticks, as the reconciling controller does."""
    poll_idle_pools: Callable[[], Awaitable[None]] = field(init=False)
    """What the loop does between two ticks."""
    answer: Callable[[], web.StreamResponse] | None = None
    """Another answer to everything."""
    remarks: dict[str, Any] = field(default_factory=dict)
    """What else an answer says."""
    asked: list[str] = field(default_factory=list)
    """Every query so far."""

    def series(self) -> list[tuple[dict[str, str], float, float]]:
        """Labels, value, and time of the scrape."""
        now = self.clock.now
        broker = {"namespace": "shop", "broker": "shop/broker/url"}
        at = now - 0.5 + self.queue_at
        found = [({**broker, "__name__": "greenfleet_queue_up"}, self.up, at)]
        if self.error:
            found.append(({**broker, "__name__": "greenfleet_queue_broker_error", "reason": self.error}, 1.0, at))
        gone = {**broker, "__name__": "greenfleet_queue_missing"}
        found += [({**gone, "queue": queue}, 1.0, at) for queue in self.missing]
        for queue in self.queues:
            found.append(({**broker, "queue": queue, "__name__": "greenfleet_queue_messages_ready"}, self.depth, at))
            if self.dead is not None:
                found.append(({**broker, "queue": queue, "__name__": "greenfleet_queue_dead_letters"}, self.dead, at))
        for number in range(self.replicas - self.silent_workers):
            worker = {"namespace": "shop", "pool": "shop/feeds", "role": "eventlet", "worker": f"feeds-{number}"}
            values = {
                "greenworker_threads_limit": 100.0,
                "greenworker_threads_busy": dict(enumerate(self.busy)).get(number, 0.0),
                "greenworker_started_total": self.counted,
                "greenworker_finished_total": self.counted,
                "greenworker_runtime_seconds_count": self.counted,
            }
            at = now - 0.7 + self.worker_at
            found += [({**worker, "__name__": name}, value, at) for name, value in values.items()]
            risk = {**worker, "__name__": "greenworker_task_risk"}
            found += [({**risk, "reason": why, "task": task}, 1.0, at) for why, task in self.risks]
        return found

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = str((await request.post())["query"])
        self.asked.append(query)
        if self.hangs_up:
            assert request.transport is not None
            request.transport.abort()
        if self.answer is not None:
            return self.answer()
        about_workers = "greenworker_threads_limit" in query
        only_waiting = query.endswith("_ready > 0")
        kind = "vector" if only_waiting else "matrix"
        result = [
            {"metric": labels, **({"value": sample} if only_waiting else {"values": [sample]})}
            for labels, value, at in self.series()
            for sample in [[at, _text(value)]]
            if ("worker" in labels) == about_workers
            and f'namespace!~"{labels["namespace"]}"' not in query
            and not (only_waiting and (not labels["__name__"].endswith("_ready") or value <= 0))
        ]
        return web.json_response({"status": "success", **self.remarks, "data": {"resultType": kind, "result": result}})


def _text(value: float) -> str:
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, str(value))


@dataclass
class Cluster:
    """The API server, as far as the loop needs it: remembers what was written."""

    world: World
    pool: Object
    events: list[tuple[str, str]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    """Reasons of the Events that were Warnings."""
    scaled: list[int] = field(default_factory=list)
    patched: list[tuple[str, Object]] = field(default_factory=list)
    applied: list[Object] = field(default_factory=list)
    """Everything but statuses."""
    statuses: int = 0
    owner: str = ""
    """uid of the pool that the Deployments and the ConfigMap belong to; "" for the one that it is about."""
    is_synced: bool = True

    def deployment(self, namespace: str, name: str) -> Object:
        owned = {"manager": "greenfleet-autoscaler", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        counts = {"replicas": self.world.replicas, "readyReplicas": self.world.replicas, "observedGeneration": 1}
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": name,
            "generation": 1,
            "managedFields": [owned],
            "ownerReferences": [{"uid": self.owner or self.pool["metadata"]["uid"]}],
            "annotations": {"greenfleet.io/pool-generation": "1"},
        }
        return {"metadata": metadata, "spec": {"replicas": self.world.replicas}, "status": counts}

    def pods(self, namespace: str, pool: str, role: str) -> list[Object]:
        del namespace
        if role != "eventlet":
            return []
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return [
            {
                "metadata": {
                    "name": f"{pool}-{number}",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": {"greenfleet.io/threads": "100"},
                },
                "status": {"conditions": [ready]},
            }
            for number in range(self.world.replicas)
        ]

    def exporter_pods(self, *_: str) -> list[Object]:
        return []

    async def apply(self, path: str, manifest: Object, manager: str, *, low_priority: bool = False) -> Object:
        del manager, low_priority
        if path.endswith("/status"):
            self.statuses += 1
            self.pool["status"] = copy.deepcopy(manifest["status"])
            return copy.deepcopy(self.pool)
        self.applied.append(manifest)
        if manifest["kind"] == "Deployment":
            self.scaled.append(manifest["spec"]["replicas"])
            self.world.replicas = manifest["spec"]["replicas"]
        return manifest

    async def peek(self, path: str) -> Object:
        owners = [{"uid": self.owner or self.pool["metadata"]["uid"]}]
        return {"metadata": {"name": path.rsplit("/", 1)[1], "uid": "config", "ownerReferences": owners}}

    async def merge_patch(self, path: str, patch: Object) -> Object:
        self.patched.append((path, patch["metadata"]["annotations"]))
        return patch

    async def normal(self, _: object, reason: str, note: str) -> None:
        self.events.append((reason, note))

    async def warning(self, pool: object, reason: str, note: str) -> None:
        self.warned.append(reason)
        await self.normal(pool, reason, note)

    def condition(self, kind: str) -> Object:
        conditions = self.pool["status"]["conditions"]
        return next(one for one in conditions if one["type"] == kind)

    def events_of(self, reason: str) -> list[str]:
        return [note for said, note in self.events if said == reason]


Scenario = Callable[[World, Cluster, Callable[[float], Any]], Any]


def play(
    scenario: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    replicas: int,
    others: Sequence[Object] = (),
    *,
    timeout: str = "20s",
    scrape_interval: str = "2s",
    **scaling: Any,
) -> OperatorMetrics:
    """Runs a scenario; `pass_time(seconds)` ticks through them. `others` are pools besides the one that it is about."""
    clock = Clock()
    for module in (poller, scaling_loop, status_writer, actuator):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=clock.time, monotonic=clock.monotonic))
    monkeypatch.setattr(actuator, "TOUCH_SECONDS", 0.0)  # real seconds, which this clock does not know
    metrics = OperatorMetrics()

    async def run() -> None:
        world = World(clock, replicas)
        pool = body(queues=["feeds", "mail"], scaling={"cooldown": "20s", **scaling})
        known = Registry()
        record = known.put(pool)
        record.reconciliation.generation = 1
        record.reconciliation.config_uid = "config"
        for other in others:
            known.put(other)
        world.record = record
        cluster = Cluster(world, pool)
        fake = cast("Any", cluster)
        async with serving(world.handle) as url:
            status = StatusWriter(fake, fake, fake, lambda key: None)
            reconciler = Reconciler(fake, known, fake, fake, fake, image=fake, monitors=fake)
            world.status, world.sync_status = status, lambda: status.sync(record)
            server = PrometheusServer("main", Server(url=url, scrape_interval=scrape_interval, timeout=timeout))
            settings = Prometheus(
                default_server="main", servers={"main": Server(url=url, scrape_interval=scrape_interval)}
            )
            background = Background()
            scaler = PoolScaler(
                registry=known,
                view=fake,
                settings=settings,
                decider=Decider(metrics),
                actuator=Actuator(fake, fake, fake, metrics, reconciler),
                recycler=Recycler(fake, fake),
                booster=Booster(fake, known, background),
                status=status,
                adopt_generation=reconciler.adopt_generation,
                background=background,
            )
            loop = ScalingLoop(
                registry=known,
                poller=Poller({"main": server}, settings, lambda pool: world.replicas, tick_seconds=TICK),
                scaler=scaler,
                metrics=metrics,
                background=background,
                acts=lambda: True,
                tick_seconds=TICK,
            )

            async def pass_time(seconds: float) -> None:
                for _ in range(round(seconds / TICK)):
                    clock.now += TICK
                    await loop.tick()
                    await background.idle()

            async def poll_idle_pools() -> None:
                loop.poll_idle_pools()
                await background.idle()

            world.poll_idle_pools = poll_idle_pools
            await scenario(world, cluster, pass_time)
            await server.close()

    asyncio.run(run())
    return metrics


def answer(text: str = "", status: int = 200, **headers: str) -> Callable[[World], None]:
    def break_it(world: World) -> None:
        world.answer = lambda: web.Response(text=text, status=status, headers=headers)

    return break_it


def wrong(**attributes: Any) -> Callable[[World], None]:
    def break_it(world: World) -> None:
        for name, value in attributes.items():
            setattr(world, name, value)

    return break_it


VECTOR = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})
FAULTS: dict[str, tuple[Callable[[World], None], MetricsIssue]] = {
    "server down": (wrong(hangs_up=True), MetricsIssue.UNREACHABLE),
    "server that fails": (answer("gone", 503), MetricsIssue.BAD_ANSWER),
    "redirecting": (answer("", 302, Location="http://127.0.0.1:1/"), MetricsIssue.BAD_ANSWER),
    "no JSON": (answer("<html>login</html>"), MetricsIssue.BAD_ANSWER),
    "huge answer": (answer(" " * 300_000), MetricsIssue.BAD_ANSWER),
    "empty result": (answer(VECTOR), MetricsIssue.NO_SAMPLE),
    "exporter down while workers report": (wrong(queues=()), MetricsIssue.NO_SAMPLE),
    "one of several series missing": (wrong(queues=("feeds",)), MetricsIssue.NO_SAMPLE),
    "a store of Thanos is down": (
        wrong(remarks={"warnings": ["No StoreAPIs matched for this query"]}),
        MetricsIssue.PARTIAL_ANSWER,
    ),
    "a storage node of VictoriaMetrics is down": (wrong(remarks={"isPartial": True}), MetricsIssue.PARTIAL_ANSWER),
    "broker down": (wrong(up=0.0), MetricsIssue.BROKER_DOWN),
    "stale": (wrong(queue_at=-60.0), MetricsIssue.STALE),
    "clock skew": (wrong(queue_at=60.0), MetricsIssue.STALE),
    "stale worker": (wrong(worker_at=-60.0), MetricsIssue.STALE),
    "NaN": (wrong(depth=math.nan), MetricsIssue.BAD_VALUE),
    "Inf": (wrong(depth=math.inf), MetricsIssue.BAD_VALUE),
    "-Inf": (wrong(depth=-math.inf), MetricsIssue.BAD_VALUE),
    "negative": (wrong(depth=-1.0), MetricsIssue.BAD_VALUE),
    "one worker of two without a sample": (wrong(silent_workers=1), MetricsIssue.WORKER_MISSING),
}
NEEDS_WORKERS = {"stale worker", "one worker of two without a sample"}


def mend(world: World) -> None:
    fresh = World(world.clock, world.replicas)
    for name in ("depth", "queue_at", "worker_at", "up", "queues", "silent_workers", "hangs_up", "answer", "remarks"):
        setattr(world, name, getattr(fresh, name))


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_ANSWER_BYTES", 200_000)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fleet_holds_says_so_once_and_recovers_without_a_jump(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it, reason = FAULTS[fault]

    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        assert cluster.condition("MetricsAvailable")["status"] == "True"
        before = cluster.scaled[:]
        break_it(world)
        await pass_time(2 * TICK)
        written = cluster.statuses
        await pass_time(LONG)
        assert cluster.scaled == before, "nothing scales on less than complete knowledge"
        assert world.replicas == 2
        said = cluster.condition("MetricsAvailable")
        assert (said["status"], said["reason"]) == ("False", str(reason))
        assert cluster.condition("ScalingActive")["reason"] == "MetricsMissing"
        assert len(cluster.events_of(str(reason))) == 1, "one Event, however long it lasts"
        assert cluster.statuses == written, "and the condition is written once"
        mend(world)
        await pass_time(3 * TICK)
        assert cluster.scaled == before, "no jump: nobody goes before knowledge has been complete for a window"
        await pass_time(STALE - 2 * TICK)
        assert cluster.condition("MetricsAvailable")["status"] == "True"
        assert len(cluster.events_of("Complete")) == 1
        await pass_time(LONG)
        assert world.replicas == 0, "and then it scales on: the idle fleet leaves"

    play(scenario, monkeypatch, replicas=2)


def test_a_wrong_password_is_said_in_the_one_query_stalls_and_is_over_when_it_is_corrected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        asked = len(world.asked)
        await pass_time(2 * TICK)
        each = len(world.asked) - asked
        world.up, world.error = 0.0, "AuthenticationRefused"
        await pass_time(2 * TICK)
        assert len(world.asked) - asked == 2 * each, "no question more"
        assert "'broker', and the broker refuses" in cluster.condition("MetricsAvailable")["message"]
        assert "the broker refuses" in str(next(iter(world.record.fleets.values())).autoscaling.history[-1]), (
            "why says it too"
        )
        assert cluster.condition("Stalled")["status"] == "False"
        await pass_time(LONG)
        assert cluster.condition("Stalled")["reason"] == "BrokerAuthenticationRefused"
        assert len(cluster.events_of("BrokerAuthenticationRefused")) == 1
        world.up, world.error = 1.0, ""
        await pass_time(STALE + 2 * TICK)
        assert cluster.condition("Stalled")["status"] == "False"
        assert cluster.condition("MetricsAvailable")["status"] == "True"

    play(scenario, monkeypatch, replicas=2)


def test_a_queue_that_does_not_exist_is_said_once_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        world.missing = ("mail",)
        await pass_time(LONG)
        said = cluster.condition("MetricsAvailable")
        assert (said["status"], said["reason"]) == ("True", "QueueMissing")
        assert "spec.queues has 'mail', which does not exist on the broker yet" in said["message"]
        [event] = cluster.events_of("QueueMissing")
        assert event.startswith("spec.queues has 'mail'")
        assert cluster.warned == ["QueueMissing"]
        world.missing = ()
        await pass_time(LONG)
        assert cluster.condition("MetricsAvailable")["reason"] == "Complete"
        world.missing = ("mail",)
        await pass_time(LONG)
        assert len(cluster.events_of("QueueMissing")) == 1, "a queue that expires is no news each time"

    play(scenario, monkeypatch, replicas=0)


def test_metrics_that_come_and_go_at_each_tick_are_one_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        world.hangs_up = True
        await pass_time(TICK)
        written = cluster.statuses
        for tick in range(300):
            world.hangs_up = bool(tick % 2)
            await pass_time(TICK)
            assert cluster.condition("MetricsAvailable")["reason"] == "PrometheusUnreachable"
        minutes = 300 * TICK / 60
        assert cluster.statuses - written <= minutes, "what waits is written once a minute, and nothing else"
        assert cluster.events_of("Complete") == []
        assert cluster.warned == ["PrometheusUnreachable"]
        world.hangs_up = False
        await pass_time(STALE + TICK)
        assert cluster.condition("MetricsAvailable")["status"] == "True", "also of a pool that is idle by then"
        assert cluster.condition("ScalingActive")["status"] == "True"
        assert len(cluster.events_of("Complete")) == 1

    play(scenario, monkeypatch, replicas=0)


def test_of_outages_without_end_only_so_many_are_events_and_the_last_word_is_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        rounds = 60
        for _ in range(rounds):
            world.hangs_up = True
            await pass_time(2 * TICK)
            assert cluster.condition("MetricsAvailable")["status"] == "False"
            world.hangs_up = False
            await pass_time(STALE + TICK)
            assert cluster.condition("MetricsAvailable")["status"] == "True"
        said = rounds * (STALE + 3 * TICK) / EVENT_SECONDS
        assert EVENT_BURST <= len(cluster.events) <= EVENT_BURST + said
        world.hangs_up = True
        await pass_time(EVENT_SECONDS + TICK)
        assert cluster.events[-1][0] == "PrometheusUnreachable"

    play(scenario, monkeypatch, replicas=0)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - NEEDS_WORKERS))
def test_a_floor_is_reached_from_zero_workers_and_left_after_recovery(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, reason = FAULTS[fault]

    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        assert world.replicas == 0
        break_it(world)
        await pass_time(2 * TICK)
        assert world.replicas == 3
        await pass_time(LONG)
        assert cluster.scaled == [3], "it rises once and stays"
        assert len(cluster.events_of(str(reason))) == 1
        mend(world)
        await pass_time(LONG)
        assert world.replicas == 0

    play(scenario, monkeypatch, replicas=0, onMissingMetrics={"policy": "Floor", "floor": 3})


def test_a_namespace_that_exports_too_much_is_left_out_holds_says_why_and_is_asked_about_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        world.risks = tuple(("acks", str(number)) for number in range(2000))
        await pass_time(2 * TICK)
        said = cluster.condition("MetricsAvailable")
        assert (said["status"], said["reason"]) == ("False", "TooManySeries")
        assert "The pods of namespace shop export" in said["message"]
        asked = len(world.asked)
        await pass_time(LONG)
        assert len(world.asked) - asked == 2 * round(LONG / TICK), "no more questions than at other times"
        assert world.replicas == 2
        world.risks = ()
        await pass_time(LEFT_OUT_SECONDS)
        assert cluster.condition("MetricsAvailable")["status"] == "True"
        assert len(cluster.events_of("TooManySeries")) == 1

    play(scenario, monkeypatch, replicas=2)


def test_a_server_that_is_too_slow_is_given_up_and_the_fleet_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        world.answer = _Never
        await pass_time(3 * TICK)
        assert world.replicas == 2
        assert cluster.condition("MetricsAvailable")["reason"] == "PrometheusUnreachable"
        assert len(cluster.events_of("PrometheusUnreachable")) == 1

    play(scenario, monkeypatch, replicas=2, timeout="1s")


class _Never(web.Response):
    """An answer that does not come."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        del request
        await asyncio.Event().wait()


def test_counters_that_begin_again_are_no_missing_metrics_and_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(3 * TICK)
        world.counted = 3.0  # the containers were restarted in place
        await pass_time(3 * TICK)
        assert cluster.condition("MetricsAvailable")["status"] == "True"
        assert cluster.scaled == []

    play(scenario, monkeypatch, replicas=1)


def test_while_metrics_are_missing_a_metric_says_so_and_afterwards_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        world.hangs_up = True
        await pass_time(2 * TICK)

    metrics = play(scenario, monkeypatch, replicas=2)
    assert (
        metrics.registry.get_sample_value("greenfleet_metrics_missing", {"pool": "shop/feeds", "role": "eventlet"}) == 1
    )


@pytest.mark.parametrize(
    ("seconds", "claimed", "said"),
    [(15, "15s", {"True"}), (30, "30s", {"True"}), (60, "60s", {"True"}), (60, "2s", {"True", "False"})],
)
def test_seldom_scrapes_come_without_flapping_where_the_interval_is_right(
    seconds: int, claimed: str, said: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty scrapes, of which one is missed, while the load comes and goes."""
    found: set[str] = set()

    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        for tick in range(1, 20 * seconds // round(TICK)):
            elapsed = tick * TICK
            scraped = elapsed - elapsed % seconds
            if scraped == 10 * seconds:
                scraped -= seconds
            world.queue_at = world.worker_at = scraped - elapsed
            world.depth = 500.0 if scraped // seconds % 4 < 2 else 0.0
            await pass_time(TICK)
            found.add(cluster.condition("MetricsAvailable")["status"])
        assert ("MetricsAvailable" in str(cluster.events) or bool(cluster.warned)) is ("False" in said)

    play(scenario, monkeypatch, replicas=2, scrape_interval=claimed)
    assert found == said
