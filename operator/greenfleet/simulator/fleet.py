"""A fleet of Eventlet workers, event by event.

What is modelled, because it decides: messages are first in, first out; a worker fetches one message at a time through its
hub and only into a free green thread; every task needs the hub's CPU before and after its I/O, first come, first served, at
the speed of the CPU limit (so an overloaded hub fetches and finishes slower and its lag grows); pods take time to start;
a worker that leaves stops fetching, finishes what it runs and gives back what the drain cuts off. Not modelled: noise of the
node, broker latency, the result backend.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence

from greenfleet.autoscaling.capacity import cores_for_tasks

from .traces import Trace, value_at

IDLE_CORES = 0.01
"""Housekeeping of a worker, whatever else it does: beat, metrics, probes (measured: 0.010 to 0.012 of a pod of 0.1 cores)."""
LONE_CPU_SECONDS = 0.0015
"""What a message costs besides its task when nothing is fetched together with it: a ring, a wake-up, a round trip of its own (measured on
a pod of 0.1 cores: tasks of 5.4 ms in a saturated worker take 6.5 to 7.4 ms at 2 to 8 a second, `bench.worker.trickle` about 1.2 ms)."""


def task_cores(trace: Trace) -> float:
    """Of a worker's cores, what its housekeeping leaves to its tasks."""
    return cores_for_tasks(trace.cores, IDLE_CORES)


class Worker:
    """One pod with its hub."""

    __slots__ = (
        "blocked_seconds",
        "cpu_seconds",
        "created_at",
        "fetching",
        "finished",
        "gone",
        "hub_free_at",
        "hub_seconds",
        "lag_count",
        "lag_sum",
        "limit",
        "name",
        "ready_at",
        "running",
        "runtime_sum",
        "started",
        "tasks",
        "terminating",
    )

    def __init__(self, name: str, created_at: float, limit: int) -> None:
        self.name = name
        self.created_at = created_at
        self.limit = limit
        self.ready_at: float | None = None
        self.terminating = False
        self.gone = False
        self.fetching = 0
        self.running = 0
        self.tasks: dict[int, tuple[float, float]] = {}
        self.hub_free_at = created_at
        self.started = self.finished = 0
        self.runtime_sum = self.cpu_seconds = self.hub_seconds = self.blocked_seconds = 0.0
        self.lag_sum, self.lag_count = 0.0, 0

    @property
    def serving(self) -> bool:
        return self.ready_at is not None and not self.terminating


