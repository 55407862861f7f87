"""The conditions that kstatus, Flux, Argo CD and `kubectl wait` read: `Ready`, `Stalled` and `Reconciling`. Pure.

`Stalled` and `Reconciling` are true only while they hold. Who may stop a pool, and who comes first, decides
`controller.status_builder`.
"""

from __future__ import annotations

from greenfleet.autoscaling.model import Decision, MetricsIssue
from greenfleet.status.diagnosis import GRACE_SECONDS, stays
from greenfleet.status.observed import Observed
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import unix_time
from greenfleet.status.worker_conditions import Said

_NO_EXPORTER = "The queue exporter of the broker does not answer yet, or cannot reach the broker."


def ready(
    observed: Observed,
    stalled_by: StalledReason | None,
    decision: Decision | None,
    *,
    current: bool,
    was_ready: bool,
    missing: str,
) -> Said:
    """Whether the pool's queues are consumed, or would be if something waited. *current*: the objects are those of this
    generation. *missing*: what is to be said of missing queues, "" for nothing.
    """
    if stalled_by is not None:
        return "False", stalled_by.reason, stalled_by.message
    if not current or observed.deployment is None:
        return "False", "Reconciling", "The pool's objects are being made."
    if not observed.exporter_available:
        known = decision is not None and _broker_is_down(decision)
        text = "The queue exporter cannot use the broker, see MetricsAvailable." if known else _NO_EXPORTER
        return "False", "ExporterNotReady", text
    wanted = (observed.deployment.get("spec") or {}).get("replicas", 0)
    starting = wanted and not (observed.deployment.get("status") or {}).get("readyReplicas")
    none_ready = _none_ready(observed, was_ready=was_ready) if starting else None
    return none_ready or _at_work(decision, wanted, missing)


def _none_ready(observed: Observed, *, was_ready: bool) -> Said | None:
    """Of a pool that wants workers. While its first one starts, it is not ready yet; one that was ready and wakes from
    zero workers stays so for a while (None).

    Pods of an old template count like any other: while one is ready, somebody consumes, and a rollout that does not end
    is said by `Reconciling` and `Stalled`. Pods that drain or have ended count no more.
    """
    since = [unix_time(pod["metadata"]["creationTimestamp"]) for pod in observed.pods if stays(pod)]
    if any(observed.now - at > GRACE_SECONDS for at in (*since, *_unavailable(observed))):
        return "False", "NoWorkerReady", "Workers are wanted, and none became ready."
    return None if was_ready else ("False", "WorkersStarting", "The first workers start.")


def _at_work(decision: Decision | None, wanted: int, missing: str) -> Said:
    if decision is not None and decision.metrics_issues:
        none = "No worker runs, and none starts before the load is known."
        some = "The workers run; their number is held because the load is not known."
        return "True", "Holding", some if wanted else none
    if not wanted:
        text = "Nothing waits; the first message brings a worker."
        if decision is not None and not decision.active:
            text = "No worker runs, and no message brings one, see ScalingActive."
        return "True", "ScaledToZero", f"{text} {missing}" if missing else text
    return "True", "Running", "Workers consume the queues."


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


def stalled(by: StalledReason | None) -> Said:
    """Whether a human has to act."""
    return ("False", "AsExpected", "Nothing needs a human.") if by is None else ("True", by.reason, by.message)


def reconciling(observed: Observed, stalled_by: StalledReason | None, *, current: bool) -> Said:
    """Whether the cluster is on its way to what the spec says. *current*: the objects are those of this generation."""
    if stalled_by is not None:
        return "False", "Stalled", "Waits for a human, see Stalled."
    if not current:
        return "True", "Applying", "The pool's objects are being made."
    if (short := observed.capacity_shortage) is not None:
        return "True", short.reason, short.message
    rolling = _is_rolling(observed)
    if rolling and ((observed.deployment or {}).get("spec") or {}).get("paused"):
        return (
            "True",
            "RolloutPaused",
            "The Deployment is paused, so that workers keep the old spec: kubectl rollout resume.",
        )
    if rolling:
        return "True", "RollingUpdate", "Workers are being replaced by ones of the new spec."
    return "False", "UpToDate", "Everything is as the spec says."


def _is_rolling(observed: Observed) -> bool:
    deployment = observed.deployment or {}
    status, spec = deployment.get("status") or {}, deployment.get("spec") or {}
    behind = status.get("observedGeneration", 0) < deployment.get("metadata", {}).get("generation", 0)
    return bool(behind or status.get("updatedReplicas", 0) < min(spec.get("replicas", 0), status.get("replicas", 0)))
