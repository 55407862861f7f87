"""No-op tasks: tasks per second and CPU per task of one worker on one core; ours, stock Celery and dramatiq in turn.

The last line is one JSON object. Absolute figures depend on the machine; the ratios within one run are what counts.
docs/worker-bench.md says what each key is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.machine import Cores, Patience, cpu_seconds, end_in_order, resident_mb
from bench.peers.lanes import Lane, start_broker
from bench.peers.variants import Running, Variant

OURS, TUNED, DEFAULTS = "ours", "stock, tuned", "stock, defaults"
COMPANION, PREFORK = "ours, prefork", "stock, prefork"
GEVENT, THREADS = "dramatiq-gevent", "dramatiq, 8 threads"
PROCESSES = 2
WARM, COLD = 0.9, 0.1
"""Measured between these shares of the messages left: after start-up, before the queue runs dry."""


@dataclass(frozen=True)
class Result:
    """Of one run."""

    per_second: float
    cpu_ms: float
    resident_mb: float


def variants(threads: int, tasks: int) -> list[Variant]:
    """In the order in which they take turns: what is compared runs one after the other."""
    fewer = max(1000, tasks // 4)  # for the slow ones
    return [
        Variant(OURS, "ours", "redis", threads),
        Variant(GEVENT, "dramatiq", "redis", threads, pool="gevent"),
        Variant(THREADS, "dramatiq", "redis", 8, pool="threads"),
        Variant(TUNED, "celery", "redis", threads, tasks=fewer),
        Variant(COMPANION, "ours", "redis", PROCESSES, pool="prefork", tasks=fewer),
        Variant(PREFORK, "celery", "redis", PROCESSES, pool="prefork", tasks=fewer),
        Variant(OURS, "ours", "rabbitmq", threads),
        Variant(TUNED, "celery", "rabbitmq", threads),
        Variant(GEVENT, "dramatiq", "rabbitmq", threads, pool="gevent"),
        Variant(THREADS, "dramatiq", "rabbitmq", 8, pool="threads"),
        Variant(COMPANION, "ours", "rabbitmq", PROCESSES, pool="prefork", tasks=fewer),
        Variant(PREFORK, "celery", "rabbitmq", PROCESSES, pool="prefork", tasks=fewer),
        Variant(DEFAULTS, "celery", "rabbitmq", threads, defaults=True, tasks=700),
    ]


def run(variant: Variant, server: Any, tasks: int, directory: Path, cores: Cores) -> Result:
    """Fill a queue, start the worker, measure it while it empties the queue."""
    count = variant.tasks or tasks
    lane = Lane(variant.broker, server, variant.framework)
    lane.fill("noop", count)
    worker = Running.start(variant, lane, directory, cores.workers)
    try:
        left_first, first = wait_until(lane, lambda left: left <= count * WARM, worker, 120)
        pids = worker.pids()
        cpu_first = cpu_seconds(pids)
        left_last, last = wait_until(lane, lambda left: left <= count * COLD, worker, 300)
        cpu = cpu_seconds(pids) - cpu_first
        done = left_first - left_last
        return Result(done / (last - first), 1000 * cpu / done, resident_mb(pids))
    finally:
        worker.stop()
        lane.drop()


def wait_until(lane: Lane, condition: Callable[[int], bool], worker: Running, seconds: float) -> tuple[int, float]:
    """What was left when *condition* was met, and when."""
    deadline = monotonic() + seconds
    while True:
        left, now = lane.left(), monotonic()
        if condition(left):
            return left, now
        worker.check()
        if now > deadline:
            raise RuntimeError(f"{left} messages were left after {seconds} s; the worker's log: {worker.log}")
        sleep(0.02)


def main() -> None:
    """The whole bench: about six minutes and at most ten, with ``--quick`` two."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__)
    parser.add_argument("--tasks", type=int, default=15_000, help="for each run (stock Celery on Redis: a quarter)")
    parser.add_argument("--threads", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", choices=["redis", "rabbitmq"])
    parser.add_argument("--patience", type=float, default=120, help="seconds to measure again what others disturbed")
    parser.add_argument("--quick", action="store_true", help="two rounds of 5,000 tasks")
    parser.add_argument("--variants", default="", help="only those whose label contains this")
    options = parser.parse_args()
    end_in_order()
    if options.quick:
        options.tasks, options.rounds = 5_000, 2
    chosen = [
        variant
        for variant in variants(options.threads, options.tasks)
        if options.only in (None, variant.broker) and options.variants in variant.label
    ]
    patience = Patience(min(20, options.patience) if options.quick else options.patience)
    cores = Cores.split()
    os.sched_setaffinity(0, cores.rest)  # the brokers inherit it
    print(f"workers on CPU {sorted(cores.workers)}, brokers and this process on {sorted(cores.rest)}")
    results: dict[tuple[str, str], list[Result]] = {(variant.broker, variant.label): [] for variant in chosen}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        servers: dict[str, Any] = {}
        try:
            for broker in sorted({variant.broker for variant in chosen}):
                servers[broker] = start_broker(broker, root / broker)
            for number in range(options.rounds):
                for variant in chosen:
                    if variant.defaults and number:
                        continue
                    measure = partial(run, variant, servers[variant.broker], options.tasks, root, cores)
                    result = patience.measure(measure)
                    results[variant.broker, variant.label].append(result)
                    print(line(variant.broker, variant.label, result), flush=True)
        finally:
            for server in servers.values():
                server.stop()
    print("\nmedians")
    for (broker, label), found in results.items():
        print(line(broker, label, median(found)))
    if patience.disturbed:
        print(f"{patience.disturbed} measurements were disturbed by others; see above")
    print(json.dumps(summary(results)))


def line(broker: str, label: str, result: Result) -> str:
    """For a person."""
    return (
        f"{broker:9} {label:20} {result.per_second:8,.0f} tasks/s {result.cpu_ms:7.3f} ms CPU/task "
        f"{result.resident_mb:5.0f} MB"
    )


def median(found: list[Result]) -> Result:
    """Of each figure by itself."""
    return Result(
        *(statistics.median(values) for values in zip(*(asdict(result).values() for result in found), strict=True))
    )


def summary(results: dict[tuple[str, str], list[Result]]) -> dict[str, float | None]:
    """The keys of docs/worker-bench.md; None for what this run did not measure."""
    medians = {key: median(found) for key, found in results.items() if found}

    def rate(broker: str, *labels: str) -> float | None:
        rates = [medians[broker, label].per_second for label in labels if (broker, label) in medians]
        return max(rates, default=None)

    def cpu(broker: str, label: str) -> float | None:
        return medians[broker, label].cpu_ms if (broker, label) in medians else None

    def ratio(above: float | None, below: float | None) -> float | None:
        return round(above / below, 3) if above and below else None

    overhead = ratio(cpu("rabbitmq", OURS), cpu("rabbitmq", TUNED))
    return {
        "agent_cpu_overhead": round(overhead - 1, 3) if overhead else None,
        "rabbitmq_prefork_vs_stock": ratio(rate("rabbitmq", COMPANION), rate("rabbitmq", PREFORK)),
        "rabbitmq_speedup_vs_default": ratio(rate("rabbitmq", OURS), rate("rabbitmq", DEFAULTS)),
        "rabbitmq_speedup_vs_tuned": ratio(rate("rabbitmq", OURS), rate("rabbitmq", TUNED)),
        "rabbitmq_vs_dramatiq": ratio(rate("rabbitmq", OURS), rate("rabbitmq", GEVENT, THREADS)),
        "rabbitmq_vs_dramatiq_gevent": ratio(rate("rabbitmq", OURS), rate("rabbitmq", GEVENT)),
        "redis_prefork_vs_stock": ratio(rate("redis", COMPANION), rate("redis", PREFORK)),
        "redis_speedup_vs_stock": ratio(rate("redis", OURS), rate("redis", TUNED)),
        "redis_cpu_vs_stock": ratio(cpu("redis", OURS), cpu("redis", TUNED)),
        "redis_vs_dramatiq": ratio(rate("redis", OURS), rate("redis", GEVENT, THREADS)),
        "redis_vs_dramatiq_gevent": ratio(rate("redis", OURS), rate("redis", GEVENT)),
    }


if __name__ == "__main__":
    main()
