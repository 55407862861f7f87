"""The autoscalers that are compared. Each is asked once a second what it wants and keeps its own timers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Protocol

from greenfleet.autoscaling import Tuning, decide, initial_state
from greenfleet.autoscaling.constraints.hpa import highest_allowed, lowest_allowed
from greenfleet.autoscaling.model import Decision, Learned, Policy, ScalingRules, ScalingSpec
from greenfleet.autoscaling.state import Change
from greenfleet.deletion_order import deletion_order

from .fleet import Fleet, task_cores
from .formula import Formula
from .observation import Observatory
from .traces import Trace


class Autoscaler(Protocol):
    """Something that scales a fleet."""

    name: str
    period: float
    """Seconds between two calls of `act`."""

    def start(self, trace: Trace) -> int:
        """Prepare for a trace; the green threads that workers start with."""

    def act(self, fleet: Fleet, seen: Observatory) -> None:
        """Look, and change what has to be changed."""


@dataclass
class Greenfleet:
    """The operator's own autoscaler: the same `decide`, a tick of 2 s, a second until green threads follow."""

    name: str = "greenfleet"
    period: float = 2.0
    actuation_seconds: float = 1.0
    spec: ScalingSpec = field(default_factory=ScalingSpec)
    learned: Learned = field(default_factory=Learned)
    tuning: Tuning = field(default_factory=Tuning)
    decisions: list[Decision] = field(default_factory=list)

    def start(self, trace: Trace) -> int:
        self._spec = replace(
            self.spec,
            max_wait_seconds=trace.max_wait,
            replicas_max=trace.replicas_max,
            cpu_limit_cores=min(1.0, trace.cores),
            drain_seconds=trace.drain,
            cooldown_seconds=trace.cooldown,
        )
        self._state = initial_state(self.learned, 0.0)
        self.decisions = []
        return self._spec.threads_start

    def act(self, fleet: Fleet, seen: Observatory) -> None:
        self._spec = replace(self._spec, scrape_interval_seconds=seen.interval)
        sample = seen.sample()
        decision, self._state = decide(self._spec, self._state, sample, fleet.now, self.tuning)
        self.decisions.append(decision)
        if decision.replicas != fleet.replicas:
            fleet.scale(decision.replicas, deletion_order(sample.pods, sample.workers))
        if abs(decision.threads - fleet.threads) >= 0.1 * fleet.threads:
            fleet.call_at(fleet.now + self.actuation_seconds, lambda: fleet.set_threads(decision.threads))


@dataclass
class ExperiencedGreenfleet(Greenfleet):
    """Greenfleet with a pool that has run before: `status.learned` holds what the trace begins with.

    The like of `FittedKeda`, whose user has measured the same.
    """

    name: str = "greenfleet-learned"

    def start(self, trace: Trace) -> int:
        self.learned = Learned(trace.runtime, trace.cpu, startup_seconds=trace.startup[1])
        return super().start(trace)


HPA_DEFAULT_UP = ScalingRules((Policy("Percent", 100, 15), Policy("Pods", 4, 15)), "Max", 0)
HPA_DEFAULT_DOWN = ScalingRules((Policy("Percent", 100, 15),), "Max", 300)
PERMISSIVE_UP = ScalingRules((), "Max", 0)


