"""Samples for promises: short to write, and complete unless a test says otherwise."""

from __future__ import annotations

from greenfleet.autoscaling.model import Learned, Pod, QueueSample, Sample, ScalingSpec, WorkerSample

NOW = 1_800_000_000.0
KNOWN = Learned(runtime_seconds=0.3, cpu_per_task_seconds=0.003, safe_threads=100, startup_seconds=5.0)
SPEC = ScalingSpec(
    threads_min=10, threads_max=200, threads_start=20, replicas_max=6, max_wait_seconds=120.0, cooldown_seconds=20.0
)


def pod(
    name: str,
    *,
    now: float = NOW,
    age: float = 600.0,
    ready: bool = True,
    terminating: bool = False,
    threads: int | None = 20,
) -> Pod:
    return Pod(name, now - age, now - age + 5 if ready else None, terminating, threads)


def worker(name: str, *, now: float = NOW, busy: float = 0.0, limit: float = 20.0, **fields: float) -> WorkerSample:
    return WorkerSample(
        pod=name, at=now - 0.5, threads_limit=limit, threads_busy=busy, reserved=fields.pop("reserved", 0.0), **fields
    )


def sample(
    ready: float = 0.0,
    *,
    now: float = NOW,
    workers: int = 1,
    busy: float = 0.0,
    unacked: float = 0.0,
    replicas: int | None = None,
    **fields: float,
) -> Sample:
    names = [f"pod-{number}" for number in range(workers)]
    return Sample(
        queues=(QueueSample("q", now - 1, ready, unacked),),
        workers=tuple(worker(name, now=now, busy=busy, **fields) for name in names),
        pods=tuple(pod(name, now=now) for name in names),
        replicas=workers if replicas is None else replicas,
        expected_queues=("q",),
    )
