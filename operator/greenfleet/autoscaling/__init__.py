"""The autoscaler: pure, immutable values in, one immutable decision out. It imports nothing that does I/O."""

from .autoscaler import decide
from .idle import can_skip, is_idle
from .model import (
    Adjustment,
    Decision,
    DecisionReason,
    Learned,
    MetricsIssue,
    Mode,
    Pod,
    Policy,
    Problem,
    QueueSample,
    Sample,
    ScalingRules,
    ScalingSpec,
    Schedule,
    Why,
    WorkerSample,
)
from .state import State, initial_state
from .tuning import DEFAULT, PARTS, Tuning
from .validation import stale_after_seconds

__all__ = [
    "DEFAULT",
    "PARTS",
    "Adjustment",
    "Decision",
    "DecisionReason",
    "Learned",
    "MetricsIssue",
    "Mode",
    "Pod",
    "Policy",
    "Problem",
    "QueueSample",
    "Sample",
    "ScalingRules",
    "ScalingSpec",
    "Schedule",
    "State",
    "Tuning",
    "Why",
    "WorkerSample",
    "can_skip",
    "decide",
    "initial_state",
    "is_idle",
    "stale_after_seconds",
]
