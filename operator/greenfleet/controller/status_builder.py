"""The status of a pool, computed anew from what is known, and written only when it says something new. Pure.

Conditions follow kstatus: `Stalled` and `Reconciling` are true only while they hold, and `Ready` is what `kubectl
wait`, Flux and Argo CD look at. `lastTransitionTime` moves only when a status does. No text holds a number that moves
every tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from greenfleet.autoscaling.model import Decision, MetricsIssue, Problem
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.controller.registry import Record
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.redaction import redacted
from greenfleet.status import broker_error, missing_queues
from greenfleet.status.diagnosis import GRACE_SECONDS, stays
from greenfleet.status.load import FIELDS, load_status
from greenfleet.status.scaling_conditions import scaling_active, scaling_limited
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import rfc3339, unix_time
from greenfleet.status.worker_conditions import Said, dead_letters, hub_blocked, tasks_at_risk

_Object = dict[str, Any]
_MEASURED = frozenset(
    {"MetricsAvailable", "ScalingActive", "ScalingLimited", "HubBlocked", "TasksAtRisk", "DeadLetters"}
)
"""Conditions that need samples: unknown between a start of the operator and its first decision."""
_SCRAPE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.STALE, MetricsIssue.WORKER_MISSING})
"""What samples that come too seldom look like."""
_FIRST_SAMPLE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.BROKER_DOWN})
LONGEST_MESSAGE = 4096
"""Characters of a condition's message. Names of tasks come from outside, and a status that is refused for one of them
is never written again.
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the status is computed from, besides the record."""

    deployment: _Object | None
    pods: Sequence[_Object]
    exporter_available: bool
    exporter_refused: StalledReason | None
    """Why the exporter cannot be made, which its pools share."""
    config_error: StalledReason | None
    """What the operator's configuration has no place for, or what it cannot evaluate; scaling goes on without it."""
    pod_failure: StalledReason | None
    capacity_shortage: StalledReason | None
    """Why fewer pods work than should, which stops nothing as long as some do."""
    generation: int
    now: float
    scrape_problem: str = ""
    """What is wrong with the scrape interval that the configuration claims for the pool's Prometheus server."""


def compute(record: Record, observed: Observed) -> _Object:
    """The whole status as it should be now, ready to be compared with the one that was written."""
    fleet = record.fleets.get(Role.EVENTLET)
    decision = fleet.autoscaling.decision if fleet else None
    counts = (observed.deployment or {}).get("status") or {}
    shown = decision
    if decision is not None and (missing := lately_missing(record, observed.now)):
        shown = replace(decision, metrics_issues=missing)
    status: _Object = {
        "observedGeneration": observed.generation,
        "replicas": counts.get("replicas", 0),
        "readyReplicas": counts.get("readyReplicas", 0),
        "conditions": _conditions(record, observed, shown),
    }
    if routes := record.routes(observed.now):
        status["blockingTasks"] = list(routes)
    if record.pool is not None:
        status["selector"] = names.selector_text(names.fleet_selector(record.pool.name, Role.EVENTLET))
    if fleet is None or decision is None:
        status |= {name: record.status[name] for name in ("desiredReplicas", *FIELDS) if name in record.status}
    else:
        status["desiredReplicas"] = decision.replicas
        if fleet.autoscaling.load is not None:
            status |= load_status(fleet.autoscaling.load)
    threads = decision.threads if decision else record.status.get("greenThreads")
    if threads is not None:
        status["greenThreads"] = threads
    scaled = [one.actuation.last_scale for one in record.fleets.values() if one.actuation.last_scale is not None]
    if scaled:
        at, reason, message = max(scaled)
        status["lastScale"] = {"time": rfc3339(at), "reason": reason, "message": redacted(message)}
    elif "message" in record.status.get("lastScale", {}):
        status["lastScale"] = record.status["lastScale"]
    if "learned" in record.status:
        status["learned"] = record.status["learned"]
    return status


def lately_missing(record: Record, now: float) -> tuple[Problem, ...]:
    """Why the load was not known a moment ago, although it is now: `MetricsAvailable` is true again once every sample
    is younger than the last gap. So samples that come and go at each tick are one outage. *now*: Unix time.
    """
    fleet = record.fleets.get(Role.EVENTLET)
    if fleet is None or fleet.autoscaling.scaling_spec is None or fleet.autoscaling.last_missing is None:
        return ()
    at, issues = fleet.autoscaling.last_missing
    said = {one["type"]: one["status"] for one in record.status.get("conditions") or ()}
    recent = now - at < stale_after_seconds(fleet.autoscaling.scaling_spec[1].scrape_interval_seconds)
    return issues if recent and said.get("MetricsAvailable") == "False" else ()


