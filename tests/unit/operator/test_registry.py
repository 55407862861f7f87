"""What a replica knows about pools: conflicts, config errors, and how one pool's failure stays its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import Mode
from greenfleet.controller import registry as registry_module
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.enqueuer import Enqueuer
from greenfleet.controller.keys import ExporterKey, Key, PoolKey
from greenfleet.controller.pods import is_finished, scaling_pod, scaling_spec
from greenfleet.controller.pool_list import PoolList
from greenfleet.controller.registry import Registry
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.k8s.client import Client
from greenfleet.manifests.names import Role
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.settings import Prometheus, Source
from greenfleet.status.auto_routing import EXEMPT_ANNOTATION
from greenfleet.status.spec_checks import config_error
from greenfleet.status.stalled import StalledReason
from tests.unit.operator.objects import Object, body, pool


def registry(*bodies: Object) -> Registry:
    found = Registry()
    for one in bodies:
        found.put(one)
    return found


def enqueuer_of(found: Registry) -> Enqueuer:
    return Enqueuer(found, WorkQueue[Key](), OperatorMetrics())


def pool_list(server: Client, found: Registry) -> tuple[PoolList, Enqueuer]:
    """What compares the registry with a server, of which nothing else is known yet, and what it tells."""
    enqueuer = enqueuer_of(found)
    view = ClusterCache(server, (), enqueuer.child_changed, lambda old, new: None)
    return PoolList(server, found, enqueuer, view), enqueuer


def conflicts(found: Registry) -> dict[str, str]:
    return {
        record.key: stall.message
        for record in found
        if record.pool is not None and (stall := found.conflict(record.pool)) is not None
    }


def test_two_pools_on_one_queue_of_one_broker_are_both_in_conflict_and_a_third_is_not() -> None:
    found = conflicts(registry(body("a"), body("b", queues=["other", "feeds"]), body("c", queues=["mine"])))
    assert set(found) == {"shop/a", "shop/b"}
    assert "'feeds'" in found["shop/a"]
    assert "the pool b" in found["shop/a"]
    assert "the pool a" in found["shop/b"]
    assert found["shop/a"].endswith("give each queue to one pool")


def test_the_same_queue_of_another_broker_or_namespace_is_another_queue() -> None:
    other = {"urlFrom": {"secretKeyRef": {"name": "broker-2", "key": "url"}}}
    assert not conflicts(registry(body("a"), body("b", broker=other), body("a", namespace="other")))


def test_a_companion_queue_that_another_pool_consumes_is_a_conflict() -> None:
    found = conflicts(registry(body("a", prefork={}), body("b", queues=["feeds.prefork"])))
    assert set(found) == {"shop/a", "shop/b"}


def test_a_conflict_ends_with_the_other_pool() -> None:
    found = registry(body("a"), body("b"))
    found.remove("shop/b")
    assert not conflicts(found)


def test_a_pool_that_is_being_deleted_is_no_longer_reconciled_and_frees_its_queues() -> None:
    found = Registry()
    enqueuer = enqueuer_of(found)
    for name in ("a", "b"):
        enqueuer.pool_changed(body(name))
    assert set(conflicts(found)) == {"shop/a", "shop/b"}
    leaving = body("b", generation=2)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    enqueuer.pool_changed(leaving)
    assert [record.key for record in found] == ["shop/a"]
    assert not conflicts(found)
    enqueuer.pool_removed(leaving)
    assert [record.key for record in found] == ["shop/a"]


def test_an_invalid_pool_is_kept_with_its_reason_and_recovers() -> None:
    found = registry(body("a", queues=["?"]))
    record = found.get("shop/a")
    assert record is not None
    assert record.pool is None
    assert record.invalid is not None
    found.put(body("a", generation=2))
    assert record.pool is not None
    assert record.invalid is None


def test_a_pool_that_was_deleted_and_made_again_begins_anew() -> None:
    found = registry(body("a"))
    old = found.get("shop/a")
    again = body("a")
    again["metadata"]["uid"] = "another"
    assert found.put(again) is not old


def of(uid: str, version: int, **metadata: str) -> Object:
    """The pool shop/a, one of two that bore the name."""
    found = body("a")
    found["metadata"] |= {"uid": uid, "resourceVersion": str(version), **metadata}
    return found


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(("removed", of("first", 12)), id="deleted"),
        pytest.param(("changed", of("first", 11, deletionTimestamp="2026-01-01T00:00:00Z")), id="is being deleted"),
        pytest.param(("changed", of("first", 10)), id="changed"),
    ],
)
def test_a_late_word_about_a_deleted_pool_does_not_touch_its_successor(late: tuple[str, Object]) -> None:
    """kopf tells of each object by itself, so that of two with one name the later may come first."""
    found = Registry()
    enqueuer = enqueuer_of(found)
    enqueuer.pool_changed(of("first", 9))
    enqueuer.pool_changed(of("second", 13))
    what, told = late
    {"removed": enqueuer.pool_removed, "changed": enqueuer.pool_changed}[what](told)
    assert [record.uid for record in found] == ["second"]


def test_an_older_word_about_a_pool_changes_nothing() -> None:
    found = Registry()
    found.put(of("one", 100))
    older = of("one", 99)
    older["spec"]["queues"] = ["older"]
    record = found.put(older)
    assert record.pool is not None
    assert record.pool.spec.queues == ["feeds"]


class Restored(Client):
    """An API server whose etcd was restored: it has the pools of a while ago, with the resourceVersions of then."""

    def __init__(self, *bodies: Object) -> None:
        self.bodies = bodies

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, urgent: bool = False, metadata_only: bool = False
    ) -> Object:
        return {"metadata": {}, "items": list(self.bodies)}


def test_a_pool_that_went_back_in_time_with_its_etcd_is_taken_as_it_is() -> None:
    now, restored = of("one", 100), of("one", 40)
    now["metadata"]["generation"] = 5
    restored["spec"]["queues"] = ["as-it-was"]
    found = registry(now)
    pools, enqueuer = pool_list(Restored(restored), found)
    asyncio.run(pools._compare(None))
    [record] = found
    assert record.pool is not None
    assert record.pool.spec.queues == ["as-it-was"]
    later = of("one", 41)
    later["metadata"]["generation"] = 2
    enqueuer.pool_changed(later)
    assert record.pool.spec.queues == ["feeds"], "from now on its versions count from there"


GOOD_SCHEDULE = {
    "name": "office-hours",
    "cron": "0 8 * * 1-5",
    "duration": "9h",
    "timezone": "Europe/Berlin",
    "minReplicas": 3,
}


@pytest.mark.parametrize(
    ("scaling", "reason", "parts"),
    [
        (
            {"prometheus": {"server": "elsewhere"}},
            "UnknownPrometheusServer",
            ["server is 'elsewhere'", "administrator"],
        ),
        (
            {"prometheus": {"source": "guesswork"}},
            "UnknownSource",
            ["source is 'guesswork'", "celery-exporter", "mine"],
        ),
        ({"prometheus": {"query": "sum(up)"}}, "QueryNotAllowed", ["query is set", "remove it"]),
        (
            {"schedules": [GOOD_SCHEDULE, {**GOOD_SCHEDULE, "cron": "a b c d e"}]},
            "InvalidSchedule",
            ["schedules[1].cron is 'a b c d e'"],
        ),
        ({"schedules": [{**GOOD_SCHEDULE, "cron": "99 * * * *"}]}, "InvalidSchedule", ["outside 0-59"]),
        (
            {"schedules": [{**GOOD_SCHEDULE, "timezone": "Mars/Olympus"}]},
            "InvalidSchedule",
            ["timezone is 'Mars/Olympus'"],
        ),
        ({"schedules": [{**GOOD_SCHEDULE, "timezone": "Europe"}]}, "InvalidSchedule", ["timezone is 'Europe'"]),
        (
            {"schedules": [{**GOOD_SCHEDULE, "timezone": "/etc/passwd"}]},
            "InvalidSchedule",
            ["timezone is '/etc/passwd'"],
        ),
    ],
)
def test_what_only_the_operator_can_see_is_said_in_four_parts(scaling: Object, reason: str, parts: list[str]) -> None:
    found = config_error(pool(scaling=scaling), Prometheus(sources={"mine": Source(selector="x")}))
    assert found is not None
    assert found.reason == reason
    assert found.message.startswith("scaling.")
    for part in parts:
        assert part in found.message


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"prometheus": {"server": "default"}},
        {"prometheus": {"source": "mine"}},
        {"prometheus": {"source": "rabbitmq"}},
        {"schedules": [GOOD_SCHEDULE]},
    ],
)
def test_what_the_operator_can_use_is_no_config_error(scaling: Object) -> None:
    assert config_error(pool(scaling=scaling), Prometheus(sources={"mine": Source(selector="x")})) is None


def test_an_own_query_counts_where_the_administrator_allowed_it() -> None:
    assert config_error(pool(scaling={"prometheus": {"query": "sum(up)"}}), Prometheus(allow_query=True)) is None


def test_a_schedule_that_cannot_be_evaluated_is_left_out_and_the_autoscaler_goes_on() -> None:
    bad = {**GOOD_SCHEDULE, "timezone": "Mars/Olympus"}
    spec = scaling_spec(pool(scaling={"schedules": [bad, GOOD_SCHEDULE]}), Role.EVENTLET, 15)
    assert [schedule.timezone for schedule in spec.schedules] == ["Europe/Berlin"]


def test_the_autoscaler_is_told_what_the_user_wrote_in_its_own_units() -> None:
    spec = scaling_spec(
        pool(
            greenThreads={"min": 5, "max": 50, "start": 20, "total": 400},
            replicas={"min": 1, "max": 4},
            manualReplicas=3,
            drain={"timeout": "2m"},
            worker={"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}},
            scaling={
                "mode": "Manual",
                "maxWait": "1m30s",
                "cooldown": "10m",
                "activationThreshold": 5,
                "pause": "In",
                "onMissingMetrics": {"policy": "Floor", "floor": 2},
                "behavior": {
                    "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
                    "scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 300},
                },
            },
        ),
        Role.EVENTLET,
        15,
    )
    assert (spec.threads_min, spec.threads_max, spec.threads_start, spec.threads_total) == (5, 50, 20, 400)
    assert (spec.replicas_min, spec.replicas_max, spec.manual_replicas, spec.mode) == (1, 4, 3, Mode.MANUAL)
    assert (spec.max_wait_seconds, spec.cooldown_seconds, spec.activation_threshold) == (90, 600, 5)
    assert (spec.pause_in, spec.pause_out, spec.missing_metrics_floor, spec.drain_seconds) == (True, False, 2, 120)
    assert (spec.cpu_limit_cores, spec.memory_limit_bytes, spec.scrape_interval_seconds) == (0.5, 2**30, 15)
    assert (spec.scale_up.policies[0].value, spec.scale_down.select_policy) == (2, "Disabled")


def test_a_floor_counts_with_the_policy_floor_only() -> None:
    spec = scaling_spec(pool(scaling={"onMissingMetrics": {"policy": "Hold", "floor": 5}}), Role.EVENTLET, 15)
    assert spec.missing_metrics_floor is None


def test_the_companions_processes_are_its_threads_and_it_stays_automatic() -> None:
    spec = scaling_spec(
        pool(
            scaling={"mode": "Manual"},
            greenThreads={"total": 5000},
            prefork={"processes": 4, "replicas": {"min": 1, "max": 3}},
        ),
        Role.PREFORK,
        15,
    )
    assert (spec.threads_min, spec.threads_max, spec.threads_start, spec.threads_total) == (4, 4, 4, None)
    assert (spec.replicas_min, spec.replicas_max, spec.mode, spec.cpu_limit_cores) == (1, 3, Mode.AUTO, 4.0)


@pytest.mark.parametrize(("limit", "cores"), [("2500m", 2.5), ("500m", 0.5), (8, 4.0)])
def test_the_companions_cores_are_its_limit_and_at_most_one_for_each_process(limit: Any, cores: float) -> None:
    prefork = {"processes": 4, "resources": {"limits": {"cpu": limit, "memory": "1Gi"}}}
    spec = scaling_spec(pool(prefork=prefork), Role.PREFORK, 15)
    assert (spec.cpu_limit_cores, spec.memory_limit_bytes) == (cores, 2**30)


def test_schedules_and_the_floor_raise_the_eventlet_fleet_and_not_its_companion() -> None:
    scaling = {"schedules": [GOOD_SCHEDULE], "onMissingMetrics": {"policy": "Floor", "floor": 5}}
    given = pool(scaling=scaling, prefork={"processes": 4})
    assert scaling_spec(given, Role.EVENTLET, 15).schedules
    assert scaling_spec(given, Role.EVENTLET, 15).missing_metrics_floor == 5
    assert not scaling_spec(given, Role.PREFORK, 15).schedules
    assert scaling_spec(given, Role.PREFORK, 15).missing_metrics_floor is None


def k8s_pod(**metadata: Any) -> Object:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}
    return {
        "metadata": {"name": "feeds-1", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata},
        "status": {"phase": "Running", "conditions": [ready]},
    }


@pytest.mark.parametrize(
    ("text", "threads"),
    [("250", 250), ("", None), ("many", None), ("-5", None), ("2.5", None), (" 7", None), ("²", None)],
)
def test_a_pods_annotation_is_a_decimal_number_or_nothing(text: str, threads: int | None) -> None:
    assert scaling_pod(k8s_pod(annotations={"greenfleet.io/threads": text})).threads == threads


def test_a_pod_is_seen_with_its_times_and_whether_it_leaves() -> None:
    one = scaling_pod(k8s_pod())
    assert one.ready_since is not None
    assert (one.ready_since - one.created_at, one.terminating, one.threads) == (10, False, None)
    assert scaling_pod(k8s_pod(deletionTimestamp="2026-01-01T00:01:00Z")).terminating
    assert scaling_pod({**k8s_pod(), "status": {}}).ready_since is None
    assert scaling_pod({"metadata": k8s_pod()["metadata"]}).ready_since is None


@pytest.mark.parametrize(
    ("phase", "finished"), [("Running", False), ("Failed", True), ("Succeeded", True), (None, False)]
)
def test_a_pod_that_was_evicted_or_has_ended_no_longer_counts(phase: str | None, finished: bool) -> None:
    assert is_finished({**k8s_pod(), "status": {"phase": phase} if phase else {}}) is finished


def test_an_event_about_a_pool_s_status_keeps_the_parsed_pool_and_costs_no_work() -> None:
    found = registry(body("a"))
    before = found.get("shop/a")
    assert before is not None
    pool_before = before.pool
    changed = body("a")
    changed["status"] = {"replicas": 3}
    changed["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    after = found.put(changed)
    assert after.pool is pool_before
    assert after.status == {"replicas": 3}
    assert "managedFields" not in after.body["metadata"], "half of an object's memory, and nobody reads it"


def test_only_pools_that_share_a_queue_are_looked_at_when_one_comes_or_goes() -> None:
    found = registry(body("a"), body("b", queues=["other", "feeds"]), body("c", queues=["mine"]))
    enqueuer = enqueuer_of(found)
    enqueuer.pool_removed(body("a"))
    assert enqueuer._queue._queued == {ExporterKey("shop", "broker/url"), PoolKey("shop", "b")}


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        ({"image": "registry.example/hub:2"}, False),
        ({"greenThreads": {"max": 50}}, False),
        ({"queues": ["feeds", "more"]}, True),
        ({"prefork": {}}, True),
        ({"network": {"egress": [{}]}}, True),
        ({"broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}, "metricsPort": 15693}}, True),
    ],
)
def test_the_exporter_is_looked_at_only_when_a_change_concerns_it(change: Object, concerned: bool) -> None:
    enqueuer = enqueuer_of(registry(body("a")))
    enqueuer.pool_changed(body("a", generation=2, **change))
    assert (ExporterKey("shop", "broker/url") in enqueuer._queue._queued) is concerned


def test_a_pool_that_moves_to_another_broker_is_found_there_only() -> None:
    found = registry(body("a"), body("b"))
    found.put(body("a", generation=2, broker={"urlFrom": {"secretKeyRef": {"name": "broker-2", "key": "url"}}}))
    assert [pool.name for pool in found.of_broker("shop/broker/url")] == ["b"]
    assert [pool.name for pool in found.of_broker("shop/broker-2/url")] == ["a"]


class Listing(Client):
    """An API server with some pools, in pages of one."""

    def __init__(self, *bodies: Object) -> None:
        self.bodies = bodies

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, urgent: bool = False, metadata_only: bool = False
    ) -> Object:
        assert path == "/apis/greenfleet.io/v1alpha1/greenworkerpools"
        index = int((query or {}).get("continue", "0"))
        more = {"continue": str(index + 1)} if index + 1 < len(self.bodies) else {}
        return {"metadata": more, "items": [self.bodies[index]]}


def test_no_exporter_is_touched_before_every_pool_is_known() -> None:
    leaving = body("c")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pools, enqueuer = pool_list(Listing(body("a"), body("b"), leaving), Registry())

    async def run() -> None:
        meeting = asyncio.create_task(pools.wait_for_initial_list())
        enqueuer.pool_changed(body("a"))
        await asyncio.sleep(0.5)
        assert not meeting.done(), "b is missing: an exporter made now would drop its queue"
        enqueuer.pool_changed(body("b"))
        await asyncio.wait_for(meeting, 10)

    asyncio.run(run())


def test_a_pool_that_goes_before_it_was_told_of_holds_nobody_up() -> None:
    """Between our list and kopf's own: nobody will ever tell of it."""
    server = Listing(body("a"), body("b"))
    pools, enqueuer = pool_list(server, Registry())

    async def run() -> None:
        waiting = asyncio.create_task(pools.wait_for_initial_list())
        enqueuer.pool_changed(body("a"))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        server.bodies = (body("a"), body("c"))
        await asyncio.wait_for(waiting, 10)

    asyncio.run(run())


