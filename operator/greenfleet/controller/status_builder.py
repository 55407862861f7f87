"""The status of a pool, computed anew from what is known, and written only when it says something new. Pure.

Conditions follow kstatus: `Stalled` and `Reconciling` are true only while they hold, and `Ready` is what `kubectl
wait`, Flux and Argo CD look at. `lastTransitionTime` moves only when a status does. No text holds a number that moves
every tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from greenfleet.autoscaling.model import Decision, DecisionReason, Learned, MetricsIssue, Mode, Problem
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.controller.registry import Record
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.redaction import redacted
from greenfleet.status.diagnosis import GRACE_SECONDS
from greenfleet.status.findings import Findings
from greenfleet.status.load import FIELDS, load_status
from greenfleet.status.stalled import StalledReason
from greenfleet.status.times import rfc3339, unix_time

_Object = dict[str, Any]
_Said = tuple[str, str, str]
"""Status, reason and message of a condition."""

_MEASURED = frozenset(
    {"MetricsAvailable", "ScalingActive", "ScalingLimited", "HubBlocked", "TasksAtRisk", "DeadLetters"}
)
"""Conditions that need samples: unknown between a start of the operator and its first decision."""
_SCRAPE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.STALE, MetricsIssue.WORKER_MISSING})
"""What samples that come too seldom look like."""
_FIRST_SAMPLE_REASONS = frozenset({MetricsIssue.NO_SAMPLE, MetricsIssue.BROKER_DOWN})
BLOCKED_MEMORY_SECONDS = 300.0
"""How long `HubBlocked` stays true after a task blocked the hub."""

LONGEST_MESSAGE = 4096
"""Characters of a condition's message. Names of tasks come from outside, and a status that is refused for one of them
is never written again.
"""

RISK_MEMORY_SECONDS = 60.0
"""How long `TasksAtRisk` outlives the last sample that said so; workers themselves remember for ten minutes."""


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
    decision = fleet.decision if fleet else None
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
        if fleet.load is not None:
            status |= load_status(fleet.load)
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
    if fleet is None or fleet.scaling_spec is None or fleet.last_missing is None:
        return ()
    at, issues = fleet.last_missing
    said = {one["type"]: one["status"] for one in record.status.get("conditions") or ()}
    recent = now - at < stale_after_seconds(fleet.scaling_spec[1].scrape_interval_seconds)
    return issues if recent and said.get("MetricsAvailable") == "False" else ()


def _conditions(record: Record, observed: Observed, decision: Decision | None) -> list[_Object]:
    stalled = (
        record.invalid
        or record.reconciliation.stalled
        or observed.exporter_refused
        or observed.config_error
        or observed.pod_failure
    )
    rolling = _rolling(observed)
    current = record.reconciliation.generation == observed.generation
    before = {condition["type"]: condition for condition in record.status.get("conditions") or ()}
    was_ready = before.get("Ready", {}).get("status") == "True"
    ready = _not_ready(stalled) if stalled else _ready(observed, decision, reconciled=current, was_ready=was_ready)
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
        "ScalingActive": _scaling_active(record, decision),
        "ScalingLimited": _scaling_limited(decision),
        "HubBlocked": _hub_blocked(record.findings, observed.now),
        "TasksAtRisk": _tasks_at_risk(record.findings.risks, observed.now),
        "DeadLetters": _dead_letters(record),
    }
    if decision is None and not stalled:
        for name in _MEASURED & before.keys():  # after a restart: what was true is true until we know better
            found[name] = (before[name]["status"], before[name]["reason"], before[name]["message"])
    return [_condition(name, said, before.get(name), observed) for name, said in found.items()]


def _not_ready(stalled: StalledReason) -> _Said:
    return "False", stalled.reason, stalled.message


def _condition(name: str, said: _Said, before: _Object | None, observed: Observed) -> _Object:
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


def _ready(observed: Observed, decision: Decision | None, *, reconciled: bool, was_ready: bool) -> _Said:
    """A pool whose first worker starts is not ready yet; one that was ready and wakes from zero workers stays so."""
    if not reconciled or observed.deployment is None:
        return "False", "Reconciling", "The pool's objects are being made."
    if not observed.exporter_available:
        return (
            "False",
            "ExporterNotReady",
            "The queue exporter of the broker does not answer yet, or cannot reach the broker.",
        )
    wanted = (observed.deployment.get("spec") or {}).get("replicas", 0)
    if wanted and not (observed.deployment.get("status") or {}).get("readyReplicas"):
        since = [unix_time(pod["metadata"]["creationTimestamp"]) for pod in observed.pods] or _unavailable(observed)
        late = any(observed.now - at > GRACE_SECONDS for at in since)
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


def _unavailable(observed: Observed) -> list[float]:
    """Since when the Deployment itself says that it lacks workers: where nobody makes pods, no pod's age tells."""
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
) -> _Said:
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


