"""What the autoscaler remembers about one pool from tick to tick.

Immutable, bounded, and opaque to the engine: it hands back what it was given. A restart begins with `initial_state`, so
nothing in here may be needed for safety; what is expensive to learn again is in `Learned`, which the API keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import Learned

_OLD_TASKS = 5.0
"""How many tasks of today outweigh what an earlier life had learned."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Messages that arrived between two scrapes. Without length (`since == until`) it is a finding: how fast is unknown."""

    since: float
    until: float
    amount: float


@dataclass(frozen=True, slots=True)
class Counters:
    """One worker's counters at the last scrape that was used, to take differences from."""

    pod: str
    at: float
    started: float
    finished: float
    runtime_sum_seconds: float
    runtime_count: float
    cpu_seconds: float
    hub_busy_seconds: float
    hub_blocked_seconds: float
    hub_lag_sum_seconds: float
    hub_lag_count: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two sums that forget: a mean weighted by what happened, not by how often it was looked at."""

    total: float = 0.0
    weight: float = 0.0

    @property
    def mean(self) -> float:
        """Only where something is remembered."""
        return self.total / self.weight

    def add(self, total: float, weight: float, keep: float) -> Ratio:
        return Ratio(self.total * keep + total, self.weight * keep + weight)


@dataclass(frozen=True, slots=True)
class Estimates:
    """The learned quantities, with the sums that they come from."""

    runtime_seconds: float | None = None
    runtime: Ratio = Ratio()
    cpu_per_task_seconds: float | None = None
    cpu: Ratio = Ratio()
    """Before there is enough of it for an estimate, a guess."""
    cpu_alone_seconds: float = 0.0
    """Of the CPU in `cpu`, what is put down to messages that came alone."""
    cpu_crowded: Ratio = Ratio()
    """The same as `cpu` while the workers were as busy as they can be; it does not age while they are not."""
    idle_cores: float = 0.01
    """What a worker that starts nothing burns; a measured idle worker with its watchdog takes about 1 % of a core."""
    granted_cores: float | None = None
    """What the node really gives a hub that has something to do all the time; None while that was never short."""
    efficiency: float = 1.0
    """Measured throughput of saturated workers over the throughput that `min(c/S, cpu/k)` promises."""
    startup_seconds: float | None = None

    @property
    def cpu_unproven(self) -> bool:
        """Whether no worker was ever busy enough to show what tasks cost where there are many."""
        return self.cpu_per_task_seconds is not None and self.cpu_crowded.weight <= 0 < self.cpu.weight


@dataclass(frozen=True, slots=True)
class Pressure:
    """The ceiling of green threads that hub lag, CPU, memory or a flat throughput have set: drops at once, rises slowly."""

    cap: float | None = None
    moved_at: float = 0.0
    cause: str = ""
    lag: Ratio = Ratio()
    """Lateness of the hubs' beats over the last seconds."""
    inherited: bool = False
    """The ceiling comes from an earlier life, and it is not known yet whether it was pressure or just the core."""
    lift: float | None = None
    """Green threads beyond what S/k says that the cores bore idling while messages waited: run time grew faster than S was learned."""
    lifted_at: float = 0.0
    memory_low: tuple[float, float] | None = None
    """(running tasks, bytes) of the fullest worker when it was least loaded: the base of the memory slope."""


@dataclass(frozen=True, slots=True)
class Point:
    """Running tasks, throughput and mean run time of the saturated fleet at one moment."""

    at: float
    concurrency: float
    throughput: float
    runtime_seconds: float

    @property
    def passage_seconds(self) -> float:
        """After so long, everything that ran at this moment has ended (Little's law)."""
        return self.concurrency / self.throughput


@dataclass(frozen=True, slots=True)
class Scalability:
    """The running experiment: did more concurrency bring more throughput?"""

    base: Point | None = None
    """The concurrency that has proven itself, or with which the saturation began."""
    grown_at: float | None = None
    """Since when the fleet has been clearly larger than the base."""
    rung: float | None = None
    """Running tasks beyond which nothing grows until the tasks that were started there have ended."""
    fell: bool = False
    """The rung before cost throughput, which speaks for slower tasks, and was passed once."""
    frozen_until: float | None = None
    backoff_seconds: float = 60.0
    probing: bool = False
    """The freeze has run out: one careful step tells whether the downstream has recovered."""
    frozen_workers: int = 0
    frozen_threads: int = 0
    frozen: Point | None = None
    """The moment of the verdict, to check it against what the retreat brings."""
    retreat: Ratio = Ratio()
    """Tasks that ended since the retreat has settled, and seconds."""
    refuted_until: float = 0.0
    """The retreat cost throughput, so the verdict was wrong; no other one until then."""
    gain: tuple[float, float] | None = None
    """(concurrency, throughput) after over before, of the experiment that failed."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the load asked for at one tick, in one dimension."""

    at: float
    value: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the Deployment's replicas that was seen, as the HPA keeps its scale events."""

    at: float
    delta: int


@dataclass(frozen=True, slots=True)
class ColdStartMiss:
    """A moment at which only workers that were already warm could have met the objective, and how many."""

    at: float
    workers: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is remembered about one pool."""

    since: float
    """When this memory begins: a restart of the operator, or a new pool."""
    sighted_since: float | None = None
    """Since when metrics have been complete without a gap; None while blind."""
    seen_at: float | None = None
    """Scrape time of the last complete sample that was new."""
    unstarted: float = 0.0
    """Ready and reserved messages in that sample."""
    deficit: float = 0.0
    """Negative arrivals that are still to be set off: scrapes of queue and workers are not simultaneous."""
    deficit_at: float = 0.0
    counters: tuple[Counters, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    throughput: float = 0.0
    """Tasks finished per second over the last few scrapes."""
    estimates: Estimates = field(default_factory=Estimates)
    pressure: Pressure = Pressure()
    scalability: Scalability = Scalability()
    high_needs: tuple[Need, ...] = ()
    """Workers that the load asked for, as a falling sequence: enough to know the maximum of any recent window."""
    low_needs: tuple[Need, ...] = ()
    """The same as a rising sequence, for the minimum."""
    deferred_replicas: int = 0
    """Workers that the rate needs while nobody sees whether messages pile up: patience is for those who validate."""
    high_threads: tuple[Need, ...] = ()
    """Green threads that the load asked for, as a falling sequence."""
    changes: tuple[Change, ...] = ()
    replicas: int | None = None
    threads: int | None = None
    idle_since: float | None = None
    cold_start_misses: tuple[ColdStartMiss, ...] = ()
    counted_pods: tuple[str, ...] = ()
    """Pods whose start-up time was taken, so that a container that restarts does not count twice."""


def initial_state(learned: Learned, now: float) -> State:
    """The memory of a pool that has just been met, with what an earlier life had learned."""
    runtime, cpu = learned.runtime_seconds, learned.cpu_per_task_seconds
    old_cpu = Ratio(_OLD_TASKS * cpu, _OLD_TASKS) if cpu else Ratio()
    estimates = Estimates(
        runtime_seconds=runtime,
        runtime=Ratio(_OLD_TASKS * runtime, _OLD_TASKS) if runtime else Ratio(),
        cpu_per_task_seconds=cpu,
        cpu=old_cpu,
        cpu_crowded=old_cpu,
        startup_seconds=learned.startup_seconds,
    )
    cap = float(learned.safe_threads) if learned.safe_threads is not None else None
    return State(since=now, estimates=estimates, pressure=Pressure(cap=cap, moved_at=now, inherited=cap is not None))
