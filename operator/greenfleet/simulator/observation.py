"""What Prometheus shows of a fleet: scrapes at their own moments, an exporter that polls, outages, and nothing live."""

from __future__ import annotations

import random
from dataclasses import dataclass

from greenfleet.autoscaling.model import MetricsIssue, Pod, Problem, QueueSample, Sample, WorkerSample

from .fleet import IDLE_CORES, Fleet, Worker

EXPORTER_POLL_SECONDS = 1.0
QUEUE = "queue"


@dataclass
class Observatory:
    """Scrapes a fleet every `interval` seconds, each target with a phase of its own."""

    fleet: Fleet
    seed: int
    interval: float = 2.0

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed}/scrapes")
        self._polled = 0
        self._queue: QueueSample | None = None
        self._workers: dict[str, WorkerSample] = {}
        self._targets: set[str] = set()
        self._poll()
        self.fleet.call_at(self._random.uniform(0, self.interval), self._scrape_queue)
        self._discover()

    def _poll(self) -> None:
        self._polled = len(self.fleet.queue)
        self.fleet.call_at(self.fleet.now + EXPORTER_POLL_SECONDS, self._poll)

    def _scrape_queue(self) -> None:
        if not self.outage:
            self._queue = QueueSample(QUEUE, self.fleet.now, float(self._polled), float(self.fleet.unacked))
        self.fleet.call_at(self.fleet.now + self.interval, self._scrape_queue)

    def _discover(self) -> None:
        for worker in self.fleet.workers.values():
            if worker.name not in self._targets and worker.ready_at is not None:
                self._targets.add(worker.name)
                first = self.fleet.now + self._random.uniform(0, self.interval)
                self.fleet.call_at(first, lambda worker=worker: self._scrape(worker))  # type: ignore[misc]
        self.fleet.call_at(self.fleet.now + 0.5, self._discover)

    def _scrape(self, worker: Worker) -> None:
        if worker.gone:
            self._workers.pop(worker.name, None)
            return
        if not self.outage:
            self._workers[worker.name] = sample_of(worker, self.fleet.now, self.fleet.cores)
        self.fleet.call_at(self.fleet.now + self.interval, lambda: self._scrape(worker))

    @property
    def outage(self) -> bool:
        return any(outage.at <= self.fleet.now < outage.until for outage in self.fleet.trace.outages)

    def sample(self) -> Sample:
        """What the operator's one query would answer now."""
        down = (Problem(MetricsIssue.UNREACHABLE, "Prometheus does not answer"),) if self.outage else ()
        return Sample(
            queues=(self._queue,) if self._queue is not None and not down else (),
            workers=() if down else tuple(self._workers.values()),
            pods=tuple(
                Pod(worker.name, worker.created_at, worker.ready_at, worker.terminating, worker.limit)
                for worker in self.fleet.workers.values()
            ),
            replicas=self.fleet.replicas,
            expected_queues=(QUEUE,),
            problems=down,
        )


def sample_of(worker: Worker, now: float, cores: float) -> WorkerSample:
    """One scrape of one worker; *cores* are what its hub has for tasks."""
    ahead = max(0.0, worker.hub_free_at - now)
    reserved = worker.fetching
    return WorkerSample(
        pod=worker.name,
        at=now,
        threads_limit=worker.limit,
        threads_busy=worker.running - reserved,
        reserved=reserved,
        started=worker.started,
        finished=worker.finished,
        runtime_sum_seconds=worker.runtime_sum,
        runtime_count=worker.finished,
        cpu_seconds=max(0.0, worker.cpu_seconds - ahead * cores) + IDLE_CORES * (now - worker.created_at),
        hub_busy_seconds=max(0.0, worker.hub_seconds - ahead),
        hub_blocked_seconds=worker.blocked_seconds,
        memory_bytes=60e6 + 40e3 * worker.running,
    )
