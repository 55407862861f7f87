"""The experiment with the downstream, moment by moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from greenfleet.autoscaling import scalability
from greenfleet.autoscaling.capacity import Capacity
from greenfleet.autoscaling.learning import CounterDelta
from greenfleet.autoscaling.state import Scalability
from greenfleet.autoscaling.validation import Observation
from tests.unit.autoscaling.builders import NOW, pod, worker

ABLE = Capacity(
    runtime_seconds=2.0, cpu_per_task_seconds=0.003, cores=1.0, efficiency=1.0, startup_seconds=5.0, safe_threads=1000
)


def moment(
    before: Scalability, seconds: float, *, running: float, throughput: float, runtime: float, **fields: Any
) -> Scalability:
    """One validate, `seconds` after NOW: one worker of which every green thread is taken, and more waits."""
    at = NOW + seconds
    view = Observation(
        at=at,
        ready=fields.get("ready", 10_000.0),
        unacked=0.0,
        reserved=0.0,
        busy=running,
        scheduled=0.0,
        workers=(worker("pod-0", now=at, busy=running, limit=fields.get("limit", running)),),
        serving=(pod("pod-0", now=at), *fields.get("more", ())),
        coming=(),
        leaving=(),
    )
    progress = CounterDelta(
        seconds=2.0,
        worker_seconds=2.0,
        finished=2 * throughput,
        runtime_sum_seconds=2 * throughput * runtime,
        runtime_count=2 * throughput,
        hub_busy_seconds=2 * fields.get("busy", 0.2),
        hub_blocked_seconds=fields.get("blocked", 0.0),
    )
    return scalability.update(before, view, progress, rate=500.0, throughput=throughput, worker=ABLE, now=at)


@pytest.fixture
def climbing() -> Scalability:
    """100 tasks ran at 50 a second; now 200 run, each takes twice as long, and throughput stands."""
    state = moment(Scalability(), 0, running=100, throughput=50, runtime=2.0)
    state = moment(state, 2, running=200, throughput=50, runtime=4.0)
    assert state.rung is None, "what has ended so far was started before"
    return moment(state, 4, running=200, throughput=50, runtime=4.0)


def test_growth_stops_at_a_rung_while_run_time_grows_with_it(climbing: Scalability) -> None:
    assert climbing.rung == scalability.RUNG * 100
    assert climbing.frozen_until is None


def test_growth_without_slower_tasks_has_no_rung() -> None:
    state = moment(Scalability(), 0, running=100, throughput=50, runtime=2.0)
    assert moment(state, 2, running=900, throughput=50, runtime=2.1).rung is None


def test_who_has_just_come_makes_no_rung() -> None:
    """Seen on a cluster: four workers came to one that was full, its slow tasks and their idle cores made a rung, and with 780
    messages waiting each of the five had its green threads cut to ten.
    """
    state = moment(Scalability(), 0, running=100, throughput=50, runtime=2.0)
    fresh = replace(pod("pod-1", now=NOW), ready_since=NOW + 1)
    for seconds in (2, 4):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0, more=(fresh,))
        assert state.grown_at is None, "nothing is compared yet"
    for seconds in (6, 8):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0, more=(fresh,))
    assert state.rung is not None


def test_throughput_that_stands_still_sends_the_fleet_back(climbing: Scalability) -> None:
    early = moment(climbing, 10, running=200, throughput=50, runtime=4.0)
    assert early.frozen_until is None, "what was started at the rung has not ended"
    state = moment(early, 14, running=200, throughput=50, runtime=4.0)
    assert state.frozen_until is not None
    assert state.frozen_threads == scalability.RETREAT * 200


def test_throughput_that_gains_makes_the_rung_the_base(climbing: Scalability) -> None:
    state = moment(climbing, 14, running=200, throughput=80, runtime=2.5)
    assert state.base is not None
    assert (state.base.concurrency, state.rung, state.frozen_until) == (200, None, None)


def test_throughput_that_falls_speaks_for_slower_tasks_once(climbing: Scalability) -> None:
    passed = moment(climbing, 14, running=200, throughput=30, runtime=7.0)
    assert passed.fell
    assert passed.frozen_until is None
    state = moment(passed, 16, running=400, throughput=30, runtime=13.0)
    state = moment(state, 32, running=400, throughput=30, runtime=13.0)
    assert state.frozen_until is not None, "twice is a downstream that more tasks make worse"


def test_busy_cores_are_no_downstream_and_no_proof_either(climbing: Scalability) -> None:
    """Seen in simulation: one worker with a busy core and a full downstream got 180, 370, 510, 715 and 940 green threads, each the base of
    the next, until run times had grown so much that ten workers came.
    """
    state = moment(climbing, 14, running=200, throughput=50, runtime=4.0, busy=0.9)
    assert (state.rung, state.frozen_until) == (scalability.RUNG * 200, None), "it goes on by rungs"
    assert state.base is not None
    assert state.base.concurrency == 100


def test_a_retreat_that_costs_throughput_lifts_the_freeze(climbing: Scalability) -> None:
    frozen = moment(climbing, 14, running=200, throughput=50, runtime=4.0)
    for step in range(8):
        kept = moment(frozen, 16 + 2 * step, running=120, throughput=50, runtime=2.4)
        frozen, lost = kept, moment(frozen, 16 + 2 * step, running=120, throughput=30, runtime=4.0)
    assert kept.frozen_until is not None, "it kept its throughput: the downstream was full"
    state = moment(climbing, 14, running=200, throughput=50, runtime=4.0)
    for step in range(8):
        state = moment(state, 16 + 2 * step, running=120, throughput=30, runtime=4.0)
    assert state.frozen_until is None
    assert state.refuted_until > NOW
    assert lost.frozen_until is not None, "one validate says nothing"


def test_tasks_that_were_started_before_the_retreat_say_nothing_about_it(climbing: Scalability) -> None:
    """Seen on a cluster: tasks that had become ten times slower by themselves kept ending at the old rate for their twenty seconds."""
    state = moment(climbing, 14, running=200, throughput=50, runtime=20.0)
    assert state.frozen_until is not None
    for seconds in range(16, 48, 2):
        state = moment(state, seconds, running=120, throughput=50 if seconds < 34 else 30, runtime=20.0)
    assert state.frozen_until is None


@pytest.mark.parametrize(
    "silent",
    [{"throughput": 1.0}, {"throughput": 50.0, "blocked": 1.0}, {"throughput": 50.0, "limit": 500.0}],
    ids=["throughput that is chance", "a hub that is blocked", "green threads that nobody takes"],
)
def test_a_rung_never_holds_for_ever(climbing: Scalability, silent: dict[str, float]) -> None:
    state = climbing
    for seconds in range(4, 200, 2):
        state = moment(state, seconds, running=200, runtime=4.0, **silent)
    assert state.rung is None


def test_a_fleet_that_went_back_by_itself_has_no_rung(climbing: Scalability) -> None:
    assert moment(climbing, 6, running=110, throughput=50, runtime=2.2).rung is None


def test_whoever_keeps_up_is_not_judged(climbing: Scalability) -> None:
    assert moment(climbing, 14, running=200, throughput=480, runtime=2.0, ready=3.0) == Scalability()
