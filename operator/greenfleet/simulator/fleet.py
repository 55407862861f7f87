"""A fleet of Eventlet workers, event by event.

What is modelled, because it decides: messages are first in, first out; a worker fetches one message at a time through
its hub and only into a free green thread; every task needs the hub's CPU before and after its I/O, first come, first
served, at the speed of the CPU limit (so an overloaded hub fetches and finishes slower and its lag grows); pods take
time to start; a worker that leaves stops fetching, finishes what it runs and gives back what the drain cuts off. Not
modelled: noise of the node, broker latency, the result backend.

A trace chooses one of two hubs. With `fetch` a message queues for the hub before its task starts. With `core` a task
starts as soon as a green thread is free and then queues for the core itself, so that its run time counts that wait.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence

from .traces import CHANGING, Trace, value_at

IDLE_CORES = 0.01
"""Housekeeping of a worker, whatever else it does: beat, metrics, probes (measured: 0.010 to 0.012 of a pod of 0.1
cores).
"""
LONE_CPU_SECONDS = 0.0015
"""What a message costs besides its task when nothing is fetched together with it: a ring, a wake-up, a round trip of
its own (measured on a pod of 0.1 cores: tasks of 5.4 ms in a saturated worker take 6.5 to 7.4 ms at 2 to 8 a second,
`bench.worker.trickle` about 1.2 ms).
"""


LONE_CPU_MOST = 2.0
"""Of a task's own CPU, with the hub `core`: light tasks take a third of what they take alone
(docs/scaling-figures.md).
"""
CORE_SHARE = 0.95
"""Of a worker's cores, what its tasks get at most with the hub `core`: the kernel and the quota's rounding take the
rest.
"""


def task_cores(trace: Trace) -> float:
    """Of a worker's cores, what its housekeeping leaves to its tasks."""
    cores = max(trace.cores / 2, trace.cores - IDLE_CORES)
    return min(cores, CORE_SHARE * trace.cores) if trace.hub == "core" else cores