class Fleet:
    """The world that a law acts on."""

    def __init__(self, trace: Trace, publishing: Sequence[float], seed: int, threads: int) -> None:
        self.trace = trace
        self.now = 0.0
        self.replicas = 0
        self.threads = threads
        self.cores = task_cores(trace)
        self.queue: deque[float] = deque()
        self.workers: dict[str, Worker] = {}
        self.waits: list[tuple[float, float]] = []
        """(time of start, seconds waited) of every task."""
        self.latencies: list[tuple[float, float]] = []
        """(time of end, seconds since publishing) of every task."""
        self.requeued = 0
        self.worker_seconds = self.thread_seconds = 0.0
        self._publishing = publishing
        self._published = 0
        self._random = random.Random(f"{trace.name}/{seed}/fleet")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._names = 0
        self._task = 0
        self._in_io = 0
        self._deletion_order: tuple[str, ...] = ()
        self._idle: deque[Worker] = deque()
        sigma2 = math.log(1 + trace.runtime_spread**2)
        self._sigma, self._shift = math.sqrt(sigma2), -sigma2 / 2

    # --- time -----------------------------------------------------------------------------------------------------------

    def call_at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time that lies ahead."""
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, action))

    def advance(self, until: float) -> None:
        """Let everything happen that happens until then."""
        events, publishing = self._events, self._publishing
        while True:
            next_event = events[0][0] if events else math.inf
            next_message = publishing[self._published] if self._published < len(publishing) else math.inf
            upcoming = min(next_event, next_message)
            if upcoming > until:
                break
            self._pass(upcoming)
            if next_message <= next_event:
                self._published += 1
                self.queue.append(next_message)
                self._wake()
            else:
                heapq.heappop(events)[2]()
        self._pass(until)

    def _pass(self, time: float) -> None:
        passed = time - self.now
        if passed > 0:
            if self.now >= self.trace.warmup:
                self.worker_seconds += passed * len(self.workers)
                self.thread_seconds += passed * sum(w.limit for w in self.workers.values() if w.serving)
            self.now = time

    # --- the Deployment -------------------------------------------------------------------------------------------------

    def scale(self, replicas: int, deletion_order: tuple[str, ...] = ()) -> None:
        """Set the Deployment's replicas; the controller makes it so."""
        self.replicas = replicas
        self._deletion_order = deletion_order
        alive = [worker for worker in self.workers.values() if not worker.terminating]
        for _ in range(replicas - len(alive)):
            self._create()
        if replicas < len(alive):
            for worker in self._victims(alive)[: len(alive) - replicas]:
                self._terminate(worker)

    def _victims(self, alive: list[Worker]) -> list[Worker]:
        """As the ReplicaSet chooses: not Ready first, then by deletion cost, then the youngest."""
        order = {name: index for index, name in enumerate(self._deletion_order)}
        return sorted(alive, key=lambda w: (w.ready_at is not None, order.get(w.name, 0), -w.created_at))

    def _create(self) -> None:
        self._names += 1
        worker = Worker(f"pod-{self._names}", self.now, self.threads)
        self.workers[worker.name] = worker
        self.call_at(self.now + self._random.uniform(*self.trace.startup), lambda: self._become_ready(worker))

    def _become_ready(self, worker: Worker) -> None:
        if worker.terminating or worker.gone:
            return
        worker.ready_at = worker.hub_free_at = self.now
        worker.limit = self.threads
        self._fetch(worker)

    def _terminate(self, worker: Worker) -> None:
        worker.terminating = True
        if worker.running == 0:
            self._remove(worker)
        else:
            self.call_at(self.now + self.trace.drain, lambda: self._cut_off(worker))

    def _cut_off(self, worker: Worker) -> None:
        if worker.gone:
            return
        for published, _ in sorted(worker.tasks.values(), reverse=True):
            self.queue.appendleft(published)
            self.requeued += 1
        self._remove(worker)
        self._wake()

    def _remove(self, worker: Worker) -> None:
        worker.gone = True
        self.workers.pop(worker.name, None)

    def set_threads(self, threads: int) -> None:
        """A new limit for every worker, and the start value of new ones."""
        self.threads = threads
        for worker in list(self.workers.values()):
            worker.limit = threads
            self._fetch(worker)

    # --- a task's life --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """A message has come: the next worker that has a free green thread and an idle fetcher takes it."""
        while self.queue and self._idle:
            worker = self._idle.popleft()
            if not self._fetch(worker):
                continue

    def _fetch(self, worker: Worker) -> bool:
        if worker.fetching or not worker.serving or worker.gone or worker.running >= worker.limit:
            return False
        if not self.queue:
            if worker not in self._idle:
                self._idle.append(worker)
            return False
        while self.queue and worker.running < worker.limit and worker.fetching < self.trace.prefetch:
            self._take(worker, self.queue.popleft())
        return True

    def _take(self, worker: Worker, published: float) -> None:
        worker.running += 1
        worker.fetching += 1
        cpu = value_at(self.trace, "cpu", self.now) / 2 + (0.0 if self.queue else LONE_CPU_SECONDS)
        self.call_at(self._use_hub(worker, cpu, 0.0), lambda: self._start(worker, published))

    def _use_hub(self, worker: Worker, cpu: float, blocked: float) -> float:
        """The time at which the hub is done with a piece of work that is asked for now."""
        lag = max(0.0, worker.hub_free_at - self.now)
        worker.lag_sum += lag
        worker.lag_count += 1
        busy = cpu / self.cores + blocked
        worker.cpu_seconds += cpu
        worker.hub_seconds += busy if lag > 0 else cpu + blocked  # at full speed, until the quota is used
        worker.blocked_seconds += blocked
        worker.hub_free_at = self.now + lag + busy
        return worker.hub_free_at

    def _start(self, worker: Worker, published: float) -> None:
        worker.fetching -= 1
        if worker.gone:
            return
        self._task += 1
        task = self._task
        worker.tasks[task] = (published, self.now)
        worker.started += 1
        self.waits.append((self.now, self.now - published))
        self._in_io += 1
        runtime = value_at(self.trace, "runtime", self.now)
        if self._sigma > 0:
            runtime *= math.exp(self._random.gauss(self._shift, self._sigma))
        if self.trace.downstream is not None:
            runtime *= max(1.0, self._in_io / self.trace.downstream)
        self.call_at(self.now + runtime, lambda: self._io_done(worker, task))
        self._fetch(worker)

    def _io_done(self, worker: Worker, task: int) -> None:
        self._in_io -= 1
        if worker.gone:
            return
        blocking = value_at(self.trace, "blocking", self.now)
        blocked = self.trace.blocking_seconds if blocking and self._random.random() < blocking else 0.0
        cpu = value_at(self.trace, "cpu", self.now) / 2
        self.call_at(self._use_hub(worker, cpu, blocked), lambda: self._finish(worker, task))

    def _finish(self, worker: Worker, task: int) -> None:
        if worker.gone:
            return
        published, started = worker.tasks.pop(task)
        self.latencies.append((self.now, self.now - published))
        worker.running -= 1
        worker.finished += 1
        worker.runtime_sum += self.now - started
        if worker.terminating:
            if worker.running == 0:
                self._remove(worker)
            return
        self._fetch(worker)

    # --- what can be seen -----------------------------------------------------------------------------------------------

    @property
    def unacked(self) -> int:
        return sum(worker.running for worker in self.workers.values())

    @property
    def oldest_wait(self) -> float:
        """Seconds that the oldest message in the broker has been waiting."""
        return self.now - self.queue[0] if self.queue else 0.0
