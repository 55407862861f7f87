"""The status of a pool, computed anew from what is known. Pure; `status_writer` writes it.

The conditions are computed in `greenfleet.status`. Here is what only the state of every owner tells: who stops the
pool, what was true before a restart, and what was missing a moment ago. `lastTransitionTime` moves only when a status
does. No text holds a number that moves every tick.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from greenfleet.autoscaling.model import Decision, Problem
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.controller.registry import Record
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.redaction import redacted
from greenfleet.status import broker_error, missing_queues
from greenfleet.status.kstatus_conditions import ready, reconciling, stalled
from greenfleet.status.load import FIELDS, load_status
from greenfleet.status.metrics_conditions import metrics_available
from greenfleet.status.observed import Observed
from greenfleet.status.scaling_conditions import scaling_active, scaling_limited
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import rfc3339, unix_time
from greenfleet.status.worker_conditions import Said, dead_letters, hub_blocked, tasks_at_risk

_Object = dict[str, Any]
_MEASURED = frozenset(
    {"MetricsAvailable", "ScalingActive", "ScalingLimited", "HubBlocked", "TasksAtRisk", "DeadLetters"}
)
"""Conditions that need samples: unknown between a start of the operator and its first decision."""
LONGEST_MESSAGE = 4096
"""Characters of a condition's message. Names of tasks come from outside, and a status that is refused for one of them
is never written again.
"""


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
    stalled_by = (
        record.invalid
        or record.reconciliation.stalled
        or observed.exporter_refused
        or observed.config_error
        or observed.pod_failure
        or _broker_stalled(record, observed, before.get("Stalled"), decision)
    )
    current = record.reconciliation.generation == observed.generation
    metadata = record.body["metadata"]
    age_seconds = observed.now - unix_time(metadata["creationTimestamp"])
    missing = missing_queues.sentence_at(age_seconds, record.findings.missing_queues)
    found = {
        "Ready": ready(
            observed,
            stalled_by,
            decision,
            current=current,
            was_ready=before.get("Ready", {}).get("status") == "True",
            missing=missing,
        ),
        "Stalled": stalled(stalled_by),
        "Reconciling": reconciling(observed, stalled_by, current=current),
        "MetricsAvailable": metrics_available(
            decision,
            record.findings,
            age_seconds=age_seconds,
            scrape_problem=observed.scrape_problem,
            missing=missing,
        ),
        "ScalingActive": scaling_active(record.pool, decision),
        "ScalingLimited": scaling_limited(decision),
        "HubBlocked": hub_blocked(record.findings, observed.now),
        "TasksAtRisk": tasks_at_risk(record.findings.risks, observed.now),
        "DeadLetters": dead_letters(record.findings, metadata["namespace"], metadata["name"]),
    }
    if decision is None and not stalled_by:
        for name in _MEASURED & before.keys():  # after a restart: what was true is true until we know better
            found[name] = (before[name]["status"], before[name]["reason"], before[name]["message"])
    return [_condition(name, said, before.get(name), observed) for name, said in found.items()]


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
