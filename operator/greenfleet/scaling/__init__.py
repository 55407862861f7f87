"""The law of scaling: pure, immutable values in, one immutable decision out. It imports nothing that does I/O."""

from .knowledge import stale_after_seconds
from .law import decide, prefork_spec
from .outcome import significant_change
from .rest import may_rest, sleeps
from .schedules import parse as parse_cron
from .state import State, initial_state
from .types import (
    Blindness,
    Decision,
    Learned,
    Limit,
    Mode,
    Pod,
    Policy,
    Problem,
    QueueSample,
    Rules,
    Sample,
    ScalingSpec,
    Schedule,
    Step,
    Why,
    WorkerSample,
)

__all__ = [
    "Blindness",
    "Decision",
    "Learned",
    "Limit",
    "Mode",
    "Pod",
    "Policy",
    "Problem",
    "QueueSample",
    "Rules",
    "Sample",
    "ScalingSpec",
    "Schedule",
    "State",
    "Step",
    "Why",
    "WorkerSample",
    "decide",
    "initial_state",
    "may_rest",
    "parse_cron",
    "prefork_spec",
    "significant_change",
    "sleeps",
    "stale_after_seconds",
]
