"""The comparison of throughput with a full downstream, moment by moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from greenfleet.autoscaling import DEFAULT
from greenfleet.autoscaling.estimation.counters import CounterDelta
from greenfleet.autoscaling.estimation.downstream import Downstream
from greenfleet.autoscaling.estimation.service import Capacity
from greenfleet.autoscaling.model import ScalingSpec
from greenfleet.autoscaling.validation import Observation
from tests.unit.autoscaling.builders import NOW, pod, worker

ABLE = Capacity(
    runtime_seconds=2.0,
    cpu_per_task_seconds=0.003,
    cpu_rate=330.0,
    efficiency=1.0,
    startup_seconds=5.0,
    safe_threads=1000,
)


def moment(
    before: Downstream, seconds: float, *, running: float, throughput: float, runtime: float, **fields: Any
) -> Downstream:
    """One sample, `seconds` after NOW: one worker of which every green thread is taken, and more waits."""
    at = NOW + seconds
    observation = Observation(
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
    delta = CounterDelta(
        seconds=2.0,
        worker_seconds=2.0,
        finished=2 * throughput,
        runtime_sum_seconds=2 * throughput * runtime,
        runtime_count=2 * throughput,
        hub_busy_seconds=2 * fields.get("busy", 0.2),
        hub_blocked_seconds=fields.get("blocked", 0.0),
    )
    return before.update(ScalingSpec(), observation, delta, ABLE, (500.0, throughput), DEFAULT)


@pytest.fixture
def testing() -> Downstream:
    """100 tasks ran at 50 a second; now 200 run, each takes twice as long, and throughput stands."""
    state = moment(Downstream(), 0, running=100, throughput=50, runtime=2.0)
    for seconds in (2, 4, 6):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0)
        assert state.ceiling is None, "what has ended so far was started before"
    return moment(state, 8, running=200, throughput=50, runtime=4.0)


@pytest.fixture
def holding(testing: Downstream) -> Downstream:
    return moment(testing, 14, running=200, throughput=50, runtime=4.0)


def test_growth_has_a_ceiling_while_run_time_grows_with_it(testing: Downstream) -> None:
    assert testing.ceiling == 2 * 100
    assert testing.held_until is None


def test_growth_without_slower_tasks_has_no_ceiling() -> None:
    state = moment(Downstream(), 0, running=100, throughput=50, runtime=2.0)
    for seconds in (2, 4, 6, 8):
        state = moment(state, seconds, running=900, throughput=50, runtime=2.1)
        assert state.ceiling is None


def test_a_worker_that_has_just_come_is_compared_with_nothing() -> None:
    """Seen on a cluster: four workers came to one that was full; its slow tasks and their idle cores made a ceiling for
    all five.
    """
    state = moment(Downstream(), 0, running=100, throughput=50, runtime=2.0)
    fresh = replace(pod("pod-1", now=NOW), ready_since=NOW + 1)
    for seconds in (2, 4):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0, more=(fresh,))
        assert state.grown_at is None
    for seconds in (6, 8, 10, 12):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0, more=(fresh,))
    assert state.ceiling is not None


def test_throughput_that_stands_still_stops_growth(testing: Downstream, holding: Downstream) -> None:
    early = moment(testing, 10, running=200, throughput=50, runtime=4.0)
    assert early.held_until is None, "what was started since the growth has not ended"
    assert holding.held_until == NOW + 14 + DEFAULT.long_seconds
    assert holding.threads(1) == 200, "what runs already is left alone: fewer would start nothing for a while"


def test_throughput_that_gains_is_the_new_base(testing: Downstream) -> None:
    state = moment(testing, 14, running=200, throughput=80, runtime=2.5)
    assert state.base is not None
    assert (state.base.concurrency, state.ceiling, state.held_until) == (200, None, None)


def test_busy_cores_are_no_downstream_and_no_proof_either(testing: Downstream) -> None:
    state = moment(testing, 14, running=200, throughput=50, runtime=4.0, busy=0.9)
    assert (state.ceiling, state.held_until) == (2 * 100, None), "growth still has its ceiling"
    assert state.base is not None
    assert state.base.concurrency == 100


def test_a_probe_that_brings_nothing_steps_back_and_doubles_the_next_stop(holding: Downstream) -> None:
    probing = moment(holding, 80, running=200, throughput=50, runtime=4.0)
    assert (probing.held_until, probing.threads(1)) == (None, 300)
    for seconds in range(82, 100, 2):
        probing = moment(probing, seconds, running=300, throughput=50, runtime=6.0)
    assert probing.held_until is not None
    assert probing.held_until - (NOW + 100) > DEFAULT.long_seconds
    assert probing.threads(1) < 200


def test_a_probe_without_room_for_green_threads_may_take_workers_in_the_end(holding: Downstream) -> None:
    state = holding
    for seconds in range(80, 240, 2):
        state = moment(state, seconds, running=200, throughput=50, runtime=4.0)
    assert state.more_workers
    assert state.ceiling is not None


def test_throughput_that_falls_while_growth_stops_is_asked_again_at_once(holding: Downstream) -> None:
    """The tasks themselves became slower: with more green threads, throughput is back, and growth is free."""
    kept = moment(holding, 20, running=200, throughput=45, runtime=4.0)
    assert kept.held_until is not None
    asked = moment(holding, 20, running=200, throughput=20, runtime=9.0)
    assert (asked.held_until, asked.threads(1)) == (None, 300)
    for seconds in range(22, 50, 2):
        asked = moment(asked, seconds, running=300, throughput=20 if seconds < 32 else 30, runtime=10.0)
    assert asked.ceiling is None


def test_a_probe_after_throughput_has_fallen_never_steps_back(holding: Downstream) -> None:
    """Fewer running tasks had cost throughput: going down once more would end at no green thread."""
    state = moment(holding, 20, running=200, throughput=20, runtime=9.0)
    for seconds in range(22, 60, 2):
        state = moment(state, seconds, running=300, throughput=20, runtime=15.0)
    assert state.held_until is not None
    assert state.threads(1) == 300


def test_throughput_that_rises_while_growth_stops_is_asked_again_at_once(holding: Downstream) -> None:
    """The downstream has recovered, or it was chance: half as many more tell."""
    early = moment(holding, 20, running=200, throughput=80, runtime=2.5)
    assert early.held_until is not None, "what ends now was started before"
    asked = moment(holding, 60, running=200, throughput=80, runtime=2.5)
    assert (asked.held_until, asked.threads(1)) == (None, 300)
    for seconds in range(62, 90, 2):
        asked = moment(asked, seconds, running=300, throughput=80 if seconds < 66 else 120, runtime=2.5)
    assert asked.ceiling is None


@pytest.mark.parametrize(
    "silent",
    [{"throughput": 0.5}, {"throughput": 50.0, "blocked": 1.0}, {"throughput": 50.0, "limit": 500.0}],
    ids=["throughput that is chance", "a hub that is blocked", "green threads that nobody takes"],
)
def test_a_ceiling_never_holds_for_ever(testing: Downstream, silent: dict[str, float]) -> None:
    state = testing
    for seconds in range(4, 200, 2):
        state = moment(state, seconds, running=200, runtime=4.0, **silent)
    assert state.ceiling is None


def test_a_fleet_that_went_back_by_itself_has_no_ceiling(testing: Downstream) -> None:
    assert moment(testing, 6, running=110, throughput=50, runtime=2.2).ceiling is None


def test_a_fleet_that_keeps_up_is_not_judged(testing: Downstream) -> None:
    assert moment(testing, 14, running=200, throughput=480, runtime=2.0, ready=3.0) == Downstream()
