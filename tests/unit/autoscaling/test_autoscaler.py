"""The promises of the autoscaler."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from greenfleet.autoscaling import DEFAULT, Tuning, decide, explain, initial_state
from greenfleet.autoscaling.constraints import stabilization
from greenfleet.autoscaling.context import DecisionContext
from greenfleet.autoscaling.estimation.concurrency_limit import ConcurrencyLimit, capacity, safe_threads
from greenfleet.autoscaling.estimation.counters import CounterDelta
from greenfleet.autoscaling.estimation.service import Ratio, Service
from greenfleet.autoscaling.model import (
    Adjustment,
    Decision,
    DecisionReason,
    Learned,
    Mode,
    Pod,
    Policy,
    QueueSample,
    Sample,
    ScalingRules,
    ScalingSpec,
    Schedule,
    WorkerSample,
)
from greenfleet.autoscaling.validation import Observation
from tests.property.world import World, restarted_containers, unreachable
from tests.unit.autoscaling.builders import KNOWN, NOW, SPEC, pod, sample, worker

DEMO = ScalingSpec(
    threads_min=10,
    threads_max=200,
    threads_start=20,
    replicas_min=0,
    replicas_max=6,
    max_wait_seconds=120.0,
    cooldown_seconds=20.0,
    cpu_limit_cores=0.3,
)


def first(given: Sample, spec: ScalingSpec = SPEC, learned: Learned = KNOWN) -> Decision:
    return decide(spec, initial_state(learned, NOW - 600), given, NOW)[0]


def demo(**fields: float) -> World:
    return World(DEMO, runtime=0.3, cpu=0.003, startup=5.0, **fields)  # type: ignore[arg-type]


def limits(decision: Decision, dimension: str = "workers") -> list[DecisionReason]:
    return [step.reason for step in decision.why.adjustments if step.dimension == dimension]


def settle(world: World, rate: float, ticks: int = 60) -> Decision:
    for _ in range(ticks):
        decision = world.tick(rate)
    return decision


# --- the live demonstration
# ---------------------------------------------------------------------------------------------


def test_green_threads_move_first_and_workers_only_when_threads_are_exhausted() -> None:
    world = demo()
    settle(world, 5.0)
    assert (world.replicas, world.threads) == (1, 10)
    quiet = world.threads
    settle(world, 60.0, 15)
    assert world.replicas == 1
    assert world.threads > 2 * quiet
    settle(world, 60.0)
    assert world.replicas == 1
    assert world.backlog < 60
    burst = world.tick(5.0, burst=20_000)
    assert 2 <= burst.replicas <= 4
    assert burst.why.binding is DecisionReason.DEADLINE
    assert "wait; one worker does" in burst.why.summary


def test_a_burst_is_through_before_its_deadline_and_the_fleet_goes_back_to_zero() -> None:
    world = demo()
    settle(world, 5.0)
    started = world.now
    world.tick(5.0, burst=20_000)
    while world.backlog > 50:
        world.tick(5.0)
    assert world.now - started < DEMO.max_wait_seconds
    assert max(decision.replicas for decision in world.decisions) <= 5
    settle(world, 5.0, 20)
    assert world.replicas == 1
    settle(world, 0.0, 10)
    assert world.replicas == 1
    settle(world, 0.0, 10)
    assert world.replicas == 0


def test_from_zero_the_first_message_starts_a_worker_at_the_next_tick() -> None:
    world = demo()
    world.tick(0.0)
    assert world.replicas == 0
    assert world.tick(0.5).replicas == 1


def test_a_flood_from_zero_starts_as_many_as_the_deadline_asks_for_at_once() -> None:
    world = demo(learned=Learned(0.3, 0.003, 30, 5.0))
    world.tick(0.0)
    assert world.tick(0.0, burst=20_000).replicas >= 3


def test_who_was_to_wait_and_see_does_not_wait_where_nobody_sees() -> None:
    world = demo(learned=KNOWN)
    settle(world, 60.0)
    settle(world, 150.0, 15)
    assert world.replicas == 1, "half a worker is missing, which has to show first"
    missing = [world.tick(150.0, 0.0, unreachable) for _ in range(8)]
    assert [decision.replicas for decision in missing[:2]] == [1, 1], "a scrape or two that are missing start no pod"
    assert missing[-1].replicas == 2
    assert [DecisionReason.METRICS_MISSING, DecisionReason.RATE] in [limits(decision) for decision in missing]
    assert settle(world, 150.0, 5).replicas == 2


@pytest.mark.parametrize(
    "spec",
    [
        replace(DEMO, pause_out=True),
        replace(DEMO, replicas_max=1),
        replace(DEMO, threads_total=15),
        replace(DEMO, scale_up=ScalingRules(select_policy="Disabled")),
        replace(DEMO, scale_up=ScalingRules(stabilization_window_seconds=600)),
    ],
)
def test_also_then_the_users_limits_hold(spec: ScalingSpec) -> None:
    world = World(spec, runtime=0.3, cpu=0.003, startup=5.0, replicas=1, learned=KNOWN)
    settle(world, 150.0, 15)
    for _ in range(20):
        assert world.tick(150.0, 0.0, unreachable).replicas == 1


@pytest.mark.parametrize(
    ("most", "promise"), [(6, "will come before messages wait for longer than 30 s"), (1, "replicas.max is 1")]
)
def test_why_tells_of_workers_that_can_wait_a_little_longer(most: int, promise: str) -> None:
    world = World(
        replace(SPEC, max_wait_seconds=30.0, replicas_max=most), runtime=0.3, cpu=0.003, startup=4.0, replicas=1
    )
    settle(world, 100.0)
    world.decisions.clear()
    settle(world, 450.0, 20)
    texts = {decision.why.summary for decision in world.decisions}
    assert any(f"1 more worker would keep up, and {promise}" in text for text in texts), texts


# --- threads
# ------------------------------------------------------------------------------------------------------------


def test_threads_go_straight_to_what_the_core_bears_while_anything_waits() -> None:
    decision = first(sample(500, busy=20))
    assert (
        decision.threads == 108
    )  # S/k = 99 at what housekeeping leaves of a core, and its square root: docs/scaling-figures.md
    assert limits(decision, "threads")[0] is DecisionReason.SAFE_THREADS


def test_threads_rise_at_once_and_fall_only_after_a_minute() -> None:
    world = World(replace(SPEC, max_wait_seconds=30.0), runtime=2.0, cpu=0.003, startup=4.0)
    settle(world, 5.0)
    low = world.threads
    world.tick(5.0, burst=300)
    high = world.threads
    assert high > 2 * low
    for _ in range(27):
        assert world.tick(5.0).threads >= 0.9 * high
    settle(world, 5.0)
    assert world.threads == low


def test_a_worker_never_gets_fewer_green_threads_than_it_runs_tasks() -> None:
    """The mean rate lags behind a crowd, and below what runs nothing starts."""
    decision = first(sample(0, busy=60, limit=100))
    assert decision.threads == 60
    assert [step.text for step in decision.why.adjustments if step.dimension == "threads"] == ["60 tasks run"]
    assert first(sample(0, busy=6, limit=100)).threads == 20


def test_threads_never_leave_the_users_bounds() -> None:
    assert first(sample(50_000, busy=20), replace(SPEC, threads_max=40)).threads == 40
    assert first(sample(0), replace(SPEC, threads_min=15)).threads >= 15


def test_an_unknown_pool_starts_with_the_threads_its_user_believes_in() -> None:
    assert first(sample(500, workers=0), learned=Learned()).threads == SPEC.threads_start


def test_nearly_full_memory_takes_threads_away() -> None:
    spec = replace(SPEC, memory_limit_bytes=1e9)
    state = initial_state(KNOWN, NOW - 600)
    for tick in range(4):
        now = NOW + 2 * tick
        given = sample(
            500, now=now, busy=20, started=40.0 * tick, finished=40.0 * tick, memory_bytes=950e6, cpu_seconds=0.1 * tick
        )
        decision, state = decide(spec, state, given, now)
    assert decision.threads <= 16
    assert "memory" in next(step.text for step in decision.why.adjustments if step.dimension == "threads")


# --- workers
# ------------------------------------------------------------------------------------------------------------


def test_a_burst_is_an_amount_with_a_deadline_not_a_rate() -> None:
    slow, fast = (
        replace(SPEC, max_wait_seconds=600.0, replicas_max=50),
        replace(SPEC, max_wait_seconds=20.0, replicas_max=50),
    )
    many = sample(20_000, busy=20)
    assert first(many, slow).replicas < first(many, fast).replicas


def test_a_slower_start_asks_for_more_workers_because_they_count_for_less() -> None:
    spec = replace(SPEC, replicas_max=50, max_wait_seconds=60.0, cpu_limit_cores=0.2)
    quick, slow = replace(KNOWN, startup_seconds=2.0), replace(KNOWN, startup_seconds=30.0)
    assert first(sample(9000, busy=20), spec, quick).replicas < first(sample(9000, busy=20), spec, slow).replicas


def test_a_pod_that_does_not_come_up_is_no_capacity_and_is_wanted_again() -> None:
    spec = replace(SPEC, max_wait_seconds=30.0, cpu_limit_cores=0.3)
    healthy = sample(9000, workers=2, busy=30, limit=30)
    broken = replace(healthy, pods=(*healthy.pods, pod("stuck", ready=False, age=200.0)), replicas=3)
    coming = replace(healthy, pods=(*healthy.pods, pod("new", ready=False, age=3.0)), replicas=3)
    assert (
        first(coming, replace(spec, replicas_max=50)).replicas < first(broken, replace(spec, replicas_max=50)).replicas
    )


def test_a_fleet_of_which_no_pod_comes_up_is_not_blown_up() -> None:
    stuck = replace(sample(10, workers=0), pods=(pod("stuck", ready=False, age=900.0),), replicas=1)
    assert first(stuck).replicas == 1


def test_scale_in_waits_until_nothing_waits_beyond_two_seconds_of_work() -> None:
    world = demo()
    settle(world, 5.0)
    world.tick(5.0, burst=20_000)
    most = world.replicas
    assert most > 1
    while world.replicas > 1:
        before = world.replicas
        world.tick(5.0)
        if world.replicas < before:
            assert world.backlog <= 2 * 100 * world.replicas


def test_windows_are_never_shorter_than_three_scrapes() -> None:
    assert stabilization.down_window_seconds(SPEC) == 10
    assert stabilization.down_window_seconds(replace(SPEC, scrape_interval_seconds=30.0)) == 90


def test_after_a_restart_no_worker_goes_within_the_first_window() -> None:
    world = demo(replicas=4)
    world.restart()
    for _ in range(4):
        decision = world.tick(5.0)
        assert decision.replicas == 4
        assert decision.why.binding is DecisionReason.STABILIZATION
    settle(world, 5.0)
    assert world.replicas == 1


def test_workers_that_run_long_tasks_are_not_taken_away_in_mid_task() -> None:
    learned = Learned(runtime_seconds=300.0, cpu_per_task_seconds=0.01, safe_threads=200, startup_seconds=5.0)
    state = initial_state(learned, NOW - 600)
    for tick in range(40):
        now = NOW + 2 * tick
        decision, state = decide(SPEC, state, sample(now=now, workers=3, busy=1), now)
        assert decision.replicas == 3


def test_one_worker_stays_until_the_pool_has_been_idle_for_the_cooldown() -> None:
    world = demo(replicas=1)
    settle(world, 3.0, 30)
    for _ in range(9):
        decision = world.tick(0.0)
        assert decision.replicas == 1
    settle(world, 0.0, 4)
    assert world.replicas == 0
    assert DecisionReason.COOLDOWN in limits(decision)
    assert next(step.until for step in decision.why.adjustments if step.reason is DecisionReason.COOLDOWN) is not None


def test_a_running_task_keeps_its_worker() -> None:
    state = initial_state(KNOWN, NOW - 600)
    for tick in range(60):
        now = NOW + 2 * tick
        decision, state = decide(SPEC, state, sample(now=now, busy=1), now)
    assert decision.replicas == 1


def test_quick_tasks_between_two_scrapes_keep_the_pool_from_looking_idle() -> None:
    state = initial_state(KNOWN, NOW - 600)
    for tick in range(60):
        now = NOW + 2 * tick
        decision, state = decide(SPEC, state, sample(now=now, started=tick // 5, finished=tick // 5), now)
    assert decision.replicas == 1


def test_tasks_held_for_an_eta_keep_one_worker_and_are_not_backlog() -> None:
    state = initial_state(KNOWN, NOW - 600)
    for tick in range(60):
        now = NOW + 2 * tick
        decision, state = decide(SPEC, state, sample(now=now, scheduled=5000.0), now)
    assert decision.replicas == 1
    assert dict(decision.why.inputs)["backlog"] == 0
    assert "ETA" in decision.why.summary


def test_unacked_messages_without_a_worker_get_one_to_restore_them() -> None:
    assert first(sample(workers=0, unacked=7)).replicas == 1
    assert first(sample(workers=0, unacked=7), replace(SPEC, activation_threshold=100)).replicas == 1
    for unacked, said in ((1, "to end or restore 1 unacked message"), (7, "to end or restore 7 unacked messages")):
        assert first(sample(workers=0, unacked=unacked)).why.summary.endswith(said)


def test_activation_keeps_a_pool_at_zero_until_enough_waits() -> None:
    spec = replace(SPEC, activation_threshold=10)
    asleep = first(sample(10, workers=0), spec)
    assert (asleep.replicas, asleep.limited) == (0, DecisionReason.ACTIVATION)
    assert first(sample(11, workers=0), spec).replicas >= 1
    assert first(sample(3, workers=1), spec).replicas == 1


def test_workers_that_leave_wake_no_pool() -> None:
    """They end what they hold, or give it back. One that is not seen any more is taken for busy."""
    spec = replace(SPEC, activation_threshold=10)
    for busy, unacked, ready in ((0, 0, 0), (5, 5, 0), (5, 15, 8)):
        leaving = sample(ready, workers=2, busy=busy, unacked=unacked, replicas=0)
        leaving = replace(leaving, pods=tuple(replace(each, terminating=True) for each in leaving.pods))
        young = tuple(replace(each, ready_since=NOW - 1) for each in leaving.pods)
        for given in (leaving, replace(leaving, workers=(), pods=young)):
            decision = first(given, spec)
            assert (decision.replicas, decision.metrics_issues) == (0, ())
    woken = replace(leaving, queues=(replace(leaving.queues[0], ready=11.0),))
    assert first(woken, spec).replicas >= 1


def test_a_saturated_downstream_stops_growth_in_both_dimensions() -> None:
    """Throughput stands at 100/s whatever runs; S grows with concurrency, so any formula in S would ask for more. In
    the first twenty seconds, the fleet keeps up.
    """
    spec = replace(SPEC, threads_max=1000, replicas_max=20, max_wait_seconds=30.0)
    state = initial_state(Learned(1.0, 0.003, 100, 4.0), NOW - 600)
    replicas, threads = 1, 100
    done: Counter[str] = Counter()
    runtime_sum: Counter[str] = Counter()
    held = set()
    for tick in range(240):
        now = NOW + 2 * tick
        running = replicas * threads
        names = [f"pod-{n}" for n in range(replicas)]
        done.update(dict.fromkeys(names, 200.0 / replicas))
        runtime_sum.update(dict.fromkeys(names, 200.0 / replicas * running / 100.0))
        given = Sample(
            queues=(replace(sample().queues[0], at=now - 1, ready=0.0 if tick < 10 else 3000.0 + 100 * tick),),
            workers=tuple(
                worker(
                    name,
                    now=now,
                    busy=threads,
                    limit=threads,
                    started=done[name],
                    finished=done[name],
                    runtime_sum_seconds=runtime_sum[name],
                    runtime_count=done[name],
                    cpu_seconds=0.003 * done[name],
                )
                for name in names
            ),
            pods=tuple(Pod(name, NOW - 600, NOW - 590, threads=threads) for name in names),
            replicas=replicas,
            expected_queues=("q",),
        )
        decision, state = decide(spec, state, given, now)
        replicas, threads = decision.replicas, decision.threads
        assert replicas * threads <= 1000, "ten times what the downstream bears"
        for step in decision.why.adjustments:
            if step.reason is DecisionReason.SATURATED_DOWNSTREAM:
                held.add(step.dimension)
                assert "downstream" in step.text or "no throughput" in step.text
    assert held == {"workers", "threads"}
    assert DecisionReason.SATURATED_DOWNSTREAM in limits(decision, "threads")
    assert replicas * threads <= 400


# --- limits
# -------------------------------------------------------------------------------------------------------------


def test_max_holds_and_says_so() -> None:
    decision = first(sample(500_000, busy=20))
    assert (decision.replicas, decision.limited, decision.why.binding) == (6, DecisionReason.MAX, DecisionReason.MAX)


def test_min_holds() -> None:
    assert first(sample(workers=0), replace(SPEC, replicas_min=2)).replicas == 2


def test_total_is_shared_by_all_workers_draining_ones_counted() -> None:
    spec = replace(SPEC, threads_total=100)
    given = sample(50_000, workers=2, busy=20)
    assert first(given, spec).replicas * first(given, spec).threads <= 100
    draining = replace(
        given,
        pods=(*given.pods, pod("old", terminating=True)),
        workers=(*given.workers, worker("old", busy=5, limit=40)),
    )
    decision = first(draining, spec)
    assert decision.replicas * decision.threads + 40 <= 100
    assert DecisionReason.TOTAL in limits(decision, "threads") + limits(decision)


def test_a_drain_does_not_drive_out_the_workers_that_remain() -> None:
    spec = replace(SPEC, threads_total=40)
    given = sample(500, workers=4, busy=10, limit=10)
    gone = replace(
        given, pods=(*given.pods, pod("old", terminating=True)), workers=(*given.workers, worker("old", limit=10))
    )
    assert first(gone, spec).replicas == 4


def test_behavior_policies_limit_each_step_and_say_so() -> None:
    spec = replace(SPEC, scale_up=ScalingRules((Policy("Pods", 1, 60),)))
    decision = first(sample(500_000, busy=20), spec)
    assert (decision.replicas, decision.limited) == (2, DecisionReason.BEHAVIOR)


def test_scale_up_stabilization_waits_until_the_need_has_lasted() -> None:
    spec = replace(SPEC, scale_up=ScalingRules(stabilization_window_seconds=10))
    state = initial_state(KNOWN, NOW - 600)
    decision, state = decide(spec, state, sample(busy=1), NOW)
    decision, state = decide(spec, state, sample(500_000, now=NOW + 2, busy=20), NOW + 2)
    assert (decision.replicas, decision.limited) == (1, DecisionReason.STABILIZATION)
    for tick in range(2, 8):
        decision, state = decide(spec, state, sample(500_000, now=NOW + 2 * tick, busy=20), NOW + 2 * tick)
    assert decision.replicas == 6


def test_a_users_scale_down_window_replaces_the_autoscalers_own() -> None:
    spec = replace(DEMO, scale_down=ScalingRules(stabilization_window_seconds=120))
    world = World(spec, runtime=0.3, cpu=0.003, startup=5.0)
    settle(world, 5.0, 80)
    world.tick(5.0, burst=20_000)
    while world.backlog > 50:
        world.tick(5.0)
    empty_at = world.now
    while world.replicas > 1:
        world.tick(5.0)
    assert world.now - empty_at > 90


def test_a_schedule_raises_the_minimum_and_never_goes_above_max() -> None:
    always = Schedule("* * * * *", 120, "UTC", 4)
    decision = first(sample(workers=0), replace(SPEC, schedules=(always,)))
    assert (decision.replicas, decision.why.binding) == (4, DecisionReason.SCHEDULE)
    assert first(sample(workers=0), replace(SPEC, schedules=(replace(always, min_replicas=40),))).replicas == 6


def test_pause_holds_one_direction_or_both() -> None:
    out = first(sample(500_000, busy=20), replace(SPEC, pause_out=True))
    assert (out.replicas, out.limited, out.active) == (1, DecisionReason.PAUSED, True)
    world = demo(replicas=4)
    world.spec = replace(DEMO, pause_in=True, pause_out=True)
    decision = settle(world, 5.0)
    assert (decision.replicas, decision.active) == (4, False)


def test_manual_leaves_the_workers_to_the_user_and_the_threads_to_us() -> None:
    spec = replace(SPEC, mode=Mode.MANUAL, manual_replicas=3)
    decision = first(sample(5000, busy=20), spec)
    assert (decision.replicas, decision.why.binding, decision.active) == (3, DecisionReason.MANUAL, False)
    assert decision.threads > 20
    assert first(sample(), replace(spec, manual_replicas=0)).replicas == 0
    assert first(sample(), replace(spec, manual_replicas=99)).replicas == SPEC.replicas_max
    assert first(replace(sample(), queues=()), spec).replicas == 3


# --- learning
# -----------------------------------------------------------------------------------------------------------


def test_a_restarted_container_is_a_new_count_not_a_negative_one() -> None:
    world = demo()
    settle(world, 50.0)
    before = world.decisions[-1]
    after = world.tick(50.0, fault=restarted_containers)
    assert after.learned.runtime_seconds == pytest.approx(before.learned.runtime_seconds, rel=0.05)
    assert dict(after.why.inputs)["arrival_rate"] == pytest.approx(50, rel=0.2)
    assert after.replicas == before.replicas


def cold_start(spec: ScalingSpec, *, ready_at: float, fetching: float = 0.0) -> list[Decision]:
    """350 messages from zero. The worker answers scrapes from its second 2 on, burns its tenth of a core on imports
    until it is Ready, then on *fetching* for so many seconds, and from then on on its tasks: 2.5 ms before 2 s of I/O
    and 2.5 ms after. What was decided in every tick.
    """
    state, decisions = initial_state(Learned(), NOW - 600), []
    for up in range(2, int(ready_at + fetching) + 8, 2):
        now, working = NOW + up, max(0.0, up - ready_at - fetching)
        done = 20 * max(0.0, working - 2)
        started = 40 * min(2.0, working) + done
        pods = (Pod("pod-0", NOW, NOW + ready_at if up > ready_at else None, threads=100),)
        worker = WorkerSample(
            "pod-0", now, threads_limit=100, threads_busy=started - done, reserved=0, started=started, finished=done,
            runtime_sum_seconds=2 * done, runtime_count=done, cpu_seconds=0.1 * up, hub_busy_seconds=up,
        )  # fmt: skip
        queues = (QueueSample("q", now, 350 - started),)
        given = Sample(queues, (worker,) if up > 2 else (), pods, 1, ("q",))
        decision, state = decide(spec, state, given, now)
        decisions.append(decision)
    return decisions


@pytest.mark.parametrize("ready_at", [8.1, 8.9, 9.5, 9.9])
def test_what_a_worker_burns_until_it_is_ready_is_not_its_tasks_cpu(ready_at: float) -> None:
    """The scrape during which it became Ready made tasks validate several times as dear, and five workers came
    for one.
    """
    spec = replace(DEMO, cpu_limit_cores=0.1, threads_start=100, threads_max=1000, max_wait_seconds=30.0)
    decisions = cold_start(spec, ready_at=ready_at)
    assert {decision.replicas for decision in decisions} == {1}
    assert decisions[-1].learned.cpu_per_task_seconds == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize("fetching", [1.0, 1.8, 2.0])
def test_a_few_tasks_and_much_fetching_are_not_the_cpu_per_task(fetching: float) -> None:
    """The first seconds after Ready made tasks validate three times as dear, and five workers came for one."""
    spec = replace(DEMO, cpu_limit_cores=0.1, threads_start=100, threads_max=1000, max_wait_seconds=30.0)
    decisions = cold_start(spec, ready_at=8.5, fetching=fetching)
    assert {decision.replicas for decision in decisions} == {1}
    assert {decision.threads for decision in decisions if decision.learned.cpu_per_task_seconds is None} == {100}


def test_a_burst_that_has_just_come_is_no_proof_of_slow_workers() -> None:
    """They were idle for most of the time between the two scrapes. Those to whom it came before, and who did little,
    are slow.
    """

    def validate(at: float, ready: float, started: float) -> Sample:
        done = max(0.0, started - 20)
        scraped = worker(
            "pod-0", now=at, limit=100, busy=20, started=started, finished=done, runtime_sum_seconds=0.3 * done,
            runtime_count=done, cpu_seconds=0.003 * started,
        )  # fmt: skip
        pods = (Pod("pod-0", NOW - 900, NOW - 890, threads=100),)
        return Sample((QueueSample("q", at, ready),), (scraped,), pods, 1, ("q",))

    state, found = initial_state(KNOWN, NOW - 900), []
    for tick, (ready, started) in enumerate(((0, 100), (0, 110), (3000, 120), (3000, 140))):
        _, state = decide(SPEC, state, validate(NOW + 2 * tick, ready, started), NOW + 2 * tick)
        found.append(state.estimates.service.efficiency)
    assert found[:3] == [1.0, 1.0, 1.0]
    assert found[3] < 0.95


NOTHING_WAITS = Observation(NOW, 0.0, 5.0, 0.0, 5.0, 0.0, (), (), (), ())


def test_cpu_without_a_task_says_nothing_about_tasks() -> None:
    """One worker starts tasks before it is Ready for a scrape, and another burns its core on something of its own."""
    progress = CounterDelta(seconds=2.0, worker_seconds=4.0, cpu_worker_seconds=2.0, cpu_seconds=2.0, started=5.0)
    estimates = Service().update(replace(SPEC, cpu_limit_cores=0.1), NOTHING_WAITS, progress)
    assert (estimates.cpu_per_task_seconds, estimates.cpu) == (None, Ratio())


def test_until_a_task_has_ended_run_time_is_at_least_what_the_running_ones_took_so_far() -> None:
    """Tasks of a minute counted as one second each, so a burst of them got one worker until the first had ended."""
    seen, service = replace(NOTHING_WAITS, busy=100.0), Service()
    for tick in range(1, 21):
        service = service.update(SPEC, seen, CounterDelta(seconds=2.0, running_seconds=200.0))
        assert service.runtime_seconds == (2.0 * tick)
    ended = CounterDelta(seconds=2.0, running_seconds=200.0, runtime_count=10.0, runtime_sum_seconds=580.0)
    assert service.update(SPEC, seen, ended).runtime_seconds == pytest.approx(58.0)
    off = Tuning(disabled=frozenset({"running-tasks"}))
    assert Service().update(SPEC, seen, CounterDelta(seconds=2.0, running_seconds=200.0), off).runtime_seconds is None


def test_until_the_cpu_per_task_is_known_a_guess_bounds_the_green_threads() -> None:
    """Not below their start value, and not where the tasks hardly use the CPU: those get all there are."""
    spec = replace(DEMO, cpu_limit_cores=1.0, threads_start=100, threads_max=1000)
    for guess, threads in ((0.001, 1000), (0.01, 212), (0.05, 100)):
        estimates = Service(runtime_seconds=2.0, cpu=Ratio(guess * 30, 30))
        assert safe_threads(spec, estimates, ConcurrencyLimit()) == threads
    assert safe_threads(spec, Service(runtime_seconds=2.0), ConcurrencyLimit()) == 100
    assert safe_threads(spec, Service(), ConcurrencyLimit()) == 100


def interval(used: float, tasks: float, hub_busy: float) -> CounterDelta:
    """Two seconds of one worker of a tenth of a core."""
    return CounterDelta(
        seconds=2.0,
        worker_seconds=2.0,
        cpu_worker_seconds=2.0,
        cpu_seconds=used + 0.02,
        cpu_started=tasks,
        cpu_finished=tasks,
        started=tasks,
        finished=tasks,
        hub_busy_seconds=hub_busy,
    )


def test_what_messages_cost_because_they_come_alone_is_no_part_of_a_plan_for_many() -> None:
    """Measured on a pod of 0.1 cores: 7 ms each at a few a second, 5.4 ms in a saturated worker."""
    spec = replace(SPEC, cpu_limit_cores=0.1)
    alone, crowded = interval(0.056, 8.0, 0.14), interval(0.178, 33.0, 1.96)
    dear = interval(0.16, 8.0, 0.4)

    def after(estimates: Service, *seen: CounterDelta) -> Service:
        for progress in seen:
            estimates = estimates.update(spec, NOTHING_WAITS, progress)
        return estimates

    quiet = after(Service(), *[alone] * 20)
    assert quiet.cpu_per_task_seconds == pytest.approx(0.007), "until the hub was busy once, what was seen decides"
    many = after(quiet, *[crowded] * 5)
    assert many.cpu_per_task_seconds == pytest.approx(0.0054, rel=0.02)
    assert after(many, *[alone] * 100).cpu_per_task_seconds == pytest.approx(0.0054, rel=0.03), (
        "not forgotten meanwhile"
    )
    heavier = after(many, *[dear] * 60).cpu_per_task_seconds
    assert heavier == pytest.approx(0.4 * 0.02, rel=0.15), "coming alone does not explain 20 ms"


FEED_HUB = (
    (20, 73, 0.138, 0.17),
    (30, 106, 0.149, 0.29),
    (47, 150, 0.151, 0.48),
    (64, 190, 0.150, 0.61),
    (83, 202, 0.150, 0.78),
    (100, 188, 0.150, 0.97),
    (150, 217, 0.151, 1.0),
)
"""Green threads, tasks per second, cores and share of the hub's time, measured: tasks of 0.28 s and hardly any CPU in a
worker of 0.15 cores with an endless backlog. (docs/scaling-figures.md, what a lone message costs)
"""


def feed_hub(threads: float) -> CounterDelta:
    """Two seconds of such a worker, between the measured points."""
    at, *series = zip(*FEED_HUB, strict=True)
    tasks, cpu, hub = (2 * float(np.interp(threads, at, values)) for values in series)
    return replace(interval(cpu - 0.02, tasks, hub), runtime_count=tasks, runtime_sum_seconds=0.28 * tasks)


def test_light_tasks_get_the_green_threads_that_make_them_light() -> None:
    """20 green threads use the whole CPU up on 73 tasks a second, because each message wakes the hub for itself; 83 do
    202 with no more.
    """
    spec = replace(SPEC, cpu_limit_cores=0.15, threads_start=20, threads_max=200)
    service, limit, threads = Service(), ConcurrencyLimit(), 20
    for tick in range(12):
        did, full = feed_hub(threads), sample(5000, now=NOW + 2 * tick, busy=threads, limit=threads)
        seen = replace(NOTHING_WAITS, at=NOW + 2 * tick, ready=5000.0, busy=float(threads), workers=full.workers)
        service = service.update(spec, seen, did)
        limit = limit.update(spec, seen, did, capacity(spec, service, limit), DEFAULT)
        threads = safe_threads(spec, service, limit)
    assert 64 <= threads <= 105
    assert capacity(spec, service, limit).rate == pytest.approx(200, rel=0.1)


def test_no_worker_leaves_on_a_guess() -> None:
    """Were 3 ms what a task costs because it comes alone, one worker would be enough; nobody has seen that."""
    world = demo(replicas=2)
    settle(world, 130.0, 90)
    assert {decision.replicas for decision in world.decisions} == {2}


def test_run_time_cpu_and_startup_are_learned() -> None:
    world = demo()
    settle(world, 50.0, 120)
    learned = world.decisions[-1].learned
    assert learned.runtime_seconds == pytest.approx(0.3, rel=0.05)
    assert learned.cpu_per_task_seconds == pytest.approx(0.003, rel=0.15)
    assert learned.startup_seconds == pytest.approx(5.0)
    assert learned.safe_threads == pytest.approx(31, abs=5)


def test_a_pod_that_became_ready_again_after_hours_did_not_take_hours_to_start() -> None:
    given = replace(sample(), pods=(Pod("pod-0", NOW - 9000, NOW - 10, threads=20),))
    assert first(given).learned.startup_seconds == KNOWN.startup_seconds


# --- the answer
# ---------------------------------------------------------------------------------------------------------


def test_why_tells_what_was_seen_what_was_wanted_and_what_held_it_back() -> None:
    decision = first(sample(20_000, busy=20), replace(SPEC, replicas_max=2, cpu_limit_cores=0.1))
    assert dict(decision.why.inputs)["ready"] == 20_000
    assert limits(decision)[0] is DecisionReason.DEADLINE
    assert limits(decision)[-1] is DecisionReason.MAX
    assert "20,000 messages wait; one worker does" in decision.why.adjustments[0].text
    assert "2 workers" in decision.why.summary


@pytest.mark.parametrize("reason", DecisionReason)
def test_whatever_a_constraint_keeps_a_pool_smaller_for_is_reported(reason: DecisionReason) -> None:
    """Also for a reason that comes later: nobody has to name it in a second place."""
    context = cast("DecisionContext", SimpleNamespace(need=5, spec=SPEC))
    needed = Adjustment(DecisionReason.RATE, "workers", 1, 5, "the load asks for five")
    assert explain.limited(context, (needed, Adjustment(reason, "workers", 5, 2, "no more than two"))) is reason


def test_what_the_load_itself_asks_less_for_limits_nothing() -> None:
    context = cast("DecisionContext", SimpleNamespace(need=2, spec=SPEC))
    fewer = Adjustment(DecisionReason.RATE, "workers", 5, 2, "the load asks for two")
    kept = Adjustment(DecisionReason.STABILIZATION, "workers", 2, 5, "five were needed lately")
    assert explain.limited(context, (fewer,)) is DecisionReason.NONE
    assert explain.limited(context, (fewer, kept)) is DecisionReason.NONE