def _conditions(record: Record, observed: Observed, decision: Decision | None) -> list[_Object]:
    before = {condition["type"]: condition for condition in record.status.get("conditions") or ()}
    stalled = (
        record.invalid
        or record.reconciliation.stalled
        or observed.exporter_refused
        or observed.config_error
        or observed.pod_failure
        or _broker_stalled(record, observed, before.get("Stalled"), decision)
    )
    rolling = _rolling(observed)
    current = record.reconciliation.generation == observed.generation
    was_ready = before.get("Ready", {}).get("status") == "True"
    ready = _not_ready(stalled) if stalled else _ready(observed, decision, reconciled=current, was_ready=was_ready)
    metadata = record.body["metadata"]
    found = {
        "Ready": ready,
        "Stalled": ("True", stalled.reason, stalled.message)
        if stalled
        else ("False", "AsExpected", "Nothing needs a human."),
        "Reconciling": _reconciling(
            stalled,
            observed.capacity_shortage,
            rolling,
            current=current,
            paused=bool(((observed.deployment or {}).get("spec") or {}).get("paused")),
        ),
        "MetricsAvailable": _metrics_available(record, observed, decision),
        "ScalingActive": scaling_active(record.pool, decision),
        "ScalingLimited": scaling_limited(decision),
        "HubBlocked": hub_blocked(record.findings, observed.now),
        "TasksAtRisk": tasks_at_risk(record.findings.risks, observed.now),
        "DeadLetters": dead_letters(record.findings, metadata["namespace"], metadata["name"]),
    }
    if decision is None and not stalled:
        for name in _MEASURED & before.keys():  # after a restart: what was true is true until we know better
            found[name] = (before[name]["status"], before[name]["reason"], before[name]["message"])
    if found["Ready"][1] == "ScaledToZero" and (text := _missing_queues(record, observed)):
        found["Ready"] = (*found["Ready"][:2], f"{found['Ready'][2]} {text}")
    return [_condition(name, said, before.get(name), observed) for name, said in found.items()]


def _missing_queues(record: Record, observed: Observed) -> str:
    """What is to be said of queues that the broker does not have; "" for a pool that has just been made."""
    age = observed.now - unix_time(record.body["metadata"]["creationTimestamp"])
    queues = record.findings.missing_queues
    return missing_queues.sentence(queues) if queues and age >= missing_queues.MISSING_SECONDS else ""


def _broker_stalled(
    record: Record, observed: Observed, before: _Object | None, decision: Decision | None
) -> StalledReason | None:
    """An error of the broker that has lasted. What was said of this spec before a restart of the operator stays until
    the first samples, and lasts if they say the same.
    """
    said = before["reason"] if before is not None and before["status"] == "True" else ""
    if decision is None:
        if before is None or not said.startswith(broker_error.PREFIX):
            return None
        return StalledReason(said, before["message"]) if before["observedGeneration"] == observed.generation else None
    fleet, found = record.fleets.get(Role.EVENTLET), record.findings
    if record.pool is None or fleet is None or not found.broker_error:
        return None
    lasts = said == f"{broker_error.PREFIX}{found.broker_error}"
    seconds = float("inf") if lasts else observed.now - found.broker_error_since
    spec = fleet.autoscaling.scaling_spec
    scrape_seconds = spec[1].scrape_interval_seconds if spec else 0.0
    return broker_error.stalled(record.pool, found.broker_error, seconds, scrape_seconds)


def _not_ready(stalled: StalledReason) -> Said:
    return "False", stalled.reason, stalled.message


def _condition(name: str, said: Said, before: _Object | None, observed: Observed) -> _Object:
    status, reason, message = said
    unchanged = before is not None and before["status"] == status
    return {
        "type": name,
        "status": status,
        "observedGeneration": observed.generation,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged and before else rfc3339(observed.now),
        "reason": reason,
        "message": redacted(message)[:LONGEST_MESSAGE],
    }


