"""The conditions that say who decides the number of workers: `ScalingActive` and `ScalingLimited`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import Decision, DecisionReason, Mode
from greenfleet.status.worker_conditions import Said


def scaling_active(pool: GreenWorkerPool | None, decision: Decision | None) -> Said:
    """Whether the load decides the number of workers, or who does."""
    if decision is None or pool is None:
        return "Unknown", "NotYetDecided", "The scaling loop has not looked at this pool yet."
    scaling = pool.spec.scaling
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

LIMIT_TEXT: Mapping[DecisionReason, str] = {
    DecisionReason.MAX: "The load asks for more than replicas.max workers: raise it if waiting longer is not "
    "acceptable.",
    DecisionReason.TOTAL: "The load asks for more green threads than greenThreads.total allows.",
    DecisionReason.BEHAVIOR: "scaling.behavior slows the change down.",
    DecisionReason.STABILIZATION: "The load has not asked for more for as long as "
    "scaling.behavior.scaleUp.stabilizationWindowSeconds says.",
    DecisionReason.ACTIVATION: "Messages wait, but not more than scaling.activationThreshold.",
    DecisionReason.SATURATED_DOWNSTREAM: "More workers brought no more throughput: something behind the tasks is "
    "at its limit.",
    DecisionReason.PAUSED: "scaling.pause holds the number of workers.",
}


def scaling_limited(decision: Decision | None) -> Said:
    """Whether something keeps the pool smaller than the load asks for."""
    if decision is None or decision.limited is DecisionReason.NONE:
        return "False", "WithinLimits", "Nothing keeps the pool smaller than the load asks for."
    text = LIMIT_TEXT.get(
        decision.limited, "Something keeps the pool smaller than the load asks for; `kubectl greenfleet why` says what."
    )
    return "True", str(decision.limited), text
