"""Workers for the rate, and the green threads that one of them bears."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenfleet.scaling import ScalingSpec
from greenfleet.scaling.arrivals import Waiting
from greenfleet.scaling.capacity import Capacity, cpu_threads
from greenfleet.scaling.workers import Existing, for_deadline, for_rate

SPEC = ScalingSpec(threads_min=10, threads_max=1000, threads_start=100, replicas_max=10, max_wait_seconds=30.0)
WORKER = Capacity(
    runtime_seconds=2.0, cpu_per_task_seconds=0.005, cores=0.1, efficiency=1.0, startup_seconds=8.0, safe_threads=46
)
"""It starts 20 tasks a second."""
TWO = Existing(now=0.0, replicas=2, serving=2, pending=(), busy=46.0, overdue=0)


@pytest.mark.parametrize(("cores", "threads"), [(0.04, 20), (0.25, 110), (1.0, 420), (10.0, 4200)])
def test_a_small_worker_gets_relatively_more_green_threads(cores: float, threads: float) -> None:
    assert cpu_threads(2.0, 0.005, cores) == pytest.approx(threads)


def test_tasks_without_cpu_have_no_ceiling_of_the_core() -> None:
    assert cpu_threads(2.0, 0.0, 1.0) == float("inf")


def patience(rate: float, fleet: Existing = TWO, worker: Capacity = WORKER, spec: ScalingSpec = SPEC) -> int:
    """The most messages that may wait before another worker is wanted."""
    return max((n for n in range(2000) if for_rate(spec, rate, n, fleet, worker) == fleet.replicas), default=-1)


def test_a_missing_fraction_of_a_worker_is_added_when_its_absence_shows() -> None:
    assert 0 < patience(50.0) < 30 * 40, "long before two workers would need 30 s for what waits"


def test_the_more_is_missing_and_the_longer_a_start_takes_the_sooner() -> None:
    assert patience(41.0) > patience(50.0) > patience(59.0)
    assert patience(50.0) > patience(50.0, worker=replace(WORKER, startup_seconds=20.0))
    assert patience(50.0, worker=replace(WORKER, startup_seconds=110.0)) == -1, "at once"
    assert patience(50.0) < patience(50.0, spec=replace(SPEC, max_wait_seconds=60.0))


def test_when_a_new_worker_is_ready_nobody_has_waited_for_too_long() -> None:
    for rate in (41.0, 50.0, 59.0):
        piled_up = patience(rate) + (rate - 40) * WORKER.startup_seconds
        assert piled_up / 40 < SPEC.max_wait_seconds


@pytest.mark.parametrize("startup", [8.0, 20.0, 23.0, 26.0])
def test_what_new_workers_can_save_is_saved(startup: float) -> None:
    """Also where they have a few seconds for it only; and what they cannot save does not cost any number of them."""
    due = for_deadline(SPEC, [Waiting(since=-2.0, amount=2000.0)], TWO, replace(WORKER, startup_seconds=startup))
    assert due is not None
    left = SPEC.max_wait_seconds - 2.0
    able = 20 * (2 * left + (due.workers - 2) * (left - startup))
    assert able >= 2000.0 or due.late
    assert due.workers < 25


def test_a_whole_worker_that_is_missing_comes_at_once_and_an_empty_fleet_does_not_wait() -> None:
    assert for_rate(SPEC, 70.0, 0, TWO, WORKER) == 3
    assert for_rate(SPEC, 5.0, 0, replace(TWO, replicas=0, serving=0), WORKER) == 1


def test_what_is_there_stays_while_it_is_needed() -> None:
    assert for_rate(SPEC, 21.0, 0, TWO, WORKER) == 2