@dataclass
class Keda:
    """KEDA 2.21 with a HorizontalPodAutoscaler of Kubernetes 1.36.

    KEDA itself moves between zero and one: active when the metric exceeds the activation threshold at a poll, inactive
    after `cooldown_seconds` without activity (`pkg/scaling/executor/scale_scaledobjects.go`). Between one and the
    maximum the HPA does, every 15 s, with an external metric and an AverageValue target: desired = ceil(metric /
    target) unless the ratio to target × replicas is within the tolerance (`replica_calculator.go`,
    GetExternalPerPodMetricReplicas); then stabilization and policies (`horizontal.go`). Without a metric both hold.
    Green threads are what the user fixed with `-c`.
    """

    name: str = "keda-default"
    period: float = 1.0
    threads: int = 100
    target: float = 100.0
    """Messages per worker."""
    count_unacked: bool = False
    poll_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    activation: float = 0.0
    sync_seconds: float = 15.0
    tolerance: float = 0.1
    up: ScalingRules = HPA_DEFAULT_UP
    down: ScalingRules = HPA_DEFAULT_DOWN

    def start(self, trace: Trace) -> int:
        self._max = trace.replicas_max
        self._next_poll = self.poll_seconds / 2
        self._next_sync = self.sync_seconds / 2
        self._last_active = 0.0
        self._recommendations: list[tuple[float, int]] = []
        self._changes: tuple[Change, ...] = ()
        return self.threads

    def act(self, fleet: Fleet, seen: Observatory) -> None:
        now = fleet.now
        metric = None if seen.outage else float(len(fleet.queue) + (fleet.unacked if self.count_unacked else 0))
        if now >= self._next_poll:
            self._next_poll += self.poll_seconds
            self._poll(fleet, metric)
        if now >= self._next_sync:
            self._next_sync += self.sync_seconds
            self._sync(fleet, metric)

    def _poll(self, fleet: Fleet, metric: float | None) -> None:
        if metric is None:
            return
        if metric > self.activation:
            self._last_active = fleet.now
            if fleet.replicas == 0:
                fleet.scale(1)
        elif fleet.replicas > 0 and fleet.now - self._last_active >= self.cooldown_seconds:
            fleet.scale(0)

    def _sync(self, fleet: Fleet, metric: float | None) -> None:
        current = fleet.replicas
        if current == 0 or metric is None:
            return  # the HPA is off at zero replicas, and without its only metric it does nothing
        ratio = metric / (self.target * current)
        desired = current if abs(1 - ratio) <= self.tolerance else ceil(metric / self.target)
        desired = self._stabilized(fleet.now, current, desired)
        if desired > current:
            allowed = highest_allowed(self.up, current, self._changes, fleet.now)
            desired = int(min(desired, allowed))
        elif desired < current:
            desired = max(desired, lowest_allowed(self.down, current, self._changes, fleet.now))
        desired = max(1, min(self._max, desired))
        if desired != current:
            self._changes = (*self._changes, Change(fleet.now, desired - current))[-64:]
            fleet.scale(desired)

    def _stabilized(self, now: float, current: int, desired: int) -> int:
        self._recommendations = [(at, value) for at, value in self._recommendations if at > now - 3600]
        up_from = now - (self.up.stabilization_window_seconds or 0)
        down_from = now - (
            300 if self.down.stabilization_window_seconds is None else self.down.stabilization_window_seconds
        )
        up = min([desired, *(value for at, value in self._recommendations if at > up_from)])
        down = max([desired, *(value for at, value in self._recommendations if at > down_from)])
        self._recommendations.append((now, desired))
        return min(max(current, up), down)


@dataclass
class FittedKeda(Keda):
    """KEDA whose user has measured the application before: polls every second, and its two numbers fit the trace as it
    begins.

    Green threads fill the core; the target is what one worker holds when it is `wait_share` of maxWait behind. Run
    time, CPU per task and cores are the true ones, which no user knows as well.
    """

    wait_share: float = 0.5

    def start(self, trace: Trace) -> int:
        cores = task_cores(trace)
        self.threads = max(10, min(1000, round(trace.runtime / trace.cpu * cores)))
        one = min(self.threads / trace.runtime, cores / trace.cpu)
        self.target = max(1.0, self.wait_share * (one * trace.max_wait))
        self.cooldown_seconds = trace.cooldown
        return super().start(trace)


