"""What workers report besides load; auto-routing: what moves a task to prefork, and what brings it back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from greenfleet.api.status import PoolStatus
from greenfleet.controller import pool_scaler
from greenfleet.manifests.names import Role
from greenfleet.prometheus.collect import Workers
from greenfleet.status.auto_routing import (
    MOMENT_SECONDS,
    MOMENTS,
    MOST_EXEMPT,
    WINDOW_SECONDS,
    block_detections,
    exempt_tasks,
    routes,
)
from greenfleet.status.findings import MOST_REMEMBERED, Findings
from tests.unit.operator.objects import pool, record


def _detected(*times: float) -> tuple[float, ...]:
    moments: tuple[float, ...] = ()
    for at in times:
        moments = block_detections(moments, at)
    return moments


def test_one_long_block_is_one_moment_and_moves_nothing() -> None:
    moments = _detected(*(100.0 + second for second in range(int(MOMENT_SECONDS))))
    assert len(moments) == 1
    assert routes((), {"proj.slow": moments}, (), 110.0) == ()


def test_a_task_that_is_detected_in_separate_moments_moves() -> None:
    moments = _detected(100.0, 120.0, 140.0)
    assert len(moments) == MOMENTS
    assert routes((), {"proj.slow": moments}, (), 141.0) == ("proj.slow",)


def test_detections_of_long_ago_count_for_nothing() -> None:
    moments = _detected(100.0, 120.0, 120.0 + 2 * WINDOW_SECONDS)
    assert routes((), {"proj.slow": moments}, (), 121.0 + 2 * WINDOW_SECONDS) == ()


def test_a_route_stays_when_the_task_blocks_no_longer() -> None:
    assert routes(("proj.slow",), {}, (), 1e9) == ("proj.slow",)


def test_a_human_brings_a_task_back_and_auto_routing_does_not_move_it_again() -> None:
    exempt = exempt_tasks({"greenfleet.io/keep-on-eventlet": "proj.slow, proj.other"})
    assert routes(("proj.slow",), {"proj.slow": _detected(100.0, 120.0, 140.0)}, exempt, 141.0) == ()


def test_a_block_without_a_task_moves_nothing() -> None:
    moments = _detected(100.0, 120.0, 140.0)
    assert routes((), {"unknown": moments, "other": moments, "": moments}, (), 141.0) == ()


def test_under_churn_of_workers_and_tasks_only_what_lives_and_is_recent_is_kept() -> None:
    found, now = Findings(), 0.0
    for round_number in range(50):
        now += WINDOW_SECONDS / 10
        pods = {f"feeds-{round_number}", f"feeds-{round_number + 1}"}
        for role in (Role.EVENTLET, Role.PREFORK):
            for pod in pods:
                found.blocked_seconds[role, pod, f"task-{round_number}"] = 1.0
        found.blocked[f"task-{round_number}"] = now
        found.risks["acks", f"task-{round_number}"] = now
        found.detections[f"task-{round_number}"] = block_detections((), now)
        found.forget_old(Role.EVENTLET, pods, now)
    assert {pod for role, pod, _ in found.blocked_seconds if role is Role.EVENTLET} == pods
    assert {pod for role, pod, _ in found.blocked_seconds if role is Role.PREFORK} > pods, "another role's are its own"
    for kept in (found.blocked, found.risks, found.detections):
        assert len(kept) == 11, "those of one window"


def test_names_without_end_are_not_kept_without_end() -> None:
    found = Findings()
    for number in range(3 * MOST_REMEMBERED):
        found.blocked[f"task-{number}"] = found.risks["acks", f"task-{number}"] = float(number) / MOST_REMEMBERED
        found.blocked_seconds[Role.EVENTLET, "feeds-1", f"task-{number}"] = 1.0
    found.forget_old(Role.EVENTLET, {"feeds-1"}, 3.0)
    assert len(found.blocked) == len(found.risks) == len(found.blocked_seconds) == MOST_REMEMBERED
    assert f"task-{3 * MOST_REMEMBERED - 1}" in found.blocked


def test_routes_fit_into_the_status_whatever_workers_say() -> None:
    """One name too many, or too long, and the API server refused the status of that pool for ever."""
    detections = {name: _detected(100.0, 120.0, 140.0) for name in (*(f"proj.task-{n}" for n in range(150)), "x" * 400)}
    before = tuple(f"proj.old-{number}" for number in range(60))
    found = routes(before, detections, (), 141.0)
    PoolStatus.model_validate({"blockingTasks": list(found)})
    assert set(before) < set(found), "what is routed stays, whatever is detected after it"
    assert routes(found, detections, (), 141.0) == found


def test_an_annotation_that_is_made_to_be_long_is_not_read_to_its_end() -> None:
    text = ",".join(f"proj.task-{number}" for number in range(20_000))
    found = exempt_tasks({"greenfleet.io/keep-on-eventlet": text})
    assert found == tuple(f"proj.task-{number}" for number in range(MOST_EXEMPT))


def test_dead_letters_of_a_queue_that_the_pool_no_longer_consumes_are_no_longer_said() -> None:
    found = record(prefork={"processes": 1})
    counts = {(found.pool.broker_key, "feeds.prefork"): 2}
    answers = cast("Any", SimpleNamespace(workers=Workers({}), dead_letters=counts))
    assert pool_scaler._note_dead_letters(found, found.pool, answers)
    assert found.findings.dead_letters == {"feeds.prefork": 2}
    counts.clear()
    assert not pool_scaler._note_dead_letters(found, found.pool, answers), "nobody says how many there are"
    assert pool_scaler._note_dead_letters(found, pool(), answers)
    assert not found.findings.dead_letters
