"""What is learned about one pool from tick to tick. Each estimator is immutable: `update(…) -> Self`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..model import Learned, Sample, ScalingSpec, WorkerSample
from ..tuning import Tuning
from ..validation import Observation
from .arrivals import Arrival, Arrivals
from .concurrency_limit import ConcurrencyLimit, capacity
from .counters import CounterDelta, subtract
from .downstream import Downstream
from .service import Capacity, Service, kept


@dataclass(frozen=True, slots=True)
class Estimates:
    """All estimators of a pool, and the last samples that they were updated with."""

    since: float
    """When this memory begins: a restart of the operator, or a new pool."""
    seen_at: float | None = None
    """Scrape time of the last complete sample that was new."""
    unstarted: float = 0.0
    """Ready and reserved messages in that sample."""
    workers: tuple[WorkerSample, ...] = ()
    arrivals: Arrivals = field(default_factory=Arrivals)
    throughput: float = 0.0
    """Tasks finished per second over the last few scrapes."""
    service: Service = field(default_factory=Service)
    limit: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    downstream: Downstream = field(default_factory=Downstream)

    def worker(self, spec: ScalingSpec, tuning: Tuning) -> Capacity:
        """The model of one worker."""
        return capacity(spec, self.service, self.limit, tuning)

    def learned(self, spec: ScalingSpec, tuning: Tuning) -> Learned:
        """What `status.learned` keeps."""
        service = self.service
        safe = self.worker(spec, tuning).safe_threads if service.runtime_seconds is not None else None
        return Learned(service.runtime_seconds, service.cpu_per_task_seconds, safe, service.startup_seconds)

    def meet(self, sample: Sample, tuning: Tuning) -> Estimates:
        """What the API server's pods tell, also where Prometheus is silent."""
        service = self.service.learn_startup(sample.pods, self.since, tuning)
        return self if service is self.service else replace(self, service=service)

    def update(
        self, spec: ScalingSpec, sample: Sample, observation: Observation, tuning: Tuning
    ) -> tuple[Estimates, CounterDelta]:
        """After one more observation. One that was seen before teaches nothing."""
        if self.seen_at is not None and observation.at <= self.seen_at:
            return self, CounterDelta()
        delta, workers = subtract(self.workers, observation, sample.pods, self.since, self.seen_at)
        delta = replace(delta, unstarted_before=self.unstarted)
        since, scrape = observation.at if self.seen_at is None else self.seen_at, spec.scrape_interval_seconds
        arrival = Arrival(since, observation.at, delta.started + observation.unstarted - self.unstarted)
        arrivals = self.arrivals.update(arrival, observation.unstarted, scrape, tuning)
        throughput = self.throughput
        if delta.seconds > 0:
            old = kept(delta.seconds, tuning.throughput_half_life_seconds)
            throughput = throughput * old + (1 - old) * delta.finished / delta.seconds
        flow = arrivals.rate(scrape, tuning), throughput
        worker = self.worker(spec, tuning)
        return replace(
            self,
            seen_at=observation.at,
            unstarted=observation.unstarted,
            workers=workers,
            arrivals=arrivals,
            throughput=throughput,
            service=self.service.update(spec, observation, delta, tuning),
            limit=self.limit.update(spec, observation, delta, worker, tuning),
            downstream=self.downstream.update(spec, observation, delta, worker, flow, tuning),
        ), delta
