"""What nobody can beat: the fewest worker-seconds of a fleet that knows the whole trace beforehand.

Whole workers that start tasks as fast as their CPU allows, a pod's start-up paid for (the shortest of the trace) but
begun early enough, and every message started within maxWait. Found by dynamic programming over seconds, workers and
backlog; wherever seconds or tasks are rounded, in the optimum's favour. It leaves out what no autoscaler can: chance in
run times, blocked hubs, drains. So it is a lower bound, and an autoscaler's cost over it is its competitive ratio
(Borodin and El-Yaniv, Online Computation and Competitive Analysis, 1998).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil

import numpy as np

from greenfleet.simulator.fleet import task_cores
from greenfleet.simulator.traces import Trace, value_at


def fewest_worker_seconds(trace: Trace, published: Iterable[float]) -> float:
    """Of the measured time. One worker at least from the first message on: both autoscalers keep the last one for their
    cooldown.

    *published* are seconds from the trace's beginning. Infinite if no fleet within the trace's bounds keeps maxWait.
    """
    end = int(trace.seconds)
    arrived = Counter(int(at) for at in published if 0 <= at < end)
    total = np.cumsum([arrived[second] for second in range(end)])
    messages = int(total[-1]) if end else 0
    most = trace.replicas_max
    # cost[workers][backlog]: the least so far with so many Ready workers in the last second, and so much left over
    cost = np.full((most + 1, messages + 1), np.inf)
    cost[trace.start_replicas, 0] = 0.0
    startup = trace.startup[0]
    for second in range(end):
        least = 1 if total[second] or trace.start_replicas else 0
        before, cost = cost, np.full_like(cost, np.inf)
        measured = float(second >= trace.warmup)
        for workers in range(least, most + 1):
            price = np.array([_started(workers - had, second, startup, trace.warmup) for had in range(most + 1)])
            cheapest = (before + price[:, None]).min(axis=0) + measured * workers
            cost[workers] = _work(cheapest, arrived[second], _starts(trace, workers, second))
        waited = total[second - int(trace.max_wait)] if second >= trace.max_wait else 0
        cost[:, int(total[second] - waited) + 1 :] = np.inf  # what is left over came later than that
    left = np.arange(messages + 1) / max(_starts(trace, 1, end), 1e-9)
    return float((cost.min(axis=0) + left).min())


def _started(more: int, second: int, startup: float, warmup: float) -> float:
    """Worker-seconds that new workers took until they were Ready in this second, as far as they are measured."""
    if more <= 0:
        return 0.0
    if second < startup:
        return float("inf")
    return more * min(startup, max(0.0, second - warmup))


def _starts(trace: Trace, workers: int, second: int) -> int:
    """Tasks that so many workers start in one second."""
    rate = workers * task_cores(trace) / max(value_at(trace, "cpu", second), 1e-9)
    if trace.downstream is not None:
        rate = min(rate, trace.downstream / value_at(trace, "runtime", second))
    return ceil(rate)


def _work(cost: np.ndarray, arrived: int, starts: int) -> np.ndarray:
    """The costs by backlog after a second in which so many came and so many could be started."""
    after = np.full_like(cost, np.inf)
    change = arrived - starts
    if change >= 0:
        after[change:] = cost[: len(cost) - change]
    else:
        after[: len(cost) + change] = cost[-change:]
        after[0] = min(after[0], cost[: 1 - change].min())
    return after