def _metrics_available(record: Record, observed: Observed, decision: Decision | None) -> _Said:
    if decision is None:
        return "Unknown", "NotYetSampled", "The scaling loop has not looked at this pool yet."
    age = observed.now - unix_time(record.body["metadata"]["creationTimestamp"])
    if decision.metrics_issues and decision.metrics_issues[0].reason in _FIRST_SAMPLE_REASONS and age < GRACE_SECONDS:
        return "Unknown", "FirstSamplePending", "The pool is new: its exporter starts, and Prometheus finds it."
    if decision.metrics_issues:
        reason = decision.metrics_issues[0].reason
        text = "; ".join(dict.fromkeys(problem.message for problem in decision.metrics_issues[:3]))
        if observed.scrape_problem and reason in _SCRAPE_REASONS:
            return "False", "WrongScrapeInterval", observed.scrape_problem
        return "False", str(reason), text
    if observed.scrape_problem:
        return (
            "True",
            "WrongScrapeInterval",
            f"Every sample is fresh now, and may not be soon. {observed.scrape_problem}",
        )
    complete = ("True", "Complete", "Every sample is fresh.")
    return ("True", "NamespaceMismatch", _NAMESPACE_MISMATCH) if record.findings.speaks_for_others else complete


_NAMESPACE_MISMATCH = (
    "Every sample is fresh. But pods of this namespace export series about pools or brokers of other namespaces, which "
    "nobody believes: find the pods that export them, or correct the target label `namespace` in the scrape "
    "configuration."
)


def _scaling_active(record: Record, decision: Decision | None) -> _Said:
    if decision is None or record.pool is None:
        return "Unknown", "NotYetDecided", "The scaling loop has not looked at this pool yet."
    scaling = record.pool.spec.scaling
    mode = Mode(scaling.mode)
    if mode is Mode.DRY_RUN:
        return "False", "DryRun", "scaling.mode is DryRun: decisions are reported, nothing is written."
    if mode is Mode.MANUAL:
        return "False", "Manual", "scaling.mode is Manual: spec.manualReplicas sets the number of workers."
    if (text := _PAUSE_TEXT.get(scaling.pause)) is not None:
        return "False", "Paused", f"scaling.pause is {scaling.pause}: {text}."
    if decision.metrics_issues:
        return "False", "MetricsMissing", "The load is not known, see MetricsAvailable."
    return "True", "Active", "The number of workers and green threads follows the load."


_PAUSE_TEXT: Mapping[str, str] = {
    "In": "no worker is taken away",
    "Out": "no worker is added",
    "All": "the number of workers stays",
}

_LIMIT_TEXT: Mapping[DecisionReason, str] = {
    DecisionReason.MAX: "The load asks for more than replicas.max workers: raise it if waiting longer is not "
    "acceptable.",
    DecisionReason.TOTAL: "The load asks for more green threads than greenThreads.total allows.",
    DecisionReason.BEHAVIOR: "scaling.behavior slows the change down.",
    DecisionReason.SATURATED_DOWNSTREAM: "More workers brought no more throughput: something behind the tasks is "
    "at its limit.",
    DecisionReason.PAUSED: "scaling.pause holds the number of workers.",
    DecisionReason.MANUAL: "spec.manualReplicas sets the number of workers.",
}


def _scaling_limited(decision: Decision | None) -> _Said:
    if decision is None or decision.limited is DecisionReason.NONE:
        return "False", "WithinLimits", "Nothing keeps the pool smaller than the load asks for."
    text = _LIMIT_TEXT.get(
        decision.limited, "Something keeps the pool smaller than the load asks for; `kubectl greenfleet why` says what."
    )
    return "True", str(decision.limited), text


_LACKS_CPU = (
    "A worker's hub wanted to run and had no CPU for most of five minutes: raise worker.resources.limits.cpu, or "
    "add nodes; "
    "no task is to blame."
)


def _hub_blocked(findings: Findings, now: float) -> _Said:
    tasks = sorted(task for task, at in findings.blocked.items() if now - at < BLOCKED_MEMORY_SECONDS)
    starved = now - findings.risks.get(("cpu", ""), float("-inf")) < RISK_MEMORY_SECONDS
    if tasks:
        listed = ", ".join(tasks[:5])
        blocks = (
            f"Blocking calls halt all green threads of a worker: {listed}. The worker's log has the place; "
            "consider prefork.tasks."
        )
        return "True", "TaskBlocks", f"{blocks} {_LACKS_CPU}" if starved else blocks
    if starved:
        return "True", "LacksCpu", _LACKS_CPU
    return "False", "HubRuns", "No task blocked the hub lately, and it had a CPU."


