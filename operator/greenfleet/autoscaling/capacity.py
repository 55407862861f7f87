"""What one worker can do, from what was learned about it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from .model import ScalingSpec
from .state import Estimates, Pressure
from .tuning import DEFAULT, Tuning

KNEE = 1.05
"""Green threads over `S/k · cores`, at which the tasks in flight need just the core. Fewer leave the core idle while messages
wait, more only queue inside the hub; what the formula misses, `pressure` and `efficiency` see."""
UNKNOWN_RUNTIME_SECONDS = 1.0
UNKNOWN_STARTUP_SECONDS = 10.0
"""Before anything was seen. Both are replaced within seconds of the first worker's start."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """One worker of this pool: how many green threads it bears and how fast it then starts tasks."""

    runtime_seconds: float
    cpu_per_task_seconds: float
    cores: float
    efficiency: float
    startup_seconds: float
    safe_threads: int
    idle_cores: float = 0.0
    """Of `cores`, what housekeeping takes."""

    @property
    def cpu_rate(self) -> float:
        """Tasks per second that the core allows."""
        if self.cpu_per_task_seconds <= 0:
            return float("inf")
        return cores_for_tasks(self.cores, self.idle_cores) / self.cpu_per_task_seconds

    def rate(self, threads: float) -> float:
        """Tasks per second of one worker with so many green threads: μ = min(c/S, cores/k), as far as it was reached."""
        return self.efficiency * min(threads / self.runtime_seconds, self.cpu_rate)


def capacity(spec: ScalingSpec, estimates: Estimates, pressure: Pressure, tuning: Tuning = DEFAULT) -> Capacity:
    """The model of one worker, with careful guesses for what nobody has measured yet."""
    runtime = estimates.runtime_seconds
    cpu = estimates.cpu_per_task_seconds or 0.0
    cores = min(spec.cpu_limit_cores, estimates.granted_cores or spec.cpu_limit_cores)
    return Capacity(
        runtime_seconds=runtime or UNKNOWN_RUNTIME_SECONDS,
        cpu_per_task_seconds=cpu,
        cores=cores,
        efficiency=estimates.efficiency,
        startup_seconds=UNKNOWN_STARTUP_SECONDS if estimates.startup_seconds is None else estimates.startup_seconds,
        safe_threads=safe_threads(spec, estimates, cores, pressure),
        idle_cores=estimates.idle_cores,
    )


def cores_for_tasks(cores: float, idle_cores: float) -> float:
    """What is left when the worker has looked after itself: in a pod of a tenth of a core, a tenth less."""
    return max(0.5 * cores, cores - idle_cores)


def cpu_threads(runtime: float, cpu: float, cores: float) -> float:
    """Green threads that keep the core busy: with c tasks of which each needs k of S seconds, it is c·k/S busy.

    In a small worker chance weighs more than the knee: with 16 tasks in flight on average, all of them are often in their I/O
    at once. The square root of their number covers that (square-root staffing: Halfin and Whitt, 1981).
    """
    if cpu <= 0:
        return float("inf")
    enough = cores * runtime / cpu
    return max(KNEE * enough, enough + sqrt(enough))


def safe_threads(spec: ScalingSpec, estimates: Estimates, cores: float, pressure: Pressure) -> int:
    """c_safe: what the core bears, and what lag, memory and observed scalability allow, within the user's bounds."""
    available = cores_for_tasks(cores, estimates.idle_cores)
    most = min(float(spec.threads_max), max(_core_bears(spec, estimates, available), pressure.lift or 0.0))
    if pressure.cap is not None:
        most = min(most, pressure.cap)
    return max(spec.threads_min, int(most))


def _core_bears(spec: ScalingSpec, estimates: Estimates, cores: float) -> float:
    """Green threads. Until the CPU per task is known, a guess may raise the start value and not lower it."""
    start, runtime, known = float(spec.threads_start), estimates.runtime_seconds, estimates.cpu_per_task_seconds
    if runtime is None:
        return start
    if known is not None:
        return cpu_threads(runtime, known, cores)
    guess = estimates.cpu
    return max(start, cpu_threads(runtime, guess.mean, cores)) if guess.total > 0 else start
