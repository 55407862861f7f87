"""The vocabulary of the autoscaler: immutable values in, one immutable decision out.

Times are Unix times and durations are seconds, CPU is in cores.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Mode(enum.StrEnum):
    """Who decides the number of workers: `Manual` is the user, and `DryRun` reports and writes nothing."""

    AUTO = "Auto"
    MANUAL = "Manual"
    DRY_RUN = "DryRun"


@dataclass(frozen=True, slots=True)
class Policy:
    """One HPA scaling policy: at most `value` pods or percent (`type`: `Pods` or `Percent`) per `period_seconds`."""

    type: str
    value: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """The HPA's `scaleUp` or `scaleDown`; without policies the rate has no limit."""

    policies: tuple[Policy, ...] = ()
    select_policy: str = "Max"
    """`Max`, `Min` or `Disabled`."""
    stabilization_window_seconds: int | None = None
    """None: the autoscaler's own default."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A window in which `replicas.min` is higher: it opens at each `cron` time in `timezone`."""

    cron: str
    duration_seconds: int
    timezone: str
    min_replicas: int


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """What the user asked for, with the defaults of the CRD."""

    threads_min: int = 10
    threads_max: int = 1000
    threads_start: int = 100
    threads_total: int | None = None
    """Hard cap of the whole fleet's green threads, burst and draining pods included."""
    replicas_min: int = 0
    replicas_max: int = 10
    mode: Mode = Mode.AUTO
    manual_replicas: int = 1
    pause_in: bool = False
    pause_out: bool = False
    max_wait_seconds: float = 30.0
    """The objective: the longest that a message should wait for a green thread."""
    activation_threshold: int = 0
    """Ready messages above which a pool leaves zero workers."""
    cooldown_seconds: float = 300.0
    """How long nothing may be waiting or running before the last worker goes."""
    scale_up: ScalingRules = field(default_factory=ScalingRules)
    scale_down: ScalingRules = field(default_factory=ScalingRules)
    schedules: tuple[Schedule, ...] = ()
    missing_metrics_floor: int | None = None
    """`onMissingMetrics: {floor: N}`; None is `Hold`."""
    scrape_interval_seconds: float = 2.0
    cpu_limit_cores: float = 1.0
    """What one worker may use: min(1, the container's CPU limit), because a hub is one thread."""
    memory_limit_bytes: float | None = None
    drain_seconds: float = 60.0
    """`drain.timeout`: how long a worker that leaves may finish what it runs."""


class MetricsIssue(enum.StrEnum):
    """Why a sample cannot be believed; also the `reason` of the condition `MetricsAvailable`."""

    UNREACHABLE = "PrometheusUnreachable"
    BAD_ANSWER = "PrometheusBadAnswer"
    PARTIAL_ANSWER = "PrometheusPartialAnswer"
    TOO_MANY_SERIES = "TooManySeries"
    NO_SAMPLE = "NoSample"
    STALE = "StaleSample"
    BAD_VALUE = "BadValue"
    CONTRADICTION = "ContradictorySamples"
    BROKER_DOWN = "BrokerDown"
    WORKER_MISSING = "WorkerSampleMissing"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why metrics are missing, as a sentence without numbers that move (it lands in a condition)."""

    reason: MetricsIssue
    message: str


@dataclass(frozen=True, slots=True)
class QueueSample:
    """One queue at one scrape."""

    queue: str
    at: float
    """Unix time of the scrape, not of the query."""
    ready: float
    """Messages that no consumer holds; may be NaN, infinite or negative."""
    unacked: float = 0.0
    """Messages that a consumer holds. 0 where the source cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounters:
    """What a worker counts. `prometheus.sources` says from which metrics; differences and sums have the same fields."""

    started: float = 0.0
    finished: float = 0.0
    runtime_sum_seconds: float = 0.0
    runtime_count: float = 0.0
    cpu_seconds: float = 0.0
    hub_busy_seconds: float = 0.0
    hub_blocked_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerSample(WorkerCounters):
    """One worker at one scrape. Counters count from the start of that process."""

    pod: str
    at: float
    threads_limit: float
    threads_busy: float
    reserved: float
    scheduled: float = 0.0
    memory_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the Eventlet Deployment as the API server sees it."""

    name: str
    created_at: float
    ready_since: float | None
    """Unix time of the transition to Ready; None while it is not Ready."""
    terminating: bool = False
    threads: int | None = None
    """The annotation `greenfleet.io/threads`, None before the first write."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything that is known about one pool at one tick. What is missing is absent, never zero."""

    queues: tuple[QueueSample, ...]
    workers: tuple[WorkerSample, ...]
    pods: tuple[Pod, ...]
    replicas: int
    """The Deployment's `spec.replicas` now."""
    expected_queues: tuple[str, ...]
    """The pool's queues: each must have a sample."""
    problems: tuple[Problem, ...] = ()
    """What the collector already knows to be wrong (server unreachable, broker down…)."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What survives restarts and scale-to-zero (`status.learned`). None: not learned yet."""

    runtime_seconds: float | None = None
    """S: mean run time of a task."""
    cpu_per_task_seconds: float | None = None
    """k: CPU seconds per started task."""
    safe_threads: int | None = None
    """c_safe: green threads that one worker bears."""
    startup_seconds: float | None = None
    """From the pod's creation to Ready."""


class DecisionReason(enum.StrEnum):
    """What moved or held a decision; the `reason` of `ScalingLimited` where it kept the pool smaller."""

    NONE = "WithinLimits"
    IDLE = "Idle"
    RATE = "ArrivalRate"
    DEADLINE = "Deadline"
    MIN = "MinReplicas"
    MAX = "MaxReplicas"
    SCHEDULE = "Schedule"
    TOTAL = "TotalGreenThreads"
    BEHAVIOR = "Behavior"
    STABILIZATION = "Stabilization"
    COOLDOWN = "Cooldown"
    BACKLOG = "Backlog"
    METRICS_MISSING = "MetricsMissing"
    FLOOR = "MetricsMissingFloor"
    PAUSED = "Paused"
    MANUAL = "ManualReplicas"
    SATURATED_DOWNSTREAM = "NoMoreThroughput"
    SAFE_THREADS = "SafeThreads"
    ACTIVATION = "Activation"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One thing that moved or held the decision, in the order in which the autoscaler applied it."""

    reason: DecisionReason
    dimension: str
    """`workers` or `threads`."""
    before: int
    after: int
    text: str
    """A plain sentence; numbers are allowed here, for it goes to `why`, not to a condition."""
    until: float | None = None
    """Unix time at which a hold ends, where that is known."""


@dataclass(frozen=True, slots=True)
class Why:
    """The reason of one decision."""

    at: float
    inputs: tuple[tuple[str, float], ...]
    """Name and value of what was seen and derived."""
    adjustments: tuple[Adjustment, ...]
    binding: DecisionReason
    """What decided the number of workers in the end."""
    summary: str
    """One plain sentence."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the fleet should look like now. The controller writes it down; it never adds to it."""

    replicas: int
    """Eventlet workers wanted. Equal to `Sample.replicas` when the autoscaler holds."""
    threads: int
    """Green threads wanted in each worker, running or new."""
    metrics_issues: tuple[Problem, ...]
    """Empty when the metrics are complete; else why it is not, most telling first."""
    active: bool
    """Condition `ScalingActive`: False while paused, manual, or without metrics."""
    limited: DecisionReason
    """`DecisionReason.NONE`, or what keeps the pool smaller than the load asks for."""
    learned: Learned
    why: Why
