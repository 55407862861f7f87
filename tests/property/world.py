"""A small fluid fleet for properties: deterministic, quick, and easy to lie about.

Amounts flow instead of tasks being simulated one by one; the discrete-event fleet is `greenfleet.simulator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from greenfleet.autoscaling import decide, initial_state
from greenfleet.autoscaling.model import (
    Decision,
    Learned,
    MetricsIssue,
    Pod,
    Problem,
    QueueSample,
    Sample,
    ScalingSpec,
    WorkerSample,
)
from greenfleet.deletion_order import deletion_order

TICK = 2.0
START = 1_800_000_000.0


@dataclass
class FluidPod:
    name: str
    created_at: float
    limit: int
    ready_at: float | None = None
    leaving_until: float | None = None
    busy: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    runtime_sum: float = 0.0
    cpu: float = 0.0
    hub: float = 0.0
    """Busy for as long as it has CPU, at the machine's full speed, until the limit throttles it; from then on all the
    time.
    """


@dataclass
class World:
    """Advance with `tick(rate, burst)`; the autoscaler decides at every tick and is obeyed at once."""

    spec: ScalingSpec
    runtime: float = 1.0
    cpu: float = 0.003
    startup: float = 4.0
    drain: float = 4.0
    now: float = START
    backlog: float = 0.0
    replicas: int = 0
    pods: list[FluidPod] = field(default_factory=list)
    learned: Learned = field(default_factory=Learned)

    def __post_init__(self) -> None:
        self.state = initial_state(self.learned, self.now)
        self.threads = self.spec.threads_start
        self.decisions: list[Decision] = []
        self._names = 0
        self._obey(self.replicas)
        for pod in self.pods:
            pod.ready_at = self.now - 60
            pod.created_at = self.now - 64

    # --- the fleet
    # ------------------------------------------------------------------------------------------------------

    def _obey(self, replicas: int, first: tuple[str, ...] = ()) -> None:
        self.replicas = replicas
        alive = [pod for pod in self.pods if pod.leaving_until is None]
        for _ in range(replicas - len(alive)):
            self._names += 1
            self.pods.append(FluidPod(f"pod-{self._names}", self.now, self.threads))
        order = {name: index for index, name in enumerate(first)}
        alive.sort(key=lambda pod: order.get(pod.name, 0))
        for pod in alive[: max(0, len(alive) - replicas)]:
            if pod.ready_at is None:
                self.pods.remove(pod)
            else:
                pod.leaving_until = self.now + self.drain

    def flow(self, rate: float, burst: float = 0.0) -> None:
        """One tick of work."""
        self.now += TICK
        self.backlog += rate * TICK + burst
        self.pods = [pod for pod in self.pods if pod.leaving_until is None or pod.leaving_until > self.now]
        for pod in self.pods:
            if pod.ready_at is None and self.now - pod.created_at >= self.startup:
                pod.ready_at = pod.created_at + self.startup
        serving = [pod for pod in self.pods if pod.ready_at is not None and pod.leaving_until is None]
        work = [self._did(pod, serving) for pod in serving]
        for pod, did in zip(serving, work, strict=True):
            used = did * self.cpu
            pod.started += did
            pod.finished += did
            pod.runtime_sum += did * self.runtime
            pod.cpu += used
            pod.hub += TICK if used >= 0.95 * TICK * self.spec.cpu_limit_cores else used
            pod.busy = min(float(pod.limit), round(did / TICK * self.runtime))
        self.backlog = max(0.0, self.backlog - sum(work))
        for pod in self.pods:
            pod.cpu += 0.01 * TICK
            if pod not in serving:
                pod.busy = 0.0

    def _did(self, pod: FluidPod, serving: list[FluidPod]) -> float:
        able = TICK * min(pod.limit / self.runtime, self.spec.cpu_limit_cores / self.cpu)
        return min(able, self.backlog / len(serving))

    # --- what is seen
    # ---------------------------------------------------------------------------------------------------

    def sample(self) -> Sample:
        return Sample(
            queues=(QueueSample("q", self.now - 1.0, float(int(self.backlog)), sum(p.busy for p in self.pods)),),
            workers=tuple(self._worker(pod) for pod in self.pods if pod.ready_at is not None),
            pods=tuple(
                Pod(pod.name, pod.created_at, pod.ready_at, pod.leaving_until is not None, pod.limit)
                for pod in self.pods
            ),
            replicas=self.replicas,
            expected_queues=("q",),
        )

    def _worker(self, pod: FluidPod) -> WorkerSample:
        return WorkerSample(
            pod=pod.name,
            at=self.now - 0.5,
            threads_limit=pod.limit,
            threads_busy=pod.busy,
            reserved=0,
            started=pod.started,
            finished=pod.finished,
            runtime_sum_seconds=pod.runtime_sum,
            runtime_count=pod.finished,
            cpu_seconds=pod.cpu,
            hub_busy_seconds=pod.hub,
        )

    def decide(self, fault: Callable[[Sample, float], Sample] | None = None) -> Decision:
        sample = self.sample()
        if fault is not None:
            sample = fault(sample, self.now)
        decision, self.state = decide(self.spec, self.state, sample, self.now)
        self.decisions.append(decision)
        self.threads = decision.threads
        for pod in self.pods:
            if pod.leaving_until is None:
                pod.limit = decision.threads
        self._obey(decision.replicas, deletion_order(sample.pods, sample.workers))
        return decision

    def tick(self, rate: float, burst: float = 0.0, fault: Callable[[Sample, float], Sample] | None = None) -> Decision:
        self.flow(rate, burst)
        return self.decide(fault)

    def restart(self) -> None:
        """The operator begins again with what `status.learned` kept."""
        learned = self.decisions[-1].learned if self.decisions else Learned()
        self.state = initial_state(learned, self.now)


# --- lies that Prometheus has told somebody
# -------------------------------------------------------------------------------


def unreachable(sample: Sample, now: float) -> Sample:
    return replace(
        sample, queues=(), workers=(), problems=(Problem(MetricsIssue.UNREACHABLE, "Prometheus does not answer"),)
    )


def empty(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=(), workers=())


def stale(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=tuple(replace(queue, at=now - 100) for queue in sample.queues))


def from_the_future(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=tuple(replace(queue, at=now + 100) for queue in sample.queues))


def not_a_number(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=tuple(replace(queue, ready=float("nan")) for queue in sample.queues))


def infinite(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=tuple(replace(queue, ready=float("inf")) for queue in sample.queues))


def negative(sample: Sample, now: float) -> Sample:
    return replace(sample, queues=tuple(replace(queue, ready=-1.0) for queue in sample.queues))


def contradictory(sample: Sample, now: float) -> Sample:
    (queue,) = sample.queues
    return replace(sample, queues=(queue, replace(queue, ready=2 * queue.ready + 100)))


def broker_down(sample: Sample, now: float) -> Sample:
    return replace(
        sample, queues=(), problems=(Problem(MetricsIssue.BROKER_DOWN, "the broker does not answer the exporter"),)
    )


FAULTS = (
    unreachable,
    empty,
    stale,
    from_the_future,
    not_a_number,
    infinite,
    negative,
    contradictory,
    broker_down,
)
"""Each makes validation incomplete."""


def without_workers(sample: Sample, now: float) -> Sample:
    """Metrics are missing only if a worker should have been seen."""
    return replace(sample, workers=())


def restarted_containers(sample: Sample, now: float) -> Sample:
    """Not a lie: counters that begin again."""
    return replace(
        sample,
        workers=tuple(
            replace(
                worker,
                started=1.0,
                finished=1.0,
                runtime_sum_seconds=1.0,
                runtime_count=1.0,
                cpu_seconds=0.1,
                hub_busy_seconds=0.1,
            )
            for worker in sample.workers
        ),
    )


def nearly_full(sample: Sample, now: float) -> Sample:
    """Not a lie either: every worker is near the limit of 1 GB."""
    return replace(sample, workers=tuple(replace(worker, memory_bytes=9.5e8) for worker in sample.workers))
