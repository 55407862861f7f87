"""Missing is not zero."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenfleet.autoscaling import decide, initial_state
from greenfleet.autoscaling.model import Decision, MetricsIssue, Pod, QueueSample, Sample, ScalingSpec
from tests.unit.autoscaling.builders import KNOWN, NOW, SPEC, pod, sample, worker


def decision(given: Sample, spec: ScalingSpec = SPEC, now: float = NOW) -> Decision:
    return decide(spec, initial_state(KNOWN, now - 600), given, now)[0]


def reasons(given: Sample, spec: ScalingSpec = SPEC) -> list[MetricsIssue]:
    return [problem.reason for problem in decision(given, spec).metrics_issues]


def with_depth(*queues: QueueSample) -> Sample:
    return replace(sample(workers=3), queues=queues)


def test_a_complete_sample_is_believed() -> None:
    assert reasons(sample(workers=3)) == []


def test_a_missing_queue_is_not_an_empty_queue() -> None:
    assert reasons(with_depth()) == [MetricsIssue.NO_SAMPLE]
    assert reasons(replace(sample(), expected_queues=("q", "other"))) == [MetricsIssue.NO_SAMPLE]


@pytest.mark.parametrize("depth", [float("nan"), float("inf"), -1.0, 1e300, 5e-324])
def test_what_is_no_number_of_messages_is_no_knowledge(depth: float) -> None:
    assert reasons(with_depth(QueueSample("q", NOW, depth))) == [MetricsIssue.BAD_VALUE]
    assert reasons(replace(sample(), workers=(worker("pod-0", busy=depth),))) == [MetricsIssue.BAD_VALUE]


def test_a_sample_is_stale_after_three_scrapes_but_never_before_fifteen_seconds() -> None:
    assert reasons(with_depth(QueueSample("q", NOW - 15, 0.0))) == []
    assert reasons(with_depth(QueueSample("q", NOW - 15.5, 0.0))) == [MetricsIssue.STALE]
    slow = replace(SPEC, scrape_interval_seconds=30.0)
    assert reasons(with_depth(QueueSample("q", NOW - 89, 0.0)), slow) == []
    assert reasons(with_depth(QueueSample("q", NOW - 91, 0.0)), slow) == [MetricsIssue.STALE]


def test_a_sample_from_the_future_says_that_the_clocks_differ() -> None:
    missing = decision(with_depth(QueueSample("q", NOW + 60, 0.0))).metrics_issues
    assert missing[0].reason is MetricsIssue.STALE
    assert "clocks" in missing[0].message


def test_two_fresh_samples_that_disagree_are_a_contradiction() -> None:
    assert reasons(with_depth(QueueSample("q", NOW, 5.0), QueueSample("q", NOW - 1, 900.0))) == [
        MetricsIssue.CONTRADICTION
    ]


def test_the_last_word_of_an_exporter_that_was_replaced_is_not_a_contradiction() -> None:
    assert reasons(with_depth(QueueSample("q", NOW, 5.0), QueueSample("q", NOW - 9, 900.0))) == []


def test_two_different_samples_of_one_worker_at_one_moment_are_a_contradiction() -> None:
    twice = (worker("pod-0", busy=3), worker("pod-0", busy=4))
    assert reasons(replace(sample(), workers=twice)) == [MetricsIssue.CONTRADICTION]


def test_a_pod_ready_for_two_scrapes_must_have_a_sample_even_while_it_terminates() -> None:
    for terminating in (False, True):
        given = replace(sample(), pods=(pod("pod-0"), pod("pod-9", terminating=terminating)))
        assert reasons(given) == [MetricsIssue.WORKER_MISSING]


def test_a_younger_pod_counts_as_fully_busy_so_the_pool_is_not_idle() -> None:
    young = Pod("pod-0", NOW - 8, NOW - 3, threads=20)
    given = replace(sample(workers=0), pods=(young,), replicas=1)
    answer = decision(given)
    assert not answer.metrics_issues
    assert dict(answer.why.inputs)["busy"] == 20


def test_a_pod_that_never_starts_does_not_keep_the_pool_busy_for_ever() -> None:
    broken = Pod("pod-0", NOW - 4000, None, threads=20)
    answer = decision(replace(sample(workers=0), pods=(broken,), replicas=1))
    assert not answer.metrics_issues
    assert dict(answer.why.inputs)["busy"] == 0


def test_a_worker_that_crashes_does_not_cost_the_pool_its_metrics_and_counts_as_busy_for_a_while() -> None:
    state = initial_state(KNOWN, NOW - 600)
    _, state = decide(SPEC, state, sample(), NOW)
    for later, busy in ((30.0, 20), (700.0, 0)):
        now = NOW + later
        silent = replace(sample(now=now), workers=(), pods=(Pod("pod-0", NOW - 600, None, threads=20),))
        answer, _ = decide(SPEC, state, silent, now)
        assert not answer.metrics_issues
        assert dict(answer.why.inputs)["busy"] == busy


def test_without_pods_nothing_runs() -> None:
    answer = decision(sample(workers=0))
    assert not answer.metrics_issues
    assert dict(answer.why.inputs)["busy"] == 0


def test_samples_of_pods_that_are_gone_do_not_count() -> None:
    given = replace(sample(), workers=(*sample().workers, worker("gone", busy=500)))
    assert dict(decision(given).why.inputs)["busy"] == 0


def test_the_reason_the_collector_gives_is_the_only_one_it_hears_about_the_same_gap() -> None:
    from greenfleet.autoscaling.model import Problem

    told = Problem(MetricsIssue.UNREACHABLE, "Prometheus does not answer")
    given = replace(sample(), queues=(), workers=(), problems=(told,))
    assert decision(given).metrics_issues == (told,)


def test_problems_carry_no_numbers_that_move() -> None:
    one = decision(with_depth(QueueSample("q", NOW - 20, 0.0))).metrics_issues
    two = decision(with_depth(QueueSample("q", NOW - 90, 0.0))).metrics_issues
    assert one == two


def test_missing_metrics_hold_the_workers_and_the_threads() -> None:
    missing = decision(with_depth())
    assert (missing.replicas, missing.threads, missing.active) == (3, 20, False)


def test_the_floor_of_missing_metrics_works_from_zero_workers_and_never_takes_any_away() -> None:
    floor = replace(SPEC, missing_metrics_floor=2)
    nobody = replace(sample(workers=0), queues=())
    assert decision(nobody, floor).replicas == 2
    assert decision(with_depth(), floor).replicas == 3
    assert decision(nobody, replace(floor, missing_metrics_floor=50)).replicas == SPEC.replicas_max
    assert decision(nobody, replace(floor, pause_out=True)).replicas == 0


def test_missing_metrics_hold_even_above_a_maximum_that_was_lowered_meanwhile() -> None:
    assert decision(with_depth(), replace(SPEC, replicas_max=1)).replicas == 3


def test_recovery_takes_no_worker_before_a_window_has_passed() -> None:
    state = initial_state(KNOWN, NOW - 600)
    _, state = decide(SPEC, state, with_depth(), NOW)
    replicas = []
    for tick in range(1, 40):
        now = NOW + 2 * tick
        answer, state = decide(SPEC, state, sample(workers=3, now=now, busy=1), now)
        replicas.append(answer.replicas)
    assert replicas[:4] == [3, 3, 3, 3]
    assert replicas[-1] == 1


def test_messages_that_came_while_metrics_were_missing_are_spread_over_the_gap_and_make_no_burst_of_it() -> None:
    state = initial_state(KNOWN, NOW - 600)
    done = 0.0
    for tick in range(20):
        done += 20.0
        _, state = decide(SPEC, state, sample(now=NOW + 2 * tick, busy=3, started=done, finished=done), NOW + 2 * tick)
    for tick in range(20, 50):
        _, state = decide(SPEC, state, replace(sample(), queues=()), NOW + 2 * tick)
    done += 20.0 * 31
    answer, _ = decide(SPEC, state, sample(now=NOW + 100, busy=3, started=done, finished=done), NOW + 100)
    assert dict(answer.why.inputs)["arrival_rate"] == pytest.approx(10, rel=0.2)
    assert answer.replicas == 1