def _ready(observed: Observed, decision: Decision | None, *, reconciled: bool, was_ready: bool) -> Said:
    """A pool whose first worker starts is not ready yet; one that was ready and wakes from zero workers stays so. Pods
    of an old template count like any other: while one is ready, somebody consumes, and a rollout that does not end is
    said by `Reconciling` and `Stalled`. Pods that drain or have ended count no more.
    """
    if not reconciled or observed.deployment is None:
        return "False", "Reconciling", "The pool's objects are being made."
    if not observed.exporter_available:
        known = decision is not None and _broker_is_down(decision)
        text = "The queue exporter cannot use the broker, see MetricsAvailable." if known else _NO_EXPORTER
        return "False", "ExporterNotReady", text
    wanted = (observed.deployment.get("spec") or {}).get("replicas", 0)
    if wanted and not (observed.deployment.get("status") or {}).get("readyReplicas"):
        since = [unix_time(pod["metadata"]["creationTimestamp"]) for pod in observed.pods if stays(pod)]
        late = any(observed.now - at > GRACE_SECONDS for at in (*since, *_unavailable(observed)))
        if late or not was_ready:
            return "False", *(
                ("NoWorkerReady", "Workers are wanted, and none became ready.")
                if late
                else ("WorkersStarting", "The first workers start.")
            )
    if decision is not None and decision.metrics_issues:
        none = "No worker runs, and none starts before the load is known."
        some = "The workers run; their number is held because the load is not known."
        return "True", "Holding", some if wanted else none
    if not wanted:
        return "True", "ScaledToZero", "Nothing waits; the first message brings a worker."
    return "True", "Running", "Workers consume the queues."


_NO_EXPORTER = "The queue exporter of the broker does not answer yet, or cannot reach the broker."


def _broker_is_down(decision: Decision) -> bool:
    return any(issue.reason is MetricsIssue.BROKER_DOWN for issue in decision.metrics_issues)


def _unavailable(observed: Observed) -> list[float]:
    """Since when the Deployment itself says that it lacks workers: where nobody makes pods, or each is evicted soon, no
    pod's age tells.
    """
    conditions = ((observed.deployment or {}).get("status") or {}).get("conditions") or ()
    return [
        unix_time(one["lastTransitionTime"])
        for one in conditions
        if (one["type"], one["status"]) == ("Available", "False") and one.get("lastTransitionTime")
    ]


def _rolling(observed: Observed) -> bool:
    deployment = observed.deployment or {}
    status, spec = deployment.get("status") or {}, deployment.get("spec") or {}
    behind = status.get("observedGeneration", 0) < deployment.get("metadata", {}).get("generation", 0)
    return bool(behind or status.get("updatedReplicas", 0) < min(spec.get("replicas", 0), status.get("replicas", 0)))


def _reconciling(
    stalled: StalledReason | None,
    capacity_shortage: StalledReason | None,
    rolling: bool,
    *,
    current: bool,
    paused: bool,
) -> Said:
    if stalled is not None:
        return "False", "Stalled", "Waits for a human, see Stalled."
    if not current:
        return "True", "Applying", "The pool's objects are being made."
    if capacity_shortage is not None:
        return "True", capacity_shortage.reason, capacity_shortage.message
    if rolling and paused:
        return (
            "True",
            "RolloutPaused",
            "The Deployment is paused, so that workers keep the old spec: kubectl rollout resume.",
        )
    if rolling:
        return "True", "RollingUpdate", "Workers are being replaced by ones of the new spec."
    return "False", "UpToDate", "Everything is as the spec says."


def _metrics_available(record: Record, observed: Observed, decision: Decision | None) -> Said:
    if decision is None:
        return "Unknown", "NotYetSampled", "The scaling loop has not looked at this pool yet."
    age = observed.now - unix_time(record.body["metadata"]["creationTimestamp"])
    first = decision.metrics_issues[0] if decision.metrics_issues else None
    human = broker_error.needs_human_at_once(record.findings.broker_error)
    if first is not None and first.reason in _FIRST_SAMPLE_REASONS and age < GRACE_SECONDS and not human:
        down = first.reason is MetricsIssue.BROKER_DOWN
        text = first.message if down else "its exporter starts, and Prometheus finds it."
        return "Unknown", "FirstSamplePending", f"The pool is new: {text}"
    if decision.metrics_issues:
        reason = decision.metrics_issues[0].reason
        text = "; ".join(dict.fromkeys(problem.message for problem in decision.metrics_issues[:3]))
        if observed.scrape_problem and reason in _SCRAPE_REASONS:
            return "False", "WrongScrapeInterval", observed.scrape_problem
        return "False", str(reason), text
    return _complete(record, observed)


def _complete(record: Record, observed: Observed) -> Said:
    """Nothing is missing now; whatever else is to be said of the metrics."""
    if observed.scrape_problem:
        return (
            "True",
            "WrongScrapeInterval",
            f"Every sample is fresh now, and may not be soon. {observed.scrape_problem}",
        )
    if record.findings.speaks_for_others:
        return "True", "NamespaceMismatch", _NAMESPACE_MISMATCH
    if text := _missing_queues(record, observed):
        return "True", missing_queues.REASON, f"Every sample is fresh. But {text}"
    return "True", "Complete", "Every sample is fresh."


_NAMESPACE_MISMATCH = (
    "Every sample is fresh. But pods of this namespace export series about pools or brokers of other namespaces, which "
    "nobody believes: find the pods that export them, or correct the target label `namespace` in the scrape "
    "configuration."
)
