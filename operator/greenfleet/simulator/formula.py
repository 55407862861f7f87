"""The least that an autoscaler can be: three formulas over what Prometheus shows. Whatever is more has to be better
than this.

Workers for the rate: arrivals / μ. Workers for the deadline: backlog / (μ · (maxWait - start-up)). Green threads: 0.9 ·
S / k · cores.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import ceil
from statistics import median

from greenfleet.autoscaling.model import Sample, WorkerSample

from .fleet import IDLE_CORES, Fleet, task_cores
from .observation import Observatory
from .traces import Trace

THREADS_START, THREADS_MIN, THREADS_MAX = 100, 10, 1000
CORE_SHARE = 0.9
RATE_SECONDS = 30.0
HALF_LIFE_SECONDS = 15.0
SCALE_IN_SECONDS = 30.0
"""Workers go when for so long fewer were needed."""
LEAST_SHARE = 0.3
"""Of maxWait: the time to clear a backlog, where the start-up takes more."""


@dataclass
class Formula:
    """An autoscaler of 60 lines."""

    name: str = "formula"
    period: float = 2.0

    def start(self, trace: Trace) -> int:
        self._trace, self._cores = trace, task_cores(trace)
        self._workers: dict[str, WorkerSample] = {}
        self._waiting: float | None = None
        self._scraped_at = self._busy_at = 0.0
        self._ended = self._runtime = self._tasks = self._cpu = 0.0
        self._arrivals: list[tuple[float, float]] = []
        self._needs: list[tuple[float, int]] = []
        return THREADS_START

    def act(self, fleet: Fleet, seen: Observatory) -> None:
        sample = seen.sample()
        if sample.problems or not sample.queues:
            return
        self._learn(sample)
        waiting = self._waiting or 0.0
        run_time = self._runtime / self._ended if self._ended >= 1 else 1.0
        cpu = self._cpu / self._tasks if self._tasks >= 1 else 0.0
        threads = THREADS_START if cpu <= 0 else round(CORE_SHARE * run_time / cpu * self._cores)
        threads = max(THREADS_MIN, min(THREADS_MAX, threads))
        one = threads / run_time if cpu <= 0 else min(threads / run_time, self._cores / cpu)
        took = [pod.ready_since - pod.created_at for pod in sample.pods if pod.ready_since is not None]
        left = max(LEAST_SHARE * self._trace.max_wait, self._trace.max_wait - max(took, default=10.0))
        need = max(ceil(self._rate(fleet.now, seen.interval) / one), ceil(waiting / (one * left)))
        if waiting or fleet.unacked:
            self._busy_at = fleet.now
        need = max(need, 1 if fleet.now - self._busy_at < self._trace.cooldown and fleet.replicas else 0)
        self._needs = [(at, past) for at, past in self._needs if at > fleet.now - SCALE_IN_SECONDS]
        self._needs.append((fleet.now, need))
        replicas = max(past for _, past in self._needs) if need < fleet.replicas else need
        replicas = min(replicas, self._trace.replicas_max)
        if replicas != fleet.replicas:
            fleet.scale(replicas)
        if abs(threads - fleet.threads) >= 0.1 * fleet.threads:
            fleet.set_threads(threads)

    def _learn(self, sample: Sample) -> None:
        at = (
            max(sample.queues[0].at, *(worker.at for worker in sample.workers))
            if sample.workers
            else sample.queues[0].at
        )
        passed, self._scraped_at = max(0.0, at - self._scraped_at), at
        keep = 0.5 ** (passed / HALF_LIFE_SECONDS)
        started = ended = runtime = cpu = 0.0
        for worker in sample.workers:
            before = self._workers.get(worker.pod)
            started += worker.started - (before.started if before else 0.0)
            if before is not None:
                ended += worker.finished - before.finished
                runtime += worker.runtime_sum_seconds - before.runtime_sum_seconds
                cpu += max(0.0, worker.cpu_seconds - before.cpu_seconds - IDLE_CORES * (worker.at - before.at))
            self._workers[worker.pod] = worker
        waiting = sample.queues[0].ready + sum(worker.reserved for worker in sample.workers)
        self._arrivals.append((at, max(0.0, started + waiting - (self._waiting or 0.0))))
        self._waiting = waiting
        self._ended, self._runtime = self._ended * keep + ended, self._runtime * keep + runtime
        self._tasks, self._cpu = self._tasks * keep + (started + ended) / 2, self._cpu * keep + cpu

    def _rate(self, now: float, scrape_seconds: float) -> float:
        window = max(RATE_SECONDS, 3 * scrape_seconds)
        self._arrivals = [(at, amount) for at, amount in self._arrivals if at > now - window]
        spans = [(b - a, amount) for (a, _), (b, amount) in itertools.pairwise(self._arrivals) if b > a]
        return median(amount / span for span, amount in spans) if spans else 0.0
