"""A worker with little to do: the CPU until its first task, at rest, and for a task that comes alone; ours and stock
Celery in turn.

Redis, no-op tasks, one core. Small workers pay for this: at a limit of a tenth of a core, what a worker burns at rest
is not there for tasks. The last line is one JSON object; what counts are the ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from bench.machine import Cores, cpu_seconds, end_in_order
from bench.peers.lanes import Lane, start_broker
from bench.peers.variants import Running, Variant
from bench.worker.__main__ import OURS, TUNED, wait_until

RATES = (6.0, 20.0, 100.0)
"""Tasks per second."""
_BEAT_SECONDS = 0.005
_SETTLE_SECONDS = 2.0
_FIRST_TASK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """Of one worker's life. CPU in seconds, and in cores."""

    start_cpu: float
    rest_cores: float
    cores: dict[float, float]
    """By tasks per second."""


def run(variant: Variant, lane: Lane, directory: Path, cores: Cores, seconds: float) -> Result:
    """Start a worker, let it rest, and then give it a task at a time."""
    lane.fill("noop", 1)
    worker = Running.start(variant, lane, directory, cores.workers)
    try:
        wait_until(lane, lambda left: not left, worker, _FIRST_TASK_SECONDS)
        start = cpu_seconds(worker.pids())
        sleep(_SETTLE_SECONDS)
        return Result(
            start, used(worker, lane, 0.0, seconds), {rate: used(worker, lane, rate, seconds) for rate in RATES}
        )
    finally:
        worker.stop()
        lane.drop()


def used(worker: Running, lane: Lane, rate: float, seconds: float) -> float:
    """Cores that *worker* uses while tasks come at an even *rate* per second."""
    send = lane.sender("noop")
    before, began, sent = cpu_seconds(worker.pids()), monotonic(), 0
    while (passed := monotonic() - began) < seconds:
        for number in range(sent, int(passed * rate)):
            send(number)
            sent += 1
        sleep(_BEAT_SECONDS)
    return (cpu_seconds(worker.pids()) - before) / (monotonic() - began)


def main() -> None:
    """Four minutes."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker.trickle", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each rate")
    parser.add_argument("--threads", type=int, default=100)
    options = parser.parse_args()
    end_in_order()
    cores = Cores.split()
    os.sched_setaffinity(0, cores.rest)
    variants = [
        Variant(OURS, "ours", "redis", options.threads),
        Variant(TUNED, "celery", "redis", options.threads),
    ]
    results: dict[str, list[Result]] = {variant.label: [] for variant in variants}
    with tempfile.TemporaryDirectory() as name:
        server = start_broker("redis", Path(name) / "redis")
        try:
            for _ in range(options.rounds):
                for variant in variants:
                    lane = Lane("redis", server, variant.framework)
                    result = run(variant, lane, Path(name), cores, options.seconds)
                    results[variant.label].append(result)
                    print(line(variant.label, result), flush=True)
        finally:
            server.stop()
    medians = {label: median(found) for label, found in results.items()}
    print("\nmedians")
    for label, result in medians.items():
        print(line(label, result))
    print(json.dumps(summary(medians)))


def line(label: str, result: Result) -> str:
    """For a person."""
    rates = "  ".join(f"{rate:g}/s {1000 * cores:5.1f}" for rate, cores in result.cores.items())
    return (
        f"{label:16} first task after {result.start_cpu:4.2f} s of CPU; thousandths of a core: "
        f"at rest {1000 * result.rest_cores:4.1f}  {rates}"
    )


def median(found: list[Result]) -> Result:
    """Of each figure by itself."""
    return Result(
        statistics.median(result.start_cpu for result in found),
        statistics.median(result.rest_cores for result in found),
        {rate: statistics.median(result.cores[rate] for result in found) for rate in RATES},
    )


def summary(medians: dict[str, Result]) -> dict[str, float]:
    """The keys of docs/worker-bench.md."""
    ours, stock = medians[OURS], medians[TUNED]
    return {
        "start_cpu_vs_stock": round(ours.start_cpu / stock.start_cpu, 2),
        "rest_millicores": round(1000 * ours.rest_cores, 1),
        "rest_millicores_stock": round(1000 * stock.rest_cores, 1),
        **{f"cpu_vs_stock_at_{rate:g}": round(ours.cores[rate] / stock.cores[rate], 2) for rate in RATES},
    }


if __name__ == "__main__":
    main()
