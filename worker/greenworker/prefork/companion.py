"""The prefork companion: the same metrics, health and drain around Celery's own process pool.

`task_pool.py` counts the tasks, `consumer.py` settles their messages, `steps.py` beats, `drain.py` ends it.
"""

from __future__ import annotations

from typing import Any

from celery.worker import state

from greenworker.monitoring.metrics import Gauge
from greenworker.prefork.steps import Consuming, ParentStep
from greenworker.prefork.task_pool import TaskPool
from greenworker.runtime import Runtime


def install(runtime: Runtime, app: Any) -> None:
    """Put all of it into the app that is about to start."""
    from celery import signals  # noqa: PLC0415 - beside what it is for

    worker: Any = None

    def use_our_pool(sender: Any, **_: Any) -> None:
        nonlocal worker
        worker = sender
        sender.pool_cls = TaskPool

    def processes() -> float:
        pool = getattr(worker, "pool", None)
        return float(pool.num_processes) if pool is not None else 0.0

    signals.worker_init.connect(use_our_pool, weak=False)
    app.steps["worker"].add(ParentStep)
    app.steps["consumer"].add(Consuming)
    for family in (
        Gauge("greenworker_threads_limit", "Processes that may run tasks now.", processes),
        Gauge("greenworker_threads_busy", "Tasks that run now.", lambda: len(state.active_requests)),
    ):
        runtime.accounting.registry.add(family)
