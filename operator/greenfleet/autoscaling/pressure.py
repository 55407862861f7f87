"""The ceiling of green threads that the workers themselves set: additive increase, multiplicative decrease.

The core's own ceiling (`capacity.cpu_threads`) is a formula; what it cannot know shows up as pressure: a hub that lags because it is
saturated, a node that throttles, memory that grows with every running task. (AIMD: Chiu and Jain, 1989.)
"""

from __future__ import annotations

from dataclasses import replace

from .capacity import KNEE, Capacity, safe_threads
from .learning import CounterDelta
from .model import ScalingSpec
from .state import Estimates, Pressure
from .tuning import Tuning
from .validation import Observation

SATURATED = 0.95
LAG_HALF_LIFE_SECONDS = 4.0
LAG_SECONDS = 0.3
"""Mean lateness of the hub's beat at which tasks begin to feel it."""
MEMORY_FULL = 0.9
MEMORY_GOAL = 0.85
_DROP_EVERY_SECONDS = 6.0
_RISE_EVERY_SECONDS = 10.0
LIFT_BELOW = 0.8
"""Of the core: what is busier has its S/k right."""
LIFT_MOST = 1.5
"""At once; the next lift waits until the tasks of this one have ended, as far as is known."""
_LIFT_KEPT_SECONDS = 60.0


def recognise(pressure: Pressure, spec: ScalingSpec, estimates: Estimates, tuning: Tuning) -> Pressure:
    """What an earlier life learned as safe, once the spec is known: a ceiling only where the core would bear more."""
    if not pressure.inherited or pressure.cap is None:
        return pressure
    bears = safe_threads(spec, estimates, spec.cpu_limit_cores, Pressure())
    if pressure.cap >= 0.8 * bears:
        return replace(pressure, cap=None, inherited=False)
    return replace(pressure, inherited=False, cause="learned before the operator was restarted")


def update(
    pressure: Pressure,
    spec: ScalingSpec,
    view: Observation,
    progress: CounterDelta,
    *,
    worker: Capacity,
    now: float,
    tuning: Tuning,
) -> Pressure:
    """The ceiling after one more interval."""
    limits = [sample.threads_limit for sample in view.workers]
    if not limits or progress.worker_seconds <= 0:
        return pressure
    threads = max(limits)
    keep: float = 0.5 ** (progress.seconds / LAG_HALF_LIFE_SECONDS)
    lag = pressure.lag.add(progress.hub_lag_sum_seconds, progress.hub_lag_count, keep)
    pressure = replace(pressure, lag=lag)
    if tuning.uses("memory"):
        pressure = _memory(pressure, spec, view)
    if tuning.uses("raised-limit"):
        pressure = _lift(pressure, spec, view, progress, worker)
    wanted, cause = _drop(pressure, spec, view, progress, cores=worker.cores, threads=threads, tuning=tuning)
    if wanted < (pressure.cap if pressure.cap is not None else float("inf")):
        if now - pressure.moved_at < max(_DROP_EVERY_SECONDS, 3 * spec.scrape_interval_seconds):
            return pressure
        return replace(pressure, cap=max(float(spec.threads_min), wanted), moved_at=now, cause=cause)
    return _rise(pressure, spec, progress, worker, now)


def _drop(
    pressure: Pressure,
    spec: ScalingSpec,
    view: Observation,
    progress: CounterDelta,
    *,
    cores: float,
    threads: float,
    tuning: Tuning,
) -> tuple[float, str]:
    """The ceiling that the present suffering asks for; infinite when there is none."""
    used = progress.utilisation(cores)
    lag = pressure.lag.mean if pressure.lag.weight > 0 else 0.0
    saturated = used >= SATURATED and not progress.blocked
    fullest = max((sample.memory_bytes for sample in view.workers), default=0.0)
    if tuning.uses("memory") and spec.memory_limit_bytes and fullest >= MEMORY_FULL * spec.memory_limit_bytes:
        return 0.8 * threads, "memory is nearly full"
    if (bearable := _memory_bears(pressure, spec, view)) < threads:
        return bearable, "memory grows with every running task"
    if tuning.uses("hub-lag") and saturated and lag > LAG_SECONDS:
        return 0.8 * threads, "the hub lags"
    return float("inf"), ""


def _lift(
    pressure: Pressure, spec: ScalingSpec, view: Observation, progress: CounterDelta, worker: Capacity
) -> Pressure:
    """More green threads than S/k says, where all are taken, messages wait and the cores idle all the same.

    A mean of tasks that have ended is late when run time grows: the long ones have not ended yet. What the cores do is not.
    """
    now, limits = view.at, [sample.threads_limit for sample in view.workers]
    taken = view.busy >= 0.95 * sum(limits)
    if not taken or view.unstarted <= progress.started or progress.blocked or progress.cpu_worker_seconds <= 0:
        calm = pressure.lift is not None and now - pressure.lifted_at > _LIFT_KEPT_SECONDS
        return replace(pressure, lift=None) if calm else pressure
    used = progress.utilisation(worker.cores)
    settling = max(2 * spec.scrape_interval_seconds, worker.runtime_seconds)
    if used >= LIFT_BELOW or now - pressure.lifted_at < settling:
        return pressure
    return replace(pressure, lift=max(limits) * min(LIFT_MOST, KNEE / max(used, 0.01)), lifted_at=now)


def _rise(pressure: Pressure, spec: ScalingSpec, progress: CounterDelta, worker: Capacity, now: float) -> Pressure:
    if pressure.cap is None:
        return pressure
    calm = progress.cores_per_worker / worker.cores < 0.85 and progress.hub_utilisation < 0.9
    if not calm or now - pressure.moved_at < max(_RISE_EVERY_SECONDS, 3 * spec.scrape_interval_seconds):
        return pressure
    cap = 1.05 * pressure.cap + 1
    return replace(pressure, cap=None if cap >= spec.threads_max else cap, moved_at=now)


def _memory(pressure: Pressure, spec: ScalingSpec, view: Observation) -> Pressure:
    """Remember the least loaded moment of the fullest worker: two points make a slope."""
    if not spec.memory_limit_bytes or not view.workers:
        return pressure
    fullest = max(view.workers, key=lambda sample: sample.memory_bytes)
    if pressure.memory_low is None or fullest.threads_busy < pressure.memory_low[0]:
        return replace(pressure, memory_low=(fullest.threads_busy, fullest.memory_bytes))
    return pressure


def _memory_bears(pressure: Pressure, spec: ScalingSpec, view: Observation) -> float:
    """Green threads at which the line through two moments reaches 85 % of the memory limit."""
    if not spec.memory_limit_bytes or pressure.memory_low is None:
        return float("inf")
    fullest = max(view.workers, key=lambda sample: sample.memory_bytes)
    tasks = fullest.threads_busy - pressure.memory_low[0]
    growth = fullest.memory_bytes - pressure.memory_low[1]
    if tasks < 10 or growth <= 0:
        return float("inf")
    room = MEMORY_GOAL * spec.memory_limit_bytes - fullest.memory_bytes
    return max(1.0, fullest.threads_busy + room * tasks / growth)