class Worker:
    """One pod with its hub."""

    __slots__ = (
        "blocked_seconds",
        "blocked_until",
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
        "ready_threads",
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
        self.tasks: dict[int, tuple[float, float, float]] = {}
        """By task: time of publishing, time of start, seconds that it would take on an idle worker."""
        self.ready_threads = 0
        self.hub_free_at = self.blocked_until = created_at
        self.started = self.finished = 0
        self.runtime_sum = self.cpu_seconds = self.hub_seconds = self.blocked_seconds = 0.0
        self.lag_sum, self.lag_count = 0.0, 0

    @property
    def serving(self) -> bool:
        return self.ready_at is not None and not self.terminating


class Fleet:
    """The world that an autoscaler acts on."""

    def __init__(self, trace: Trace, publishing: Sequence[float], seed: int, threads: int) -> None:
        self.trace = trace
        self.now = 0.0
        self.replicas = 0
        self.threads = threads
        self.cores = task_cores(trace) * trace.granted
        self.queue: deque[float] = deque()
        self.workers: dict[str, Worker] = {}
        self.waits: list[tuple[float, float]] = []
        """(time of start, seconds waited) of every task."""
        self.latencies: list[tuple[float, float]] = []
        """(time of end, seconds since publishing) of every task."""
        self.run_times: list[tuple[float, float, float]] = []
        """(time of end, run time, run time of the same task on an idle worker) of every task."""
        self.late_starts: list[tuple[float, float]] = []
        """(deadline, time of start) of every task that started after its deadline."""
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
        self._serving_threads = 0
        self._core = trace.hub == "core"
        self._has_downstream = trace.downstream is not None or any(
            change.downstream is not None for change in trace.changes
        )
        self._again: set[float] = set()
        """Times of publishing of messages that a drain gave back: they have started once, so they wait for nothing
        new.
        """
        changing = {field for change in trace.changes for field in CHANGING if getattr(change, field) is not None}
        self._constant = {field: value_at(trace, field, 0.0) for field in CHANGING if field not in changing}
        self._idle: deque[Worker] = deque()
        sigma2 = math.log(1 + trace.runtime_spread**2)
        self._sigma, self._shift = math.sqrt(sigma2), -sigma2 / 2

    def _value(self, field: str) -> float:
        constant = self._constant.get(field)
        return value_at(self.trace, field, self.now) if constant is None else constant

    # --- time ------------------------------

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
                self.thread_seconds += passed * self._serving_threads
            self.now = time

    # --- the Deployment ------------------------------

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
        startup = self._random.uniform(*self.trace.startup)
        if self.trace.stuck_pods and self._random.random() < self.trace.stuck_pods and len(self.workers) > 1:
            return
        self.call_at(self.now + startup, lambda: self._become_ready(worker))

    def _become_ready(self, worker: Worker) -> None:
        if worker.terminating or worker.gone:
            return
        worker.ready_at = worker.hub_free_at = self.now
        worker.limit = self.threads
        self._count_threads()
        self._fetch(worker)

    def _count_threads(self) -> None:
        self._serving_threads = sum(worker.limit for worker in self.workers.values() if worker.serving)

    def _terminate(self, worker: Worker) -> None:
        worker.terminating = True
        self._count_threads()
        if worker.running == 0:
            self._remove(worker)
        else:
            self.call_at(self.now + self.trace.drain, lambda: self._cut_off(worker))

    def _cut_off(self, worker: Worker) -> None:
        if worker.gone:
            return
        for published, _, _ in sorted(worker.tasks.values(), reverse=True):
            self.queue.appendleft(published)
            self._again.add(published)
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
        self._count_threads()

    # --- a task's life ------------------------------

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
        cpu = self._value("cpu")
        alone = not self.queue
        if self._core:
            self.call_at(self.now + self._core_lag(worker, cpu / 2), lambda: self._start(worker, published, alone))
            return
        first = cpu / 2 + (LONE_CPU_SECONDS if alone else 0.0)
        self.call_at(self._use_hub(worker, first, 0.0), lambda: self._start(worker, published, alone))

    def _use_hub(self, worker: Worker, cpu: float, blocked: float) -> float:
        """The time at which the hub is done with a piece of work that is asked for now."""
        lag = max(0.0, worker.hub_free_at - self.now)
        worker.lag_sum += self._core_lag(worker, cpu) if self._core else lag
        worker.lag_count += 1
        busy = cpu / self.cores + blocked
        worker.cpu_seconds += cpu
        worker.hub_seconds += busy if lag > 0 else cpu + blocked  # at full speed, until the quota is used
        worker.blocked_seconds += blocked
        worker.hub_free_at = self.now + lag + busy
        if blocked:
            worker.blocked_until = worker.hub_free_at
        return worker.hub_free_at

    def _core_lag(self, worker: Worker, piece: float) -> float:
        """How late the hub `core` turns to something new: every ready green thread runs until it yields, a blocking
        one until its end.
        """
        if worker.blocked_until > self.now:
            return max(0.0, worker.hub_free_at - self.now)
        return min(self.trace.hub_lag, piece / self.cores) * worker.ready_threads

    def _use_core(self, worker: Worker, cpu: float, blocked: float, then: Callable[[], None]) -> None:
        """A green thread becomes ready, and runs when those before it have."""
        at = self._use_hub(worker, cpu, blocked)
        worker.ready_threads += 1

        def ran() -> None:
            worker.ready_threads -= 1
            then()

        self.call_at(at, ran)

    def _start(self, worker: Worker, published: float, alone: bool) -> None:
        worker.fetching -= 1
        if worker.gone:
            return
        self._task += 1
        task = self._task
        worker.started += 1
        if published in self._again:
            self._again.discard(published)
        else:
            self._waited(published)
        runtime = self._value("runtime")
        if self._sigma > 0:
            runtime *= math.exp(self._random.gauss(self._shift, self._sigma))
        cpu = self._value("cpu")
        idle_cpu = cpu if self._core else cpu / 2
        worker.tasks[task] = (published, self.now, runtime + idle_cpu / self.cores)
        if self._core:
            first = cpu / 2 + (min(LONE_CPU_SECONDS, LONE_CPU_MOST * cpu) if alone else 0.0)
            self._use_core(worker, first, 0.0, lambda: self._begin_io(worker, task, runtime))
        else:
            self._begin_io(worker, task, runtime)
        self._fetch(worker)

    def _waited(self, published: float) -> None:
        self.waits.append((self.now, self.now - published))
        deadline = published + self.trace.max_wait
        if self.now > deadline:
            self.late_starts.append((deadline, self.now))

    def _begin_io(self, worker: Worker, task: int, seconds: float) -> None:
        if worker.gone:
            return
        self._in_io += 1
        if self._has_downstream:
            seconds *= max(1.0, self._in_io / self._value("downstream"))
        self.call_at(self.now + seconds, lambda: self._io_done(worker, task))

    def _io_done(self, worker: Worker, task: int) -> None:
        self._in_io -= 1
        if worker.gone:
            return
        blocking = self._value("blocking")
        blocked = self.trace.blocking_seconds if blocking and self._random.random() < blocking else 0.0
        cpu = self._value("cpu") / 2
        if self._core:
            self._use_core(worker, cpu, blocked, lambda: self._finish(worker, task))
        else:
            self.call_at(self._use_hub(worker, cpu, blocked), lambda: self._finish(worker, task))

    def _finish(self, worker: Worker, task: int) -> None:
        if worker.gone:
            return
        published, started, idle = worker.tasks.pop(task)
        self.latencies.append((self.now, self.now - published))
        self.run_times.append((self.now, self.now - started, idle))
        worker.running -= 1
        worker.finished += 1
        worker.runtime_sum += self.now - started
        if worker.terminating:
            if worker.running == 0:
                self._remove(worker)
            return
        self._fetch(worker)

    # --- what can be seen ------------------------------

    @property
    def unacked(self) -> int:
        return sum(worker.running for worker in self.workers.values())

    @property
    def oldest_wait(self) -> float:
        """Seconds that the oldest message in the broker has been waiting; one that a drain gave back waits for
        nothing new.
        """
        oldest = next((published for published in self.queue if published not in self._again), self.now)
        return self.now - oldest
