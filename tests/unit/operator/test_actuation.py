"""What is worth a write, and which worker may be recycled."""

from __future__ import annotations

from typing import Any

import pytest

from greenfleet.autoscaling.model import Pod, WorkerSample
from greenfleet.controller.actuator import WRITE_INTERVAL_SECONDS, ScalePlan, _needs_threads, worth_writing
from greenfleet.controller.cluster_cache import owns_replicas
from greenfleet.controller.pods import scaling_spec
from greenfleet.controller.recycler import next_to_recycle
from greenfleet.controller.registry import Fleet, LastThreadWrite
from greenfleet.deletion_order import deletion_order
from greenfleet.k8s.reflector import strip_managed_fields
from greenfleet.manifests.names import Role
from greenfleet.prometheus.collect import Worker
from tests.unit.operator.objects import pool, record
from tests.unit.operator.test_status_builder import decision

NOW = 10_000.0


@pytest.mark.parametrize(
    ("current", "wanted", "worth"),
    [
        (None, 10, True),
        (100, 100, False),
        (100, 109, False),
        (100, 110, True),
        (100, 90, True),
        (100, 91, False),
        (5, 6, True),
        (5, 5, False),
        (1, 2, True),
        (10_000, 9_500, False),
    ],
)
def test_a_change_of_a_tenth_or_of_one_thread_at_least_is_worth_a_write(
    current: int | None, wanted: int, worth: bool
) -> None:
    assert worth_writing(current, wanted) is worth


def needs(
    *,
    threads: int | None,
    limit: float | None = None,
    at: float = NOW,
    written: float | None = None,
    fewer: bool = False,
    **pod: Any,
) -> bool:
    one = Pod(name="feeds-1", created_at=0, threads=threads, **{"ready_since": 100.0, **pod})
    samples = {} if limit is None else {"feeds-1": _sample("feeds-1", at, limit)}
    fleet = Fleet(Role.EVENTLET)
    if written is not None:
        fleet.actuation.last_thread_writes["feeds-1"] = LastThreadWrite(written, fewer)
    order = ScalePlan(record(), pool(), fleet, decision(threads=250), (one,), samples)
    return _needs_threads(order, one, NOW)


def _sample(name: str, at: float, limit: float, finished: float = 0) -> WorkerSample:
    return WorkerSample(pod=name, at=at, threads_limit=limit, threads_busy=0, reserved=0, finished=finished)


def test_a_pod_that_was_never_told_is_told() -> None:
    assert needs(threads=None)


def test_a_pod_that_was_told_and_obeys_is_left_alone() -> None:
    assert not needs(threads=250, limit=250)


def test_a_pod_that_does_not_do_what_it_was_told_is_told_again() -> None:
    assert needs(threads=250, limit=100)


def test_a_pod_without_a_sample_is_not_nagged() -> None:
    assert not needs(threads=250)


def test_a_pod_is_told_at_most_every_few_seconds() -> None:
    assert not needs(threads=None, written=NOW - WRITE_INTERVAL_SECONDS + 1)
    assert needs(threads=None, written=NOW - WRITE_INTERVAL_SECONDS)


def test_more_green_threads_do_not_wait_for_the_time_after_fewer() -> None:
    """A crowd came two seconds after the last one had been forgotten, and stood before 23 green threads for
    five more.
    """
    lately = NOW - WRITE_INTERVAL_SECONDS + 3
    assert needs(threads=100, written=lately, fewer=True)
    assert not needs(threads=100, written=lately, fewer=False)
    assert not needs(threads=400, written=lately, fewer=True)


def test_a_pod_that_leaves_is_not_told_anything() -> None:
    assert not needs(threads=None, terminating=True)


def asking(name: str, *reasons: str, finished: float = 0) -> Worker:
    return Worker(_sample(name, NOW, 100, finished), {}, reasons)


def running(name: str, **changes: Any) -> Pod:
    return Pod(name=name, created_at=0, **{"ready_since": 100.0, **changes})


def test_the_worker_that_ran_longest_is_recycled_first() -> None:
    workers = [asking("a", "memory", finished=5), asking("b", "age", finished=9), asking("c")]
    found = next_to_recycle(workers, [running(name) for name in "abc"], 3)
    assert found is not None
    assert found.sample.pod == "b"


@pytest.mark.parametrize(
    "pods",
    [
        [running("a")],
        [running("a"), running("b", ready_since=None)],
        [running("a"), running("b"), running("c", terminating=True)],
        [],
    ],
)
def test_nobody_is_recycled_while_another_worker_is_missing_starting_or_leaving(pods: list[Pod]) -> None:
    assert next_to_recycle([asking("a", "age")], pods, 2) is None


def test_nobody_is_recycled_who_does_not_ask() -> None:
    assert next_to_recycle([asking("a")], [running("a")], 1) is None


def test_of_who_wrote_what_only_the_owner_of_replicas_is_kept() -> None:
    def entry(manager: str, **fields: Any) -> dict[str, Any]:
        return {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": fields}}

    written = [
        entry("greenfleet-autoscaler", **{"f:replicas": {}}),
        entry("greenfleet-reconciler", **{"f:template": {}}),
    ]
    deployment: dict[str, Any] = {"metadata": {"name": "feeds", "managedFields": written}, "spec": {"replicas": 2}}
    kept = strip_managed_fields(deployment)
    assert owns_replicas(kept, "greenfleet-autoscaler")
    assert not owns_replicas(kept, "greenfleet-reconciler")
    assert len(kept["metadata"]["managedFields"]) == 1
    assert kept["spec"] == {"replicas": 2}
    assert len(deployment["metadata"]["managedFields"]) == 2, "the API server's answer itself is left alone"


def test_the_most_idle_pods_leave_first_and_pods_that_never_started_before_them() -> None:
    pods = [Pod(name, created_at=0, ready_since=10.0) for name in ("busy", "idle", "silent")]
    pods += [Pod("starting", created_at=0, ready_since=None), Pod("going", 0, 10.0, terminating=True)]
    workers = [
        WorkerSample(name, NOW, threads_limit=20, threads_busy=busy, reserved=0)
        for name, busy in (("busy", 9), ("idle", 1), ("going", 0), ("silent", float("nan")))
    ]
    assert deletion_order(pods, workers) == ("starting", "idle", "busy", "silent")


def test_the_prefork_companion_scales_in_workers_only() -> None:
    prefork = {"processes": 4, "replicas": {"min": 1, "max": 3}, "resources": {"limits": {"cpu": 2}}}
    spec = scaling_spec(pool(prefork=prefork, greenThreads={"total": 500}), Role.PREFORK, 2.0)
    assert (spec.threads_min, spec.threads_max, spec.threads_start, spec.threads_total) == (4, 4, 4, None)
    assert (spec.replicas_min, spec.replicas_max, spec.cpu_limit_cores) == (1, 3, 2.0)
