"""The Celery application of the bench's workers: tasks that wait, burn CPU and block as a trace says, and write
themselves down.

It is mounted into the worker's pods from a ConfigMap, so it stands alone. The trace comes in `BENCH_TASKS` (JSON). What
a task is like depends on when it starts (`changes` of the trace), and on its own random draw, which comes with the
message: the same for every autoscaler.
"""

from __future__ import annotations

import json
import os
import random
import time
from functools import cache
from typing import Any

import redis
from celery import Celery
from eventlet import patcher

TRACE: dict[str, Any] = json.loads(os.environ.get("BENCH_TASKS", "{}"))
OVERHEAD_CPU = float(os.environ.get("BENCH_OVERHEAD_CPU", "0"))
"""CPU seconds that worker and ledger need for a task that does nothing (measured): part of the trace's `cpu`."""
BEGAN_KEY, ENTRIES, IN_IO = "began", "ledger", "in-io"

if TRACE.get("startup"):
    time.sleep(random.uniform(*TRACE["startup"]))  # a large application that takes its time to import

app = Celery("bench_tasks")
app.conf.update(task_default_queue="work", task_ignore_result=True, timezone="UTC")

really_sleep = patcher.original("time").sleep


@cache
def ledger() -> Any:
    """Few connections for many green threads: a write takes a millisecond, and on an overloaded hub its turn comes
    late.
    """
    pool = redis.BlockingConnectionPool.from_url(os.environ["BENCH_LEDGER"], max_connections=8, timeout=600)
    return redis.Redis(connection_pool=pool)


def value_at(field: str, seconds: float) -> float:
    """As the simulator has it (`greenfleet.simulator.traces.value_at`)."""
    value = float(TRACE.get(field, 0.0))
    for change in TRACE.get("changes", ()):
        target = change.get(field)
        if target is None or seconds < change["at"]:
            continue
        over = change.get("over", 0.0)
        share = 1.0 if over <= 0 else min(1.0, (seconds - change["at"]) / over)
        value += (target - value) * share
    return value


def burn(cpu_seconds: float) -> None:
    """Use the CPU, not the clock: a throttled worker takes longer for it."""
    end = time.thread_time() + cpu_seconds
    while time.thread_time() < end:
        pass


@app.task(name="bench.work", bind=True, acks_late=True)
# As the message has them.
def work(self: Any, number: int, published: float, began: float, factor: float, luck: float) -> None:  # noqa: PLR0917
    """One task: half of its CPU, its I/O, the other half."""
    started = time.time()
    at = started - began
    ledger().rpush(ENTRIES, f"s {number} {published:.3f} {started:.3f}")
    cpu = max(0.0, value_at("cpu", at) - OVERHEAD_CPU) / 2
    burn(cpu)
    runtime = value_at("runtime", at) * factor
    downstream = TRACE.get("downstream")
    if downstream:
        runtime *= max(1.0, ledger().incr(IN_IO) / downstream)
    time.sleep(runtime)
    if downstream:
        ledger().decr(IN_IO)
    if luck < value_at("blocking", time.time() - began):
        really_sleep(TRACE.get("blocking_seconds", 1.0))
    burn(cpu)
    ledger().rpush(ENTRIES, f"e {number} {time.time():.3f}")
