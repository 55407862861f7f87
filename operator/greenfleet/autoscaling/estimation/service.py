"""What one worker of this pool can do: run time, CPU per task, start-up, and the share of the model that it reaches.

Every estimate is a ratio of sums over the same interval, so that a busy second weighs more than an idle one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, sqrt

from ..model import Learned, Pod, ScalingSpec
from ..tuning import DEFAULT, Tuning
from ..validation import Observation
from .counters import CounterDelta


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two sums that forget."""

    total: float = 0.0
    weight: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.weight if self.weight > 0 else 0.0

    def add(self, total: float, weight: float, keep: float = 1.0) -> Ratio:
        return Ratio(self.total * keep + total, self.weight * keep + weight)


@dataclass(frozen=True, slots=True)
class Service:
    """What was learned, with the sums that it comes from."""

    runtime_seconds: float | None = None
    """S: mean run time of a task, without what it waits for its own worker's core."""
    runtime: Ratio = Ratio()
    running_seconds: float = 0.0
    """Summed over the tasks that ran before any had ended."""
    runtime_measured: bool = False
    """Whether a hub with time to spare has shown the run time."""
    cpu_per_task_seconds: float | None = None
    """k: CPU seconds per task."""
    cpu: Ratio = Ratio()
    cpu_busy: Ratio = Ratio()
    """The same as `cpu` while the hubs were busy; it does not age while they are not."""
    efficiency: float = 1.0
    """Measured rate of saturated workers over the rate that `min(c/S, cores/k)` promises."""
    startup_seconds: float | None = None
    counted_pods: tuple[str, ...] = ()
    """Pods whose start-up was taken, so that a container that restarts does not count twice."""

    @classmethod
    def restored(cls, learned: Learned, tuning: Tuning = DEFAULT) -> Service:
        """What an earlier life of the operator had learned: it weighs as much as a few tasks of today."""
        runtime, cpu, tasks = learned.runtime_seconds, learned.cpu_per_task_seconds, tuning.restored_tasks
        old_runtime, old_cpu = (Ratio(tasks * old, tasks) if old else Ratio() for old in (runtime, cpu))
        found = cls(runtime, old_runtime, startup_seconds=learned.startup_seconds)
        return replace(found, cpu_per_task_seconds=cpu, cpu=old_cpu, cpu_busy=old_cpu)

    def update(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, tuning: Tuning = DEFAULT
    ) -> Service:
        """After one more interval."""
        if delta.seconds <= 0:
            return self
        learned = self._learn_runtime(spec, observation, delta, tuning)._learn_cpu(spec, delta, tuning)
        return learned._learn_efficiency(spec, observation, delta, tuning) if tuning.uses("efficiency") else learned

    def _learn_runtime(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, tuning: Tuning
    ) -> Service:
        """Green threads must not grow on run time that they inflated themselves: while hubs are saturated, tasks wait
        for their own core, and S may fall, but not rise. Until it was measured on a hub with time to spare, it falls by
        itself.

        Before any task has ended, S is at least what the tasks that run took so far.
        """
        known, total, runtime = self.runtime_seconds, delta.runtime_sum_seconds, self.runtime
        if delta.runtime_count <= 0:
            running = self.running_seconds + delta.running_seconds
            if runtime.weight > 0 or not tuning.uses("running-tasks"):
                return self
            age = running / max(1.0, observation.busy)
            longer = age > max(known or 0.0, tuning.runtime_seconds) and delta.hub_utilisation < tuning.saturated
            return replace(self, running_seconds=running, runtime_seconds=age if longer else known)
        old = kept(delta.seconds, tuning.half_life_seconds)
        full = delta.hub_utilisation >= tuning.saturated and not delta.blocked(tuning) and tuning.uses("own-wait")
        if full and known is not None:
            cpu, shrink = self.cpu_per_task_seconds or 0.0, 1.0
            if not self.runtime_measured and cpu_threads(known, cpu, spec.cpu_limit_cores) > spec.threads_min:
                shrink = old
            runtime = Ratio(runtime.total * shrink, runtime.weight)
            total = min(total, known * shrink * delta.runtime_count)
        runtime = runtime.add(total, delta.runtime_count, old)
        known = runtime.mean if runtime.weight >= 1 and runtime.total > 0 else known
        measured = self.runtime_measured or not full
        return replace(self, runtime=runtime, runtime_seconds=known, runtime_measured=measured)

    def _learn_cpu(self, spec: ScalingSpec, delta: CounterDelta, tuning: Tuning) -> Service:
        """CPU over the mean of started and finished tasks, for a task burns some before its I/O and some after it.

        A message that comes alone costs a wake-up and a round trip of its own, so k is that of busy hubs, unless tasks
        have become cheaper.
        """
        tasks = (delta.cpu_started + delta.cpu_finished) / 2
        if delta.cpu_started == 0:
            return self
        used = max(0.0, delta.cpu_seconds - tuning.idle_cores * delta.cpu_worker_seconds)
        old, known, busy = kept(delta.seconds, tuning.half_life_seconds), self.cpu_per_task_seconds, self.cpu_busy
        cpu = self.cpu.add(used, tasks, old)
        if delta.hub_utilisation >= tuning.utilisation and not delta.blocked(tuning):
            busy = busy.add(used, tasks, old)
        if cpu.total >= tuning.cpu_believed_seconds * spec.cpu_limit_cores:
            known = cpu.mean
            if busy.weight > 0 and tuning.uses("unbatched-cost"):
                known = min(known, max(busy.mean, tuning.unbatched * known))
        return replace(self, cpu=cpu, cpu_busy=busy, cpu_per_task_seconds=known)

    def _learn_efficiency(
        self, spec: ScalingSpec, observation: Observation, delta: CounterDelta, tuning: Tuning
    ) -> Service:
        """Saturated workers show what the model leaves out: fetching, uneven distribution, a node short of CPU."""
        runtime, cpu = self.runtime_seconds, self.cpu_per_task_seconds
        serving = {pod.name for pod in observation.serving}
        samples = [worker for worker in observation.workers if worker.pod in serving]
        limit = sum(worker.threads_limit for worker in samples)
        if runtime is None or cpu is None or limit <= 0 or delta.cpu_worker_seconds <= 0:
            return self
        if any(worker.threads_busy > worker.threads_limit for worker in samples):
            return self  # their limit was lowered; they start nothing until enough tasks have ended
        cpu_rate = cores_for_tasks(spec, tuning) / cpu if cpu > 0 else inf
        promised = min(limit / len(serving) / runtime, cpu_rate)
        waited = min(observation.ready, delta.unstarted_before)
        saturated = waited > tuning.backlog_seconds * promised * len(serving) and not delta.blocked(tuning)
        seen = delta.cpu_started / delta.cpu_worker_seconds / promised
        target, half_life = min(1.0, max(tuning.least_efficiency, seen)), tuning.half_life_seconds / 2
        if not saturated or runtime > half_life:
            target, half_life = 1.0, tuning.half_life_seconds * 8
        weight = 1 - kept(delta.seconds, half_life)
        return replace(self, efficiency=self.efficiency + weight * (target - self.efficiency))

    def learn_startup(self, pods: tuple[Pod, ...], since: float, tuning: Tuning) -> Service:
        """Creation to Ready of every pod whose first Ready we could see."""
        startup, counted = self.startup_seconds, set(self.counted_pods)
        for pod in pods:
            if pod.ready_since is None or pod.name in counted:
                continue
            counted.add(pod.name)
            took, witnessed = pod.ready_since - pod.created_at, pod.created_at >= since or startup is None
            if witnessed and 0 <= took <= tuning.longest_seconds:
                startup = took if startup is None else (startup + took) / 2
        names = tuple(pod.name for pod in pods if pod.name in counted)
        return self if names == self.counted_pods else replace(self, startup_seconds=startup, counted_pods=names)


