"""What the parts of one worker process share. Made by the launcher before Celery starts, and passed on with the app:
Celery makes its pool, its consumers, steps and requests itself, and gives each of them the app.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sized
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from greenworker import hub, native
from greenworker.environment import Environment, read_threads
from greenworker.monitoring.accounting import Accounting
from greenworker.monitoring.task_risks import TaskRisks
from greenworker.protocol import UNKNOWN, head_of

if TYPE_CHECKING:
    from greenworker.brokers.forwarding import Routes
    from greenworker.brokers.kind import BrokerKind
    from greenworker.pool.drain import Drain
    from greenworker.pool.isolation import Isolation
    from greenworker.pool.task_pool import Job

DEFAULT_THREADS = 100
"""Green threads while neither the operator nor the ConfigMap has spoken (greenThreads.start)."""

PROBE_WAIT_SECONDS = 1.5
"""Of the three that a probe has."""
COMING_UP = "coming up"
STARTUP_SECONDS = 300.0
"""Importing an app on a slow node takes its time, and nothing ticks meanwhile."""
COMING_UP_SECONDS = 60.0
"""For so long the startup probe waits for a worker that consumes: then kubelet asks at once whether it is ready, and
the operator knows that no start has to be sped up any more. After it, the broker is away, which is no reason for a
restart.
"""


class GreenPool(Protocol):
    """The green pool, as far as the other parts of its process ask it. Belongs to the hub's thread."""

    limit: int
    """Green threads that may run at once."""
    jobs: MutableMapping[int, Job]
    """What runs, by the id of its green thread."""
    isolation: Isolation
    default_hard: float | None
    """Seconds: the hard time limit of a task that sets none."""

    @property
    def pending(self) -> Sized:
        """What waits for a green thread."""

    def resize(self, threads: int) -> None:
        """Set the limit."""

    def running(self) -> Iterator[Job]:
        """A snapshot of the jobs that have started."""

    def kill(self, job: Job) -> None:
        """End a running task without a result. The caller has settled its message."""


class GreenConsumer(Protocol):
    """Celery's consumer on the green pool, as far as the other parts of its process ask it."""

    prefetch_multiplier: int
    """Messages for each green thread; 0 for all that there are."""
    initial_prefetch_count: int
    """What the next connection begins with."""
    qos: Any
    """kombu's; None without a connection."""

    def _update_prefetch_count(self, index: int) -> Any:
        """Celery's: *index* more green threads."""

    def send_acknowledgement(self, message: Any) -> None:
        """An early acknowledgement, before its task begins. Never raises."""

    def stop_consuming(self) -> None:
        """In a drain: no message comes any more."""

    def give_back_unstarted(self) -> int:
        """In a drain: return what has not started; how many."""

    def requeue_started(self, requests: list[Any]) -> int:
        """In a drain: tasks that are about to be killed go back; how many."""


class Runtime:
    """One per process."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.accounting = Accounting(environment)
        self.idle_clock = hub.IdleClock()
        self.capacity = hub.Wakeup()
        self.task_risks = TaskRisks(self.accounting.registry)
        self.born = monotonic()
        self.own_stall: Callable[[float], float] | None = None
        """Seconds since a beat for which the hub did not tick by its own fault; None while nobody watches."""
        self.last_beat: float | None = None
        self.pool: GreenPool | None = None
        """None until Celery has made it, and in the prefork companion."""
        self.consumer: GreenConsumer | None = None
        """None until Celery has made it, and in the prefork companion."""
        self.task_buckets: Mapping[str, Any] = {}
        """Celery's, by task: what waits there for its rate limit."""
        self.broker: BrokerKind
        self.drain: Drain
        self.routes: Routes
        self.hindrance = ""
        """Why the last attempt to consume has failed, where the broker said that."""
        self._consuming = self._has_consumed = False
        self.sample_now: Callable[[], None] | None = None
        self.late_task: tuple[float, Any] | None = None

    def attach_to(self, app: Any) -> None:
        """`Runtime.of` finds it from now on."""
        app.greenworker = self

    @classmethod
    def of(cls, app: Any) -> Runtime:
        """The runtime of the worker of *app*. Raises AttributeError in a process that `greenworker` has not
        launched.
        """
        found: Runtime = app.greenworker
        return found

    def start_threads(self) -> int:
        """Green threads to begin with: what the operator says, else what new pods of this pool get."""
        environment = self.environment
        return read_threads(environment.threads_file) or read_threads(environment.start_file) or DEFAULT_THREADS

    @property
    def consuming(self) -> bool:
        """Whether the worker takes messages."""
        return self._consuming

    @consuming.setter
    def consuming(self, consumes: bool) -> None:
        self._consuming = consumes
        if consumes:
            self.hindrance = ""
        self._has_consumed = self._has_consumed or consumes

    def held_for_rates(self) -> int:
        """Requests that wait for their task's rate limit. From any thread."""
        return sum(len(bucket.contents) for bucket in list(self.task_buckets.values()) if bucket)

    def unhealthy(self) -> str:
        """Why the process should be restarted, or is not up yet; empty if neither."""
        if not self._has_consumed and monotonic() - self.born <= COMING_UP_SECONDS:
            return COMING_UP
        if self.last_beat is None:
            return f"not up after {STARTUP_SECONDS:g} s" if monotonic() - self.born > STARTUP_SECONDS else ""
        silent = monotonic() - self.last_beat
        limit = self.environment.restart_after_seconds
        return f"the hub has not ticked for {silent:.1f} s" if silent > limit else ""

    def health(self) -> str:
        """`unhealthy`, for probes: one that comes during the start waits a moment for the worker to consume, so that it
        need not fail first.
        """
        until = monotonic() + PROBE_WAIT_SECONDS
        while (problem := self.unhealthy()) == COMING_UP and monotonic() < until:
            native.sleep(0.02)
        return problem

    def unready(self) -> str:
        """Why no new work should be expected from this worker; empty if it consumes."""
        if self.drain.draining:
            return "draining"
        return "" if self.consuming else self.hindrance or "not consuming yet"

    def task_ended(self, task: Any) -> None:
        """In the hub: was it this task that kept the hub from ticking? Who keeps the interpreter leaves no other trace.
        Those that end after it and before the hub ticks again only had to wait.
        """
        beat, late = self.last_beat, self.late_task
        if beat is None or (late is not None and late[0] == beat):
            return
        if monotonic() - beat <= self.environment.warn_after_seconds:
            return
        if self.own_stall is None or self.own_stall(beat) > self.environment.warn_after_seconds:
            self.late_task = (beat, task)

    def woke(self) -> None:
        """To be called by our real threads when they get to run again: the watchdog may want to know what they see."""
        if self.sample_now is not None:
            self.sample_now()

    def received(self, message: Any) -> None:
        """A message has arrived that this worker is going to run; *message* is kombu's."""
        task, eta = head_of(message)
        name = task or UNKNOWN
        self.accounting.received.child(name).value += 1
        if eta is not None:
            self.task_risks.scheduled(name, eta)

    def say(self, message: str) -> None:
        """One line on stderr, from any thread."""
        native.say(message)
