"""Workers for the rate, and the green threads that one of them bears."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenfleet.autoscaling import DEFAULT, Tuning
from greenfleet.autoscaling.estimation.arrivals import Waiting
from greenfleet.autoscaling.estimation.service import Capacity, cpu_threads
from greenfleet.autoscaling.model import ScalingSpec
from greenfleet.autoscaling.recommendation.workers import Existing, deferred, for_deadline, for_rate

SPEC = ScalingSpec(threads_min=10, threads_max=1000, threads_start=100, replicas_max=10, max_wait_seconds=30.0)
WORKER = Capacity(
    runtime_seconds=2.0, cpu_per_task_seconds=0.005, cpu_rate=20.0, efficiency=1.0, startup_seconds=8.0, safe_threads=46
)
"""It starts 20 tasks a second."""
TWO = Existing(now=0.0, replicas=2, serving=2, pending=(), busy=46.0, overdue=0)


@pytest.mark.parametrize(("cores", "threads"), [(0.04, 20), (0.25, 110), (1.0, 420), (10.0, 4063)])
def test_a_small_worker_gets_relatively_more_green_threads(cores: float, threads: float) -> None:
    assert cpu_threads(2.0, 0.005, cores) == pytest.approx(threads, abs=1)


def test_tasks_without_cpu_have_no_ceiling_of_the_core() -> None:
    assert cpu_threads(2.0, 0.0, 1.0) == float("inf")


def wanted_for(rate: float, unstarted: float, fleet: Existing, worker: Capacity, spec: ScalingSpec = SPEC) -> int:
    return deferred(spec, for_rate(rate, fleet, worker), unstarted, fleet, worker, DEFAULT)


def bearable(rate: float, fleet: Existing = TWO, worker: Capacity = WORKER, spec: ScalingSpec = SPEC) -> int:
    """The most messages that may wait before another worker is wanted."""
    return max((n for n in range(4000) if wanted_for(rate, n, fleet, worker, spec) == fleet.replicas), default=-1)


@pytest.mark.parametrize(("rate", "workers"), [(41.0, 3), (59.0, 3), (75.0, 4)])
@pytest.mark.parametrize("startup", [8.0, 20.0])
def test_workers_that_a_rate_lacks_come_while_they_can_still_save_the_last_message(
    rate: float, workers: int, startup: float
) -> None:
    waiting = bearable(rate, worker=replace(WORKER, startup_seconds=startup))
    assert waiting > 0
    new = workers - 2
    the_last = (waiting + 20 * new * startup) / (20 * workers)
    assert 23.0 < the_last < SPEC.max_wait_seconds - 5
    when_they_are_ready = (waiting + (rate - 40) * startup) / (20 * workers)
    assert when_they_are_ready < the_last + 0.1, "and what comes until then is no worse off"


def test_the_longer_a_start_takes_the_sooner() -> None:
    assert bearable(50.0) > bearable(50.0, worker=replace(WORKER, startup_seconds=20.0))
    assert bearable(50.0) > bearable(50.0, replace(TWO, serving=1, pending=(8.0,)))
    assert bearable(50.0, worker=replace(WORKER, startup_seconds=110.0)) == -1, "at once"
    assert bearable(50.0) < bearable(50.0, spec=replace(SPEC, max_wait_seconds=60.0))


@pytest.mark.parametrize("rate", [45.0, 70.0, 130.0, 190.0])
@pytest.mark.parametrize("startup", [4.0, 8.0, 16.0])
def test_nobody_waits_too_long_for_workers_that_come_late(rate: float, startup: float) -> None:
    """A rate beyond two workers from an empty queue on, looked at every two seconds; messages as a liquid."""
    worker = replace(WORKER, startup_seconds=startup)
    ready_at, backlog, longest = [-1.0, -1.0], 0.0, 0.0
    for tick in range(120):
        now = 2.0 * tick
        serving = [at for at in ready_at if at <= now]
        pending = tuple(sorted(at - now for at in ready_at if at > now))
        fleet = Existing(now, len(ready_at), len(serving), pending, 46.0, 0)
        shares = [index / 8 for index in range(9)]
        waiting = [Waiting(now - share * backlog / rate, (1 - share) * backlog) for share in shares]
        due = for_deadline(SPEC, waiting, fleet, worker)
        wanted = max(wanted_for(rate, backlog, fleet, worker), due.workers if due is not None else 0)
        ready_at += [now + startup] * (wanted - len(ready_at))
        backlog = max(0.0, backlog + 2.0 * (rate - 20 * len(serving)))
        longest = max(longest, backlog / rate)
    assert 0 < longest < SPEC.max_wait_seconds
    assert len(ready_at) <= rate / 20 + 2


@pytest.mark.parametrize("startup", [8.0, 20.0, 23.0, 26.0])
def test_what_new_workers_can_save_is_saved(startup: float) -> None:
    """Also where they have a few seconds for it only; and what they cannot save does not cost any number of them."""
    due = for_deadline(SPEC, [Waiting(since=-2.0, amount=2000.0)], TWO, replace(WORKER, startup_seconds=startup))
    assert due is not None
    left = SPEC.max_wait_seconds - 2.0
    able = 20 * (2 * left + (due.workers - 2) * (left - startup))
    assert able >= 2000.0 or due.late
    assert due.workers < 25


@pytest.mark.parametrize(("scrape", "seldom"), [(2.0, False), (15.0, True), (30.0, True)])
def test_a_fleet_that_is_seen_seldom_keeps_all_of_its_margin(scrape: float, seldom: bool) -> None:
    """When it is next seen to be behind its plan, there is no time left in which more workers could start."""
    spec = replace(SPEC, scrape_interval_seconds=scrape, max_wait_seconds=120.0)
    without = Tuning(disabled=frozenset({"deadline-slack"}))
    for messages in range(2000, 9000, 100):
        found, plan = (
            for_deadline(spec, [Waiting(0.0, messages)], TWO, WORKER, tuning) for tuning in (DEFAULT, without)
        )
        assert found is not None
        if found != plan:
            assert not seldom
            break
    else:
        assert seldom


def test_an_empty_fleet_does_not_wait() -> None:
    assert wanted_for(5.0, 0, replace(TWO, replicas=0, serving=0), WORKER) == 1


def test_what_is_there_stays_while_it_is_needed() -> None:
    assert wanted_for(21.0, 0, TWO, WORKER) == 2