def test_the_resync_looks_at_what_runs_and_at_its_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry(body("a"), body("b"))
    enqueuer = enqueuer_of(found)
    later: list[Key] = []
    monkeypatch.setattr(enqueuer._queue, "add_later", lambda key, seconds: later.append(key))
    enqueuer.enqueue_running(600.0)
    assert set(later) == {PoolKey("shop", "a"), PoolKey("shop", "b"), ExporterKey("shop", "broker/url")}


def test_a_refusal_of_the_exporter_outlives_a_change_of_its_only_pool() -> None:
    found = registry(body("a"))
    refusal = StalledReason("Refused", "a policy says no")
    found.exporter("shop/broker/url").refused = refusal
    record = found.put(body("a", generation=2, image="registry.example/hub:2"))
    assert found.exporter_refused(record.pool) is refusal


class Empty(Client):
    """An API server without pools. Go writes an empty list of metadata as null."""

    def __init__(self) -> None:
        self.asked = 0

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, urgent: bool = False, metadata_only: bool = False
    ) -> Object:
        self.asked += 1
        return {"metadata": {"resourceVersion": "1"}, "items": None}


def test_the_last_pool_is_forgotten_when_a_list_has_none() -> None:
    found, server = registry(body("a")), Empty()
    pools, _ = pool_list(server, found)
    asyncio.run(pools._compare(None))
    asyncio.run(pools._compare(None))
    assert (len(found), server.asked) == (0, 2)


