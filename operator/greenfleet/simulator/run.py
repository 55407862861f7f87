"""One autoscaler on one trace."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from statistics import median

from .autoscalers import Autoscaler
from .figures import Figures, percentile
from .fleet import Fleet
from .observation import Observatory
from .traces import Trace, arrivals


@dataclass(frozen=True, slots=True)
class Second:
    """The fleet at one second, for figures and plots."""

    at: float
    backlog: int
    running: int
    ready: int
    pods: int
    replicas: int
    threads: int
    oldest_wait: float


@dataclass(frozen=True, slots=True)
class Run:
    """A finished simulation."""

    autoscaler: str
    trace: Trace
    seed: int
    seconds: tuple[Second, ...]
    figures: Figures


def simulate(trace: Trace, autoscaler: Autoscaler, seed: int, scrape_seconds: float = 2.0) -> Run:
    """Run one autoscaler on one trace, scraped so often; the same seed gives the same run."""
    threads = autoscaler.start(trace)
    fleet = Fleet(trace, arrivals(trace, seed), seed, threads)
    fleet.scale(trace.start_replicas)
    seen = Observatory(fleet, seed, scrape_seconds)
    phase = random.Random(f"{seed}/tick").uniform(0.1, autoscaler.period)

    def act() -> None:
        autoscaler.act(fleet, seen)
        fleet.call_at(fleet.now + autoscaler.period, act)

    fleet.call_at(phase, act)
    seconds = []
    for at in range(1, int(trace.seconds) + 1):
        fleet.advance(float(at))
        seconds.append(_second(fleet))
    return Run(autoscaler.name, trace, seed, tuple(seconds), _figures(trace, fleet, seconds))


def _second(fleet: Fleet) -> Second:
    workers = list(fleet.workers.values())
    return Second(
        at=fleet.now,
        backlog=len(fleet.queue),
        running=fleet.unacked,
        ready=sum(1 for worker in workers if worker.serving),
        pods=len(workers),
        replicas=fleet.replicas,
        threads=sum(worker.limit for worker in workers if worker.serving),
        oldest_wait=fleet.oldest_wait,
    )


def _figures(trace: Trace, fleet: Fleet, seconds: list[Second]) -> Figures:
    measured = [second for second in seconds if second.at > trace.warmup]
    waits = sorted(wait for at, wait in fleet.waits if at > trace.warmup)
    latencies = sorted(latency for at, latency in fleet.latencies if at > trace.warmup)
    run_times = [(ran, idle) for at, ran, idle in fleet.run_times if at > trace.warmup]
    first, full = _capacity(trace, seconds)
    return Figures(
        violated_seconds=len(_violated(trace, fleet, measured)),
        wait_p50=percentile(waits, 0.5),
        wait_p99=percentile(waits, 0.99),
        wait_max=max([*waits[-1:], fleet.oldest_wait]),
        latency_p99=percentile(latencies, 0.99),
        runtime_inflation=median(ran for ran, _ in run_times) / median(idle for _, idle in run_times)
        if run_times
        else 1.0,
        worker_seconds=fleet.worker_seconds,
        thread_seconds=fleet.thread_seconds,
        first_capacity_seconds=first,
        full_capacity_seconds=full,
        scale_actions=sum(1 for one, two in itertools.pairwise(measured) if one.replicas != two.replicas),
        requeued=fleet.requeued,
        left=len(fleet.queue),
    )


def _violated(trace: Trace, fleet: Fleet, measured: list[Second]) -> set[int]:
    """Seconds in which a message had been waiting for too long: in the broker, or fetched and not started."""
    late = {int(second.at) for second in measured if second.oldest_wait > trace.max_wait}
    for deadline, started in fleet.late_starts:
        late.update(range(max(int(deadline), int(trace.warmup)) + 1, int(started) + 1))
    return late


def _capacity(trace: Trace, seconds: list[Second]) -> tuple[float | None, float | None]:
    if trace.burst_at is None:
        return None, None
    before = [second for second in seconds if second.at <= trace.burst_at]
    after = [second for second in seconds if second.at > trace.burst_at]
    threads = before[-1].threads if before else 0
    most = max(second.ready for second in after)
    first = next((second.at - trace.burst_at for second in after if second.threads > threads), None)
    full = next(second.at - trace.burst_at for second in after if second.ready == most)
    return first, full