@dataclass
class CeleryAutoscale:
    """Celery's own `--autoscale=MAX,MIN`: threads inside a fixed number of workers, one more a second, fewer after 30
    s.

    Measured (Eventlet pool, Celery 5.7): one green thread a second, for the prefetch grows with the pool; it never sees
    the broker's queue.
    """

    name: str = "celery-autoscale"
    period: float = 1.0
    threads_max: int = 1000
    threads_min: int = 10
    keepalive_seconds: float = 30.0

    def start(self, trace: Trace) -> int:
        del trace
        self._last_up = -inf
        return self.threads_min

    def act(self, fleet: Fleet, seen: Observatory) -> None:
        del seen
        busiest = max((worker.running for worker in fleet.workers.values()), default=0)
        if busiest >= fleet.threads and fleet.threads < self.threads_max:
            self._last_up = fleet.now
            fleet.set_threads(fleet.threads + 1)
        elif busiest < fleet.threads > self.threads_min and fleet.now - self._last_up >= self.keepalive_seconds:
            fleet.set_threads(max(self.threads_min, busiest))


def keda_tuned(threads: int, target: float, window: int, *, count_unacked: bool = True) -> Keda:
    """KEDA as well as its users can: poll every second, no limit on scaling up, a short window on scaling down."""
    return Keda(
        name=f"keda-{threads}-{target:g}-{window}{'' if count_unacked else '-ready'}",
        threads=threads,
        target=target,
        count_unacked=count_unacked,
        poll_seconds=1.0,
        up=PERMISSIVE_UP,
        down=replace(HPA_DEFAULT_DOWN, stabilization_window_seconds=window),
    )


def keda_fitted(percent: int, window: int) -> FittedKeda:
    """The same with threads and target fitted to the trace: *percent* of maxWait is what a message may usually wait."""
    return FittedKeda(
        name=f"keda-fitted-{percent}-{window}",
        count_unacked=True,
        poll_seconds=1.0,
        up=PERMISSIVE_UP,
        down=replace(HPA_DEFAULT_DOWN, stabilization_window_seconds=window),
        wait_share=percent / 100,
    )


def keda_grid() -> list[Keda]:
    """The small grid from which KEDA's best single configuration and its best one per trace are taken."""
    return [
        keda_tuned(threads, target, window)
        for threads in (100, 200, 500)
        for target in (50, 100, 200, 400, 800)
        for window in (0, 60)
    ]


AUTOSCALERS: dict[str, Callable[[], Autoscaler]] = {
    "greenfleet": Greenfleet,
    "greenfleet-learned": ExperiencedGreenfleet,
    "keda-default": Keda,
    "keda-tuned": lambda: replace(keda_tuned(500, 400, 0), name="keda-tuned"),
    "celery-autoscale": CeleryAutoscale,
    "formula": Formula,
}


WITHOUT = "greenfleet without "


def without(parts: Iterable[str]) -> Greenfleet:
    """Greenfleet with these parts switched off. Raises ValueError for one that does not exist."""
    off = sorted(set(parts))
    return Greenfleet(name=f"{WITHOUT}{','.join(off)}", tuning=Tuning(disabled=frozenset(off)))


def autoscaler_named(name: str) -> Autoscaler:
    """An autoscaler by its name, by `keda-THREADS-TARGET-WINDOW` or by `keda-fitted-PERCENT-WINDOW`."""
    if name in AUTOSCALERS:
        return AUTOSCALERS[name]()
    if name.startswith(WITHOUT):
        return without(name.removeprefix(WITHOUT).split(","))
    parts = name.split("-")
    if len(parts) == 4 and parts[0] == "keda" and all(part.isdigit() for part in parts[1:]):
        return keda_tuned(int(parts[1]), float(parts[2]), int(parts[3]))
    if len(parts) == 4 and parts[:2] == ["keda", "fitted"] and all(part.isdigit() for part in parts[2:]):
        return keda_fitted(int(parts[2]), int(parts[3]))
    known = ", ".join(AUTOSCALERS)
    raise ValueError(
        f"autoscaler {name!r} is not known; use one of {known}, keda-THREADS-TARGET-WINDOW or "
        "keda-fitted-PERCENT-WINDOW"
    )
