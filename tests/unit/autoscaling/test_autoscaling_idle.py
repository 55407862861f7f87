"""Pools that sleep may be looked at without being decided on, and nothing is decided differently for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenfleet.autoscaling import State, decide, initial_state
from greenfleet.autoscaling.idle import can_skip, is_idle
from greenfleet.autoscaling.model import (
    Decision,
    DecisionReason,
    Learned,
    Mode,
    QueueSample,
    Sample,
    ScalingSpec,
    Schedule,
)

SPEC = ScalingSpec(cooldown_seconds=10)
TICK = 2.0


def look(now: float, ready: float = 0.0, replicas: int = 0) -> Sample:
    return Sample((QueueSample("q", now - 0.7, ready),), (), (), replicas, ("q",))


def asleep(spec: ScalingSpec = SPEC) -> tuple[float, State, Decision]:
    """A pool that has had nothing to do for a minute."""
    state = initial_state(Learned(runtime_seconds=2.0, cpu_per_task_seconds=0.003, startup_seconds=5.0), 0.0)
    now = 0.0
    for _ in range(30):
        now += TICK
        decision, state = decide(spec, state, look(now), now)
    return now, state, decision


@pytest.mark.parametrize("ticks", [1, 5, 9, 40])
@pytest.mark.parametrize("flood", [1, 40, 3000])
def test_after_a_rest_the_autoscaler_decides_as_if_it_had_looked_at_every_tick(ticks: int, flood: int) -> None:
    now, state, decision = asleep()
    assert can_skip(SPEC, decision)
    rested = state
    for tick in range(1, ticks + 1):
        at = now + TICK * tick
        assert is_idle(SPEC, look(at), at)
        _, state = decide(SPEC, state, look(at), at)
    now += TICK * ticks
    _, rested = decide(SPEC, rested, look(now), now)  # the last validate that was skipped
    for _ in range(20):
        now += TICK
        one, state = decide(SPEC, state, look(now, flood), now)
        other, rested = decide(SPEC, rested, look(now, flood), now)
        assert (one.replicas, one.threads, one.why.binding) == (other.replicas, other.threads, other.why.binding)


@pytest.mark.parametrize(
    "different",
    [
        {"queues": ()},
        {"queues": (QueueSample("q", 99.0, 1.0),)},
        {"queues": (QueueSample("q", 99.0, 0.0, 1.0),)},
        {"queues": (QueueSample("q", 80.0, 0.0),)},
        {"queues": (QueueSample("q", 101.0, 0.0),)},
        {"queues": (QueueSample("q", 99.0, float("nan")),)},
        {"queues": (QueueSample("q", 99.0, 0.0), QueueSample("q", 99.0, 0.0))},
        {"queues": (QueueSample("other", 99.0, 0.0),)},
        {"replicas": 1},
    ],
    ids=str,
)
def test_a_look_that_shows_anything_else_is_not_skipped(different: dict[str, object]) -> None:
    assert is_idle(SPEC, look(100.0), 100.0)
    assert not is_idle(SPEC, replace(look(100.0), **different), 100.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, mode=Mode.MANUAL, manual_replicas=0),
        replace(SPEC, replicas_min=1),
        replace(SPEC, schedules=(Schedule("0 8 * * *", 3600, "UTC", 1),)),
    ],
    ids=["manual", "minimum", "schedule"],
)
def test_a_pool_whose_answer_depends_on_more_than_its_load_never_rests(spec: ScalingSpec) -> None:
    _, _, decision = asleep(spec)
    assert not can_skip(spec, decision)


def test_a_pool_whose_metrics_are_missing_is_not_idle() -> None:
    now, state, _ = asleep()
    decision, state = decide(SPEC, state, replace(look(now), queues=()), now)
    assert decision.why.binding is DecisionReason.METRICS_MISSING
    assert not can_skip(SPEC, decision)
