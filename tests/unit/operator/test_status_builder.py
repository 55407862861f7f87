"""The status contract: kstatus conditions, times that move only with their status, and no number that moves
every tick.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from greenfleet.api.pool import Prefork
from greenfleet.api.status import CONDITION_TYPES, PoolStatus
from greenfleet.autoscaling.model import Decision, DecisionReason, Learned, MetricsIssue, Problem, Why
from greenfleet.controller.registry import Record
from greenfleet.controller.status_builder import compute
from greenfleet.manifests.names import Role
from greenfleet.status.learned import learned_from_status, learned_status, significant_change
from greenfleet.status.load import Load, age, rounded
from greenfleet.status.observed import Observed
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import rfc3339, unix_time
from greenfleet.status.worker_conditions import RISK_MEMORY_SECONDS
from tests.unit.operator.objects import Object, record

NOW = 1_800_000_000.0
CREATED = unix_time("2026-01-01T00:00:00Z")
WELL = Observed(
    deployment={
        "metadata": {"generation": 3},
        "spec": {"replicas": 2},
        "status": {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "observedGeneration": 3},
    },
    pods=[],
    exporter_available=True,
    exporter_refused=None,
    config_error=None,
    pod_failure=None,
    capacity_shortage=None,
    generation=1,
    now=NOW,
)
IDLE = dataclasses.replace(
    WELL, deployment={"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}
)


def decision(**changes: Any) -> Decision:
    why = Why(at=NOW, inputs=(("ready", 17.0),), adjustments=(), binding=DecisionReason.RATE, summary="2 workers")
    plain = Decision(
        replicas=2,
        threads=250,
        metrics_issues=(),
        active=True,
        limited=DecisionReason.NONE,
        learned=Learned(),
        why=why,
    )
    return dataclasses.replace(plain, **changes)


def reconciled(chosen: Decision | None = None, **spec: Any) -> Record:
    found = record(**spec)
    found.reconciliation.generation = 1
    found.fleet(Role.EVENTLET).autoscaling.decision = chosen if chosen is not None else decision()
    return found


def conditions(status: Object) -> dict[str, Object]:
    return {condition["type"]: condition for condition in status["conditions"]}


def statuses(found: Record, observed: Observed) -> dict[str, str]:
    return {name: condition["status"] for name, condition in conditions(compute(found, observed)).items()}


def test_a_pool_that_works_is_ready_and_nothing_else() -> None:
    assert statuses(reconciled(), WELL) == {
        "Ready": "True",
        "Stalled": "False",
        "Reconciling": "False",
        "MetricsAvailable": "True",
        "ScalingActive": "True",
        "ScalingLimited": "False",
        "HubBlocked": "False",
        "TasksAtRisk": "False",
        "DeadLetters": "False",
    }


def test_every_condition_is_always_there_and_every_status_fits_the_schema() -> None:
    for found, observed in [
        (record(), IDLE),
        (record(queues=["?"]), dataclasses.replace(IDLE, deployment=None)),
        (reconciled(), WELL),
        (reconciled(decision(metrics_issues=(Problem(MetricsIssue.STALE, "old"),))), WELL),
    ]:
        status = compute(found, observed)
        PoolStatus.model_validate(status)
        assert sorted(condition["type"] for condition in status["conditions"]) == sorted(CONDITION_TYPES)
        assert all(condition["observedGeneration"] == observed.generation for condition in status["conditions"])


def test_a_pool_at_zero_workers_is_ready_if_its_exporter_answers() -> None:
    ready = conditions(compute(reconciled(decision(replicas=0)), IDLE))["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")


def test_a_pool_at_zero_workers_that_is_paused_or_manual_promises_no_worker() -> None:
    ready = conditions(compute(reconciled(decision(replicas=0, active=False)), IDLE))["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
    assert ready["message"] == "No worker runs, and no message brings one, see ScalingActive."


def test_a_pool_at_zero_workers_does_not_say_that_nothing_waits_while_nobody_knows() -> None:
    unknown = decision(replicas=0, metrics_issues=(Problem(MetricsIssue.NO_SAMPLE, "none"),))
    ready = conditions(compute(reconciled(unknown), IDLE))["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "Holding")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exporter_available": False}, "ExporterNotReady"),
        ({"deployment": None}, "Reconciling"),
        ({"pod_failure": StalledReason("ImageUnavailable", "x")}, "ImageUnavailable"),
    ],
)
def test_a_pool_is_not_ready_while_something_is_missing(changes: dict[str, Any], reason: str) -> None:
    ready = conditions(compute(reconciled(), dataclasses.replace(WELL, **changes)))["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", reason)


def test_a_new_generation_is_reconciling_until_its_children_were_applied() -> None:
    found = statuses(reconciled(), dataclasses.replace(WELL, generation=2))
    assert (found["Ready"], found["Reconciling"]) == ("False", "True")


def test_a_rolling_update_is_reconciling_and_ready() -> None:
    rolling = {**(WELL.deployment or {}), "metadata": {"generation": 4}}
    found = statuses(reconciled(), dataclasses.replace(WELL, deployment=rolling))
    assert (found["Ready"], found["Reconciling"]) == ("True", "True")


def test_a_pool_that_works_with_fewer_workers_than_it_wants_is_reconciling_and_ready() -> None:
    short = dataclasses.replace(
        WELL, capacity_shortage=StalledReason("WorkersUnschedulable", "worker.resources: 1 pod waits: x: y")
    )
    said = conditions(compute(reconciled(), short))
    assert (said["Ready"]["status"], said["Stalled"]["status"]) == ("True", "False")
    assert (said["Reconciling"]["status"], said["Reconciling"]["reason"]) == ("True", "WorkersUnschedulable")
    assert "1 pod waits" in said["Reconciling"]["message"]


def starting(seconds: float) -> Observed:
    """Two workers that were made so long ago, and neither is ready."""
    deployment = {**(WELL.deployment or {}), "status": {"replicas": 2, "observedGeneration": 3, "updatedReplicas": 2}}
    pods = [{"metadata": {"creationTimestamp": rfc3339(NOW - seconds)}}]
    return dataclasses.replace(WELL, deployment=deployment, pods=pods)


def test_a_new_pool_is_ready_with_its_first_worker() -> None:
    """`kubectl wait --for=condition=Ready` returns when somebody consumes."""
    found = reconciled()
    ready = conditions(compute(found, starting(10)))["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "WorkersStarting")
    found.body["status"] = compute(found, starting(10))
    assert statuses(found, starting(30))["Ready"] == "False"
    assert statuses(found, WELL)["Ready"] == "True"


def test_workers_that_never_become_ready_make_the_pool_not_ready_after_a_while() -> None:
    """It was ready at zero workers: waking up is its work, and no trouble."""
    found = reconciled()
    found.body["status"] = compute(found, IDLE)
    for old, status in [(10, "True"), (120, "False")]:
        assert statuses(found, starting(old))["Ready"] == status


LEAVING = {
    "drains": {"metadata": {"deletionTimestamp": rfc3339(NOW + 600)}},
    "was evicted": {"metadata": {}, "status": {"phase": "Failed"}},
    "has ended": {"metadata": {}, "status": {"phase": "Succeeded"}},
}


@pytest.mark.parametrize("leaving", LEAVING)
def test_a_worker_that_leaves_is_not_taken_for_one_that_does_not_become_ready(leaving: str) -> None:
    """A pool wakes from zero, or gets its only worker on another node, while the old one still drains."""
    found = reconciled()
    found.body["status"] = compute(found, IDLE)
    observed = starting(10)
    gone = {**LEAVING[leaving], "metadata": {**LEAVING[leaving]["metadata"], "creationTimestamp": rfc3339(NOW - 9000)}}
    for pods in ([gone], [gone, *observed.pods]):
        ready = conditions(compute(found, dataclasses.replace(observed, pods=pods)))["Ready"]
        assert (ready["status"], ready["reason"]) == ("True", "Running")


def test_workers_that_are_replaced_before_any_becomes_ready_make_the_pool_not_ready_after_a_while() -> None:
    """Each is evicted in its first minute, so that none is old: the Deployment says how long there was none."""
    found = reconciled()
    found.body["status"] = compute(found, WELL)
    unavailable = {"type": "Available", "status": "False"}
    observed = starting(10)
    for seconds, reason in ((30, "Running"), (61, "NoWorkerReady")):
        condition = {**unavailable, "lastTransitionTime": rfc3339(NOW - seconds)}
        deployment = {**(observed.deployment or {}), "status": {"replicas": 2, "conditions": [condition]}}
        ready = conditions(compute(found, dataclasses.replace(observed, deployment=deployment)))["Ready"]
        assert ready["reason"] == reason


@pytest.mark.parametrize(
    "owner", ["the spec", "conflict", "refused", "exporter_refused", "config_error", "pod_failure"]
)
def test_what_needs_a_human_is_stalled_and_not_reconciling(owner: str) -> None:
    found, stall, observed = reconciled(), StalledReason("Because", "field is value: reason: fix"), WELL
    if owner == "the spec":
        found.invalid = stall
    elif owner in ("conflict", "refused"):
        setattr(found.reconciliation, owner, stall)
    else:
        observed = dataclasses.replace(WELL, **{owner: stall})
    said = conditions(compute(found, observed))
    assert (said["Stalled"]["status"], said["Stalled"]["reason"]) == ("True", "Because")
    assert said["Stalled"]["message"] == "field is value: reason: fix"
    assert (said["Ready"]["status"], said["Reconciling"]["status"]) == ("False", "False")


def test_a_broker_url_never_gets_into_a_condition() -> None:
    found = reconciled(decision(metrics_issues=(Problem(MetricsIssue.STALE, "redis://:hunter2@h is old"),)))
    found.reconciliation.refused = StalledReason("Refused", "env value redis://:hunter2@redis:6379/0 is wrong")
    assert "hunter2" not in str(compute(found, WELL))


def test_a_transition_time_moves_only_when_its_status_does() -> None:
    found = reconciled()
    found.body["status"] = compute(found, WELL)
    later = dataclasses.replace(WELL, now=NOW + 60)
    assert compute(found, later) == found.status
    missing = decision(metrics_issues=(Problem(MetricsIssue.UNREACHABLE, "down"),))
    found.fleet(Role.EVENTLET).autoscaling.decision = missing
    said = conditions(compute(found, later))
    assert said["MetricsAvailable"]["lastTransitionTime"] == rfc3339(NOW + 60)
    assert said["Stalled"]["lastTransitionTime"] == rfc3339(NOW)
    found.body["status"] = compute(found, later)
    found.fleet(Role.EVENTLET).autoscaling.decision = decision(metrics_issues=(Problem(MetricsIssue.STALE, "old"),))
    said = conditions(compute(found, dataclasses.replace(WELL, now=NOW + 90)))
    assert said["MetricsAvailable"]["reason"] == "StaleSample"
    assert said["MetricsAvailable"]["lastTransitionTime"] == rfc3339(NOW + 60)


def test_a_status_does_not_move_while_only_the_load_does() -> None:
    found = reconciled()
    found.body["status"] = compute(found, WELL)
    for step in range(1, 20):
        why = Why(
            at=NOW + step,
            inputs=(("ready", 100.0 * step),),
            adjustments=(),
            binding=DecisionReason.RATE,
            summary=f"{step} messages",
        )
        found.fleet(Role.EVENTLET).autoscaling.decision = decision(why=why, learned=Learned(runtime_seconds=step))
        assert compute(found, dataclasses.replace(WELL, now=NOW + step)) == found.status


def test_a_new_pool_without_a_sample_is_unknown_and_an_old_one_misses_it() -> None:
    missing = decision(metrics_issues=(Problem(MetricsIssue.NO_SAMPLE, "Prometheus has no sample of queue 'feeds'"),))
    young = dataclasses.replace(WELL, now=CREATED + 20)
    old = dataclasses.replace(WELL, now=CREATED + 120)
    assert statuses(reconciled(missing), young)["MetricsAvailable"] == "Unknown"
    assert statuses(reconciled(missing), old)["MetricsAvailable"] == "False"


def test_an_unreachable_prometheus_is_said_at_once_even_of_a_new_pool() -> None:
    missing = decision(metrics_issues=(Problem(MetricsIssue.UNREACHABLE, "Prometheus 'default' cannot be reached"),))
    assert statuses(reconciled(missing), dataclasses.replace(WELL, now=CREATED + 1))["MetricsAvailable"] == "False"


@pytest.mark.parametrize(
    ("scaling", "reason"),
    [
        ({"mode": "Manual"}, "Manual"),
        ({"mode": "DryRun"}, "DryRun"),
        ({"pause": "In"}, "Paused"),
        ({"pause": "All"}, "Paused"),
        ({}, "Active"),
    ],
)
def test_scaling_that_does_not_follow_the_load_says_why(scaling: Object, reason: str) -> None:
    assert conditions(compute(reconciled(scaling=scaling), WELL))["ScalingActive"]["reason"] == reason


@pytest.mark.parametrize("limit", list(DecisionReason))
def test_every_limit_has_a_sentence(limit: DecisionReason) -> None:
    said = conditions(compute(reconciled(decision(limited=limit)), WELL))["ScalingLimited"]
    assert said["status"] == ("False" if limit is DecisionReason.NONE else "True")
    assert said["message"].endswith((".", "what."))


def test_a_task_that_blocked_the_hub_is_named_for_a_while() -> None:
    found = reconciled()
    found.findings.blocked = {"proj.slow": NOW - 100, "proj.old": NOW - 1000}
    said = conditions(compute(found, WELL))["HubBlocked"]
    assert said["status"] == "True"
    assert "proj.slow" in said["message"]
    assert "proj.old" not in said["message"]


def test_what_endangers_tasks_is_one_condition_with_every_reason() -> None:
    found = reconciled()
    found.findings.risks = {
        ("visibility_timeout", "proj.slow"): NOW,
        ("prefetch", ""): NOW,
        ("visibility_timeout", "proj.old"): NOW - 1000,
        ("from a newer worker", ""): NOW,
    }
    said = conditions(compute(found, WELL))["TasksAtRisk"]
    assert (said["status"], said["reason"]) == ("True", "PrefetchHoards")
    assert "worker.prefetchMultiplier" in said["message"]
    assert "Tasks: proj.slow." in said["message"]
    assert "proj.old" not in said["message"]
    found.findings.risks = {}
    assert conditions(compute(found, WELL))["TasksAtRisk"]["status"] == "False"


def test_dead_letters_are_counted_named_and_the_command_is_there() -> None:
    found = reconciled()
    found.findings.dead_letters, found.findings.dead_tasks = (
        {"feeds": 2, "feeds.prefork": 1},
        frozenset({"proj.parse", "proj.render"}),
    )
    said = conditions(compute(found, WELL))["DeadLetters"]
    assert (said["status"], said["reason"]) == ("True", "TaskDeadLettered")
    assert "2 of queue feeds, 1 of queue feeds.prefork" in said["message"]
    assert "Tasks: proj.parse, proj.render." in said["message"]
    metadata = found.body["metadata"]
    assert f"kubectl greenfleet dead-letters {metadata['name']} -n {metadata['namespace']}" in said["message"]


def test_the_selector_and_the_counts_are_those_of_the_eventlet_workers() -> None:
    status = compute(reconciled(), WELL)
    assert status["selector"] == "greenfleet.io/pool=feeds,greenfleet.io/role=eventlet"
    assert (status["replicas"], status["readyReplicas"], status["greenThreads"]) == (2, 2, 250)


def test_what_was_written_before_a_restart_stays_until_there_is_something_new() -> None:
    found = record()
    found.body["status"] = {
        "greenThreads": 700,
        "desiredReplicas": 4,
        "backlog": 500,
        "oldestMessageAge": "30s",
        "lastScale": {"time": "2026-01-01T00:00:00Z", "reason": "Deadline", "message": "x"},
        "learned": {"runtime": "310ms"},
    }
    status = compute(found, WELL)
    for field, value in found.status.items():
        assert status[field] == value


def test_a_last_scale_without_a_message_is_left_out_for_the_api_server_would_refuse_it() -> None:
    found = record()
    found.body["status"] = {"lastScale": {"time": "2026-01-01T00:00:00Z", "reason": "1 to 2 workers: a sentence"}}
    assert "lastScale" not in compute(found, WELL)


def test_what_is_wanted_and_what_waits_are_in_the_status() -> None:
    found = reconciled(decision(replicas=3))
    found.fleet(Role.EVENTLET).autoscaling.load = Load(1234.0, 45.0)
    status = compute(found, WELL)
    assert (status["desiredReplicas"], status["backlog"], status["oldestMessageAge"]) == (3, 1000, "30s")


def test_what_waits_is_not_said_while_it_is_not_known() -> None:
    found = reconciled(decision(metrics_issues=(Problem(MetricsIssue.UNREACHABLE, "down"),)))
    found.body["status"] = {"backlog": 5, "oldestMessageAge": "10s"}
    status = compute(found, WELL)
    assert "desiredReplicas" in status
    assert not {"backlog", "oldestMessageAge"} & status.keys()


@pytest.mark.parametrize(
    ("count", "said"),
    [(0.0, 0), (0.4, 1), (1, 1), (3, 2), (4, 5), (7, 5), (8, 10), (14, 10), (16, 20), (999, 1000), (123_456, 100_000)],
)
def test_a_backlog_is_rounded_and_only_none_is_zero(count: float, said: int) -> None:
    assert rounded(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "0s"), (0.9, "0s"), (1, "1s"), (59, "30s"), (60, "1m"), (7300, "2h"), (1e9, "48h")]
)
def test_an_age_is_the_longest_step_that_has_passed(seconds: float, said: str) -> None:
    assert age(seconds) == said


def test_auto_routes_survive_a_restart_and_end_with_auto_route() -> None:
    found = record()
    found.body["status"] = {"blockingTasks": ["proj.slow"]}
    assert found.pool is not None
    routed = found.pool.spec.model_copy(update={"prefork": Prefork(auto_route=True)})
    found.pool = found.pool.model_copy(update={"spec": routed})
    assert compute(found, WELL)["blockingTasks"] == ["proj.slow"]
    named = found.pool.spec.model_copy(update={"prefork": Prefork(auto_route=False)})
    found.pool = found.pool.model_copy(update={"spec": named})
    assert "blockingTasks" not in compute(found, WELL)


def test_what_was_learned_survives_the_way_through_the_status() -> None:
    learned = Learned(runtime_seconds=0.31, cpu_per_task_seconds=0.0031, safe_threads=420, startup_seconds=6.2)
    found = learned_from_status({"learned": learned_status(learned)})
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(learned))
    assert learned_from_status({}) == Learned()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00031, "0.31ms"), (0.3104, "310ms"), (1.0149, "1010ms"), (4000.0, "4000000ms")]
)
def test_a_run_time_is_shown_without_an_exponent(seconds: float, shown: str) -> None:
    assert learned_status(Learned(runtime_seconds=seconds)) == {"runtime": shown}
    assert learned_from_status({"learned": {"runtime": shown}}).runtime_seconds == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize(
    "value",
    [
        {"runtime": "soon"},
        {"runtime": "-5ms"},
        {"runtime": "inf"},
        {"runtime": "nanms"},
        {"safeThreads": -1},
        {"runtime": 5},
        {"safeThreads": "9"},
    ],
)
def test_nonsense_in_what_was_learned_counts_as_not_learned(value: Object) -> None:
    found = learned_from_status({"learned": value})
    assert found.safe_threads is None
    assert found.runtime_seconds is None or found.runtime_seconds > 0


def test_learned_values_are_worth_a_write_when_they_move_by_a_fifth() -> None:
    known = Learned(0.3, 0.003, 80, 5.0)
    assert not significant_change(known, dataclasses.replace(known, runtime_seconds=0.35))
    assert significant_change(known, dataclasses.replace(known, runtime_seconds=0.37))
    assert significant_change(Learned(), known)
    assert not significant_change(known, Learned())
    assert not significant_change(known, known)


def test_names_of_tasks_that_are_made_to_be_long_do_not_make_a_status_that_is_refused() -> None:
    found = reconciled(decision())
    found.findings.blocked["x" * 60_000] = NOW
    found.findings.risks["acks", "y" * 60_000] = NOW
    found.findings.dead_letters["feeds"] = 1
    found.findings.dead_tasks = frozenset({"z" * 60_000})
    PoolStatus.model_validate(compute(found, WELL))


def test_a_hub_without_a_cpu_is_said_as_such_and_beside_a_task_that_blocks() -> None:
    found = reconciled(decision())
    found.findings.risks["cpu", ""] = NOW - RISK_MEMORY_SECONDS / 2
    said = conditions(compute(found, WELL))
    assert (said["HubBlocked"]["status"], said["HubBlocked"]["reason"]) == ("True", "LacksCpu")
    assert "worker.resources.limits.cpu" in said["HubBlocked"]["message"]
    assert said["TasksAtRisk"]["status"] == "False", "nothing is lost by it"
    found.findings.blocked["proj.slow"] = NOW
    said = conditions(compute(found, WELL))
    assert said["HubBlocked"]["reason"] == "TaskBlocks"
    assert "limits.cpu" in said["HubBlocked"]["message"]
    found.findings.blocked.clear()
    later = dataclasses.replace(WELL, now=NOW + RISK_MEMORY_SECONDS)
    assert conditions(compute(found, later))["HubBlocked"]["status"] == "False"


def test_a_deployment_that_nobody_makes_pods_of_is_not_ready() -> None:
    """A Deployment that is being deleted, or whose controller is gone, has no pod whose age could tell."""
    unavailable = {"type": "Available", "status": "False", "lastTransitionTime": rfc3339(NOW - 61)}
    status = {"observedGeneration": 1, "conditions": [unavailable]}
    deployment = {"metadata": {"generation": 1}, "spec": {"replicas": 2}, "status": status}
    observed = dataclasses.replace(WELL, deployment=deployment)
    assert conditions(compute(reconciled(decision()), observed))["Ready"]["reason"] == "NoWorkerReady"
    unavailable["lastTransitionTime"] = rfc3339(NOW - 5)
    assert conditions(compute(reconciled(decision()), observed))["Ready"]["reason"] == "WorkersStarting"


def test_a_paused_rollout_is_named_only_while_it_keeps_workers_from_being_replaced() -> None:
    behind = {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 0, "observedGeneration": 3}
    for status, reason in ((behind, "RolloutPaused"), ({**behind, "updatedReplicas": 2}, "UpToDate")):
        deployment = {"metadata": {"generation": 3}, "spec": {"replicas": 2, "paused": True}, "status": status}
        found = compute(reconciled(decision()), dataclasses.replace(WELL, deployment=deployment))
        assert conditions(found)["Reconciling"]["reason"] == reason


def test_a_pool_whose_namespace_speaks_for_others_says_so_names_nobody_and_goes_on() -> None:
    found = reconciled()
    assert found.findings.set_speaks_for_others(True)
    assert not found.findings.set_speaks_for_others(True), "no news"
    said = conditions(compute(found, WELL))
    assert (said["MetricsAvailable"]["status"], said["MetricsAvailable"]["reason"]) == ("True", "NamespaceMismatch")
    assert said["ScalingActive"]["status"] == "True"
    found.fleet(Role.EVENTLET).autoscaling.decision = decision(metrics_issues=(Problem(MetricsIssue.STALE, "old"),))
    assert conditions(compute(found, WELL))["MetricsAvailable"]["reason"] == "StaleSample", "what stops it comes first"


def test_a_queue_that_does_not_exist_is_said_by_a_pool_of_a_minute_at_zero_workers() -> None:
    found = reconciled(decision(replicas=0))
    found.findings.set_missing_queues(["mials"])
    young, older = (dataclasses.replace(IDLE, now=CREATED + age) for age in (30, 61))
    said = conditions(compute(found, young))
    assert (said["MetricsAvailable"]["reason"], "mials" in said["Ready"]["message"]) == ("Complete", False)
    said = conditions(compute(found, older))
    assert (said["Ready"]["status"], said["Ready"]["reason"]) == ("True", "ScaledToZero")
    assert said["Ready"]["message"].endswith(
        "spec.queues has 'mials', which does not exist on the broker yet: nobody has sent a task there, and the first "
        "producer or worker creates it; if tasks are sent already, correct the name."
    )
    assert (said["MetricsAvailable"]["status"], said["MetricsAvailable"]["reason"]) == ("True", "QueueMissing")
    found.findings.set_missing_queues(["a", "b"])
    assert "'a', 'b', which do not exist" in conditions(compute(found, older))["Ready"]["message"]