@dataclass(frozen=True, slots=True)
class Capacity:
    """One worker of this pool: how many green threads it bears and how fast it then starts tasks."""

    runtime_seconds: float
    cpu_per_task_seconds: float
    cpu_rate: float
    """Tasks per second that the core allows."""
    efficiency: float
    startup_seconds: float
    safe_threads: int

    @property
    def rate(self) -> float:
        """Tasks per second with all green threads: μ = min(c/S, cores/k), as far as it was reached."""
        return self.efficiency * min(self.safe_threads / self.runtime_seconds, self.cpu_rate)


def kept(seconds: float, half_life_seconds: float) -> float:
    """The share of a sum that is not yet forgotten."""
    return float(0.5 ** (seconds / half_life_seconds))


def cores_for_tasks(spec: ScalingSpec, tuning: Tuning) -> float:
    """What is left when the worker has looked after itself: in a pod of a tenth of a core, a tenth less."""
    return max(spec.cpu_limit_cores / 2, spec.cpu_limit_cores - tuning.idle_cores)


def cpu_threads(runtime: float, cpu: float, cores: float) -> float:
    """Green threads that keep the core busy: with c tasks of which each needs k of S seconds, it is c·k/S busy.

    With 16 tasks in flight on average, all of them are often in their I/O at once; the square root covers that (Halfin
    and Whitt, 1981).
    """
    enough = cores * runtime / cpu if cpu > 0 else inf
    return enough + sqrt(enough)