def test_who_shares_a_queue_is_found_without_a_look_at_every_pool_of_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked for every pool at every tick: 1,000 pools on one broker took seconds of it, for all pools of the
    cluster.
    """
    found = registry(*(body(f"pool-{number}", queues=[f"queue-{number}"]) for number in range(200)))
    asked: list[str] = []
    original = registry_module.queues_of

    def counted(pool: GreenWorkerPool) -> Iterable[str]:
        asked.append(pool.key)
        return original(pool)

    monkeypatch.setattr(registry_module, "queues_of", counted)
    for record in found:
        assert record.pool is not None
        assert not found.conflicting_pools(record.pool)
        assert not found.is_in_conflict(record.pool)
    assert set(Counter(asked).values()) == {2}


def test_of_a_pool_only_what_is_asked_for_is_kept() -> None:
    """A tenant may write a megabyte into each of its pools."""
    written = body("a", worker={"env": [{"name": "LARGE", "value": "x" * 30_000}]})
    written["metadata"] |= {
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "x" * 30_000,
            EXEMPT_ANNOTATION: "proj.slow",
        },
        "labels": {"a": "b"},
    }
    record = registry(written).get("shop/a")
    assert record is not None
    assert record.pool is not None
    assert len(record.pool.spec.worker.env[0].value or "") == 30_000
    assert record.body["metadata"]["annotations"] == {EXEMPT_ANNOTATION: "proj.slow"}
    assert len(json.dumps(record.body)) < 1_000


@pytest.mark.parametrize("text", ["9" * 5_000, "9" * 4_000, "٣٠", "1e3", "-5", "0x10", " 7", ""])
def test_an_annotation_that_somebody_else_wrote_says_nothing_of_green_threads(text: str) -> None:
    pod = k8s_pod()
    pod["metadata"]["annotations"] = {"greenfleet.io/threads": text}
    assert scaling_pod(pod).threads is None