_RISKS: Mapping[str, tuple[str, str]] = {
    "acks": (
        "AcksFail",
        "The broker did not take acknowledgements, and such tasks run twice: look at the broker and the network.",
    ),
    "consumer_timeout": (
        "ConsumerTimeout",
        "Tasks or ETAs exceed RabbitMQ's consumer_timeout, after which everything that their worker holds runs "
        "again: raise "
        "it on the broker and in broker.consumerTimeout, or split the tasks.",
    ),
    "delivery_limit": (
        "DeliveryLimit",
        "Messages have used up half of their quorum queue's delivery limit, after which RabbitMQ drops or "
        "dead-letters them: look for "
        "workers that die and connections that break, or raise x-delivery-limit.",
    ),
    "no_progress": (
        "NothingEnds",
        "Every thread of a worker is busy, and no task has ended for five minutes: look for calls without a "
        "time-out and for "
        "libraries that were imported before patching, or set taskTimeLimits.hard. The worker's log names the tasks.",
    ),
    "prefork": (
        "PreforkImpossible",
        "Tasks that belong to the prefork companion run on the hub, because there is none or its queue cannot be "
        "had: the workers' log says why.",
    ),
    "prefetch": (
        "PrefetchHoards",
        "Workers hold messages that no other worker can take: lower worker.prefetchMultiplier, or the app's own "
        "prefetch setting.",
    ),
    "results": (
        "ResultsNotStored",
        "Results of tasks cannot be stored, and their callers wait: spec.resultBackend, or what the app itself sets "
        "where the pool has none, does not answer or refuses: correct it, or give the app in worker.env what it reads "
        "from its environment. The workers' log has the address and the error.",
    ),
    "visibility_timeout": (
        "VisibilityTimeout",
        "Tasks or ETAs exceed Redis' visibility_timeout, and run twice wherever a worker does not renew it: raise "
        "it in "
        "broker_transport_options of every worker of this broker.",
    ),
}
"""What a worker says in `greenworker_task_risk{reason}`: reason of the condition, and what to do."""


def _tasks_at_risk(risks: Mapping[tuple[str, str], float], now: float) -> _Said:
    """The first reason in a stable order is the condition's; the message has them all, so that there is one Event."""
    held = sorted(key for key, at in risks.items() if now - at < RISK_MEMORY_SECONDS and key[0] in _RISKS)
    if not held:
        return "False", "NothingFound", "No worker reports anything that could lose or double a task."
    sentences = []
    for reason in dict.fromkeys(reason for reason, _ in held):
        tasks = [task for found, task in held if found == reason and task]
        sentences.append(_RISKS[reason][1] + (f" Tasks: {', '.join(tasks[:5])}." if tasks else ""))
    return "True", _RISKS[held[0][0]][0], " ".join(sentences)


def _dead_letters(record: Record) -> _Said:
    """How many, of which tasks, and the command."""
    if not record.findings.dead_letters:
        return "False", "NoDeadLetters", "No message was taken out of the queues."
    metadata = record.body["metadata"]
    counts = ", ".join(f"{count} of queue {queue}" for queue, count in sorted(record.findings.dead_letters.items()))
    tasks = f" Tasks: {', '.join(sorted(record.findings.dead_tasks)[:5])}." if record.findings.dead_tasks else ""
    return (
        "True",
        "TaskDeadLettered",
        f"Messages that no worker can run were taken out of the queues: {counts}.{tasks} "
        f"`kubectl greenfleet dead-letters {metadata['name']} -n {metadata['namespace']}` lists them with the "
        "reason: repair the task (or "
        "raise the memory limit) and requeue them, or drop them.",
    )


def learned_status(learned: Learned) -> _Object:
    """`status.learned` of what the autoscaler learned."""
    found: _Object = {}
    if learned.runtime_seconds is not None:
        found["runtime"] = f"{learned.runtime_seconds * 1000:.3g}ms"
    if learned.cpu_per_task_seconds is not None:
        found["cpuPerTask"] = f"{learned.cpu_per_task_seconds * 1000:.3g}ms"
    if learned.safe_threads is not None:
        found["safeThreads"] = learned.safe_threads
    if learned.startup_seconds is not None:
        found["startup"] = f"{learned.startup_seconds:.1f}s"
    return found


def significant_change(old: Learned, new: Learned) -> bool:
    """Whether `status.learned` is worth a write: something became known, or moved by more than 20 %."""
    pairs = [(getattr(old, field.name), getattr(new, field.name)) for field in fields(Learned)]
    return any(two is not None and (one is None or abs(two - one) > 0.2 * abs(one)) for one, two in pairs)


def learned_from_status(status: _Object) -> Learned:
    """The inverse of `learned_status`; nonsense in it counts as not learned."""
    learned = status.get("learned") or {}

    def seconds(field: str, unit: str, scale: float) -> float | None:
        text = str(learned.get(field, ""))
        try:
            value = float(text.removesuffix(unit)) * scale
        except ValueError:
            return None
        return value if 0 < value < float("inf") else None

    threads = learned.get("safeThreads")
    return Learned(
        runtime_seconds=seconds("runtime", "ms", 0.001),
        cpu_per_task_seconds=seconds("cpuPerTask", "ms", 0.001),
        safe_threads=threads if isinstance(threads, int) and threads > 0 else None,
        startup_seconds=seconds("startup", "s", 1.0),
    )
