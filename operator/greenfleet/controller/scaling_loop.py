"""One loop for all pools: ask Prometheus, let the autoscaler decide, carry it out. Two queries a tick and server, however many pools,
and a small third one between two ticks while pools are idle.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling import decide, initial_state
from greenfleet.autoscaling.idle import can_skip, is_idle
from greenfleet.autoscaling.model import Decision, MetricsIssue, Mode, Problem, QueueSample, Sample, ScalingSpec
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.controller.actuator import Actuator, ScalePlan
from greenfleet.controller.booster import Booster
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.ownership import is_owned_by
from greenfleet.controller.pods import is_finished, scaling_pod, scaling_spec
from greenfleet.controller.recycler import PAUSE_SECONDS, Recycler, next_to_recycle
from greenfleet.controller.registry import Fleet, Record, Registry
from greenfleet.controller.status import learned_from_status
from greenfleet.controller.status_writer import StatusWriter
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import prefork_queue
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.prometheus import sources
from greenfleet.prometheus.client import AnswerTooLargeError, PrometheusServer, QueryError, Series
from greenfleet.prometheus.collect import DepthReader, Depths, WaitingReader, Worker, WorkerReader, Workers
from greenfleet.prometheus.crowded import Crowded, to_leave_out
from greenfleet.settings import Prometheus
from greenfleet.status.load import Load
from greenfleet.status.spec_checks import unknown_source

_log = logging.getLogger(__name__)

Known_co = TypeVar("Known_co", covariant=True)
_WORKERS, _DEAD_LETTERS = "workers", "dead letters"
_UNKNOWN_SERVER = ""
CROWDED_AT_ONCE = 4
"""How often one answer is asked for in one round, each time without the namespace that made it too large."""
IDLE_SECONDS = 20.0
"""An idle pool is looked at every tick, and decided on at least so often."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one server said in one round: each answer, or why there is none."""

    server: str
    depths: Mapping[str, Depths | QueryError | None]
    """By source; a pool's own query is a source called `query:…`. None: the configuration has no such source."""
    workers: Workers | QueryError
    dead_letters: Mapping[tuple[str, str], int]
    """By (broker, queue), as our exporters say, whatever the source of the depths."""
    crowded: Mapping[str, frozenset[str]]
    """By source, and for the workers: namespaces that were left out because they export too much."""


class _Reader(Protocol[Known_co]):
    """Takes the series of one answer and says what they mean."""

    def take(self, series: Series) -> None:
        """One series."""

    def result(self) -> Known_co:
        """What all of them say together."""


class ScalingLoop:
    """Looks at all pools every `tick_seconds` while this replica leads."""

    def __init__(
        self,
        *,
        registry: Registry,
        view: ClusterCache,
        servers: Mapping[str, PrometheusServer],
        settings: Prometheus,
        actuator: Actuator,
        status: StatusWriter,
        recycler: Recycler,
        booster: Booster,
        metrics: OperatorMetrics,
        recognise: Callable[[Record, GreenWorkerPool], None],
        leads: Callable[[], bool],
        tick_seconds: float,
    ) -> None:
        self._registry = registry
        self._view = view
        self._servers = servers
        self._settings = settings
        self._actuator = actuator
        self._status = status
        self._recycler = recycler
        self._booster = booster
        self._metrics = metrics
        self._recognise = recognise
        self._leads = leads
        self._tick_seconds = tick_seconds
        self._crowded = Crowded(time.monotonic)
        self._led = False
        self._rounds: set[str] = set()
        """Servers that are being asked."""
        self._background: set[asyncio.Task[None]] = set()
        self.ticked_at = time.monotonic()
        """Monotonic time of the last tick: what the liveness probe looks at."""

    async def run(self) -> None:
        """Ticks until cancelled. A tick that fails is logged and does not end the loop."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            self._metrics.loop_lag.set(max(0.0, clock() - due))
            self.ticked_at = time.monotonic()
            try:
                await self.tick()
            except Exception:
                _log.exception("a tick of the scaling loop failed: a bug of ours")
            due = max(due + self._tick_seconds, clock())
            await asyncio.sleep(due - clock() - self._tick_seconds / 2)
            self.poll_idle_pools()
            await asyncio.sleep(due - clock())

    async def tick(self) -> None:
        """Looks at every pool once. On a standby: forgets what it decided, and rests."""
        leads = self._leads() and self._view.is_synced
        self._metrics.leader.set(leads)
        self._metrics.pools.set(len(self._registry))
        if not leads or not self._led:
            self._registry.forget_decisions()
            self._led = leads
            if not leads:
                return
        for record in self._registry:
            if record.pool is None:
                self._spawn(self._status.sync(record))
        for server in self._asked() - self._rounds:
            self._spawn(self._round(server))

    def poll_idle_pools(self) -> None:
        """Between two ticks: looks at the idle pools for which something waits now, and at nobody else."""
        if self._led:
            for server in self._asked() - self._rounds:
                self._spawn(self._activate(server))

    def _asked(self) -> set[str]:
        """Every server that some pool refers to."""
        return {self._server_name(record.pool) for record in self._registry if record.pool is not None}

    async def _round(self, server: str) -> None:
        """Asks one server and looks at its pools. A server that is slow to answer delays nobody else's pools."""
        self._rounds.add(server)
        try:
            await asyncio.sleep(query_offset(server, self._servers, self._tick_seconds))
            with self._metrics.loop_seconds.time():
                answers = await self._ask(server)
                now = time.time()
                for record in self._registry:
                    self._look_at(record, answers, now)
        finally:
            self._rounds.discard(server)

    async def _activate(self, server: str) -> None:
        await asyncio.sleep(query_offset(server, self._servers, self._tick_seconds))
        now = time.time()
        idle = [(record, pool) for record, pool in self._pools(server) if record.is_idle(now)]
        waiting = await self._waiting(server, [pool for _, pool in idle])
        activated = [record for record, pool in idle if not waiting.isdisjoint(self._queue_keys(record, pool))]
        if activated:
            answers = await self._ask(server)
            for record in activated:
                self._look_at(record, answers, time.time())

    def _pools(self, server: str) -> Iterator[tuple[Record, GreenWorkerPool]]:
        """The pools that refer to this server."""
        for record in self._registry:
            if record.pool is not None and self._server_name(record.pool) == server:
                yield record, record.pool

    async def _waiting(self, server: str, pools: Iterable[GreenWorkerPool]) -> frozenset[tuple[str, str, str]]:
        """(source, scope, queue) wherever something waits. An answer that does not come is the next round's business."""
        by_source = {self._source_name(pool): pool for pool in pools}
        verify = self._settings.verify_namespace

        async def ask(name: str, pool: GreenWorkerPool) -> frozenset[tuple[str, str, str]]:
            query = self._depth_query(pool, self._crowded.of(server, name))
            if query is None or not query.waiting:
                return frozenset()
            answer = await self._read(server, query.waiting, WaitingReader(query, verify_namespace=verify))
            return frozenset() if isinstance(answer, QueryError) else frozenset((name, *key) for key in answer)

        answers = await asyncio.gather(*(ask(name, pool) for name, pool in by_source.items()))
        return frozenset().union(*answers)

    def _queue_keys(self, record: Record, pool: GreenWorkerPool) -> Iterator[tuple[str, str, str]]:
        """(source, scope, queue) of all that a pool works off."""
        for role in record.fleets:
            for queue in _expected_queues(pool, role):
                for scope in self._scopes(pool):
                    yield self._source_name(pool), scope, queue

    def _scopes(self, pool: GreenWorkerPool) -> tuple[str, ...]:
        """Under what the depths of a pool's queues are found in the answer of its source: see `Depths.queues`."""
        reference = pool.spec.scaling.prometheus
        if not reference.query and reference.source == sources.GREENFLEET:
            return (pool.broker_key,)
        return "", pool.namespace

    async def _ask(self, server: str) -> Answers:
        pools = {self._source_name(pool): pool for _, pool in self._pools(server)}
        workers, dead, found = await asyncio.gather(
            self._workers(server),
            self._dead_letters(server, asked=sources.GREENFLEET not in pools),
            asyncio.gather(*(self._depths(server, name, pool) for name, pool in pools.items())),
        )
        depths = dict(zip(pools, found, strict=True))
        crowded = {name: self._crowded.of(server, name) for name in (_WORKERS, *pools)}
        own = depths.get(sources.GREENFLEET)
        return Answers(server, depths, workers, own.dead_letters if isinstance(own, Depths) else dead, crowded)

    async def _dead_letters(self, server: str, *, asked: bool) -> Mapping[tuple[str, str], int]:
        """What our exporters count, where no depth is read from them. No answer is silence."""
        if not asked:
            return {}
        window, verify = self._window_seconds(server), self._settings.verify_namespace
        answer = await self._isolated(
            server,
            _DEAD_LETTERS,
            lambda without: sources.dead_letters(window, without).expression,
            lambda: DepthReader(sources.dead_letters(window), verify_namespace=verify),
        )
        return {} if isinstance(answer, QueryError) else answer.dead_letters

    async def _workers(self, server: str) -> Workers | QueryError:
        verify = self._settings.verify_namespace
        return await self._isolated(
            server,
            _WORKERS,
            lambda without: sources.workers(self._window_seconds(server), without),
            lambda: WorkerReader(verify_namespace=verify),
        )

    async def _depths(self, server: str, name: str, pool: GreenWorkerPool) -> Depths | QueryError | None:
        """What a source says; `pool` is any that refers to it."""
        query, verify = self._depth_query(pool), self._settings.verify_namespace
        if query is None:
            return None

        def expression(without: frozenset[str]) -> str:
            asked = self._depth_query(pool, without)
            return asked.expression if asked else ""

        return await self._isolated(server, name, expression, lambda: DepthReader(query, verify_namespace=verify))

    async def _isolated(
        self,
        server: str,
        name: str,
        expression: Callable[[frozenset[str]], str],
        reader: Callable[[], _Reader[Known_co]],
    ) -> Known_co | QueryError:
        """One answer. If one namespace makes it too large, that namespace is left out for a while, and it is asked again."""
        for _ in range(CROWDED_AT_ONCE):
            without = self._crowded.of(server, name)
            answer = await self._read(server, expression(without), reader())
            if not isinstance(answer, AnswerTooLargeError):
                return answer
            namespace = to_leave_out(answer.sizes, self._expected(server, name)) or answer.namespace
            if not sources.can_leave_out(namespace):
                return answer
            _log.warning("Prometheus %r, %s: left out %s for a while: %s", server, name, namespace, answer.message)
            self._crowded.add(server, name, namespace)
        return answer

    def _expected(self, server: str, name: str) -> Mapping[str, int]:
        """How much of an answer is to be expected of each namespace: workers of its pools, or their queues."""
        found: Counter[str] = Counter()
        for _, pool in self._pools(server):
            pods = (self._view.pods(pool.namespace, pool.name, role) for role in (Role.EVENTLET, Role.PREFORK))
            found[pool.namespace] += sum(map(len, pods)) if name == _WORKERS else len(pool.spec.queues)
        return found

    async def _read(self, server: str, expression: str, reader: _Reader[Known_co]) -> Known_co | QueryError:
        found = self._servers.get(server)
        if found is None:
            return QueryError(
                MetricsIssue.UNREACHABLE,
                "The operator's configuration does not name the Prometheus server of scaling.prometheus.server.",
            )
        try:
            await found.read(expression, reader.take)
            return reader.result()
        except QueryError as error:
            return error

    def _window_seconds(self, server: str) -> float:
        """How far back samples are asked for: one scrape more than they may be old."""
        found = self._servers.get(server)
        scrape_seconds = found.scrape_interval_seconds if found else self._tick_seconds
        return stale_after_seconds(scrape_seconds) + scrape_seconds

    def _server_name(self, pool: GreenWorkerPool) -> str:
        """All that the configuration does not name are one: a pool may name any, and each that is asked costs a look at all pools."""
        named = pool.spec.scaling.prometheus.server or self._settings.default_server
        return named if named in self._servers else _UNKNOWN_SERVER

    @staticmethod
    def _source_name(pool: GreenWorkerPool) -> str:
        reference = pool.spec.scaling.prometheus
        return f"query:{reference.query}" if reference.query else reference.source

    def _depth_query(self, pool: GreenWorkerPool, without: frozenset[str] = frozenset()) -> sources.DepthQuery | None:
        reference = pool.spec.scaling.prometheus
        if reference.query:
            return sources.custom_query(reference.query) if self._settings.allow_query else None
        window_seconds = self._window_seconds(self._server_name(pool))
        if reference.source == sources.GREENFLEET:
            return sources.greenfleet_depth(window_seconds, without)
        source = self._settings.source(reference.source)
        return sources.selected_depth(source, window_seconds, without) if source else None

    def _look_at(self, record: Record, answers: Answers, now: float) -> None:
        pool = record.pool
        if pool is None or self._server_name(pool) != answers.server or self._source_name(pool) not in answers.depths:
            return  # another round's, or changed since this one began
        try:
            self._recognise(record, pool)
            for role in (Role.EVENTLET, Role.PREFORK) if pool.spec.prefork else (Role.EVENTLET,):
                for pod in self._view.pods(pool.namespace, pool.name, role):
                    self._booster.look_at(pod, pool, role)
                if self._is_scaled(record, pool, role):
                    self._decide(record, pool, record.fleet(role), answers, now)
        except Exception:
            _log.exception("%s: the scaling loop failed on this pool: a bug of ours", record.key)
        news = _note_dead_letters(record, pool, answers)
        skipped = record.fleets and all(fleet.skipped is not None for fleet in record.fleets.values())
        if skipped and not news and self._status.is_of_now(record):
            return  # nothing was decided and nothing changed: the status is what it was
        self._spawn(self._status.sync(record))

    def _is_scaled(self, record: Record, pool: GreenWorkerPool, role: Role) -> bool:
        """Whether the workers of a role are this pool's, and its backlog its own. What else the API server refuses of it stops no scaling."""
        state = record.reconciliation
        if state.conflict is not None or self._registry.is_in_conflict(pool):
            return False
        live = self._view.deployment(pool.namespace, names.fleet_name(pool.name, role))
        return live is not None and (state.generation is not None or is_owned_by(live, pool))

    def _scaling_spec(self, pool: GreenWorkerPool, fleet: Fleet) -> ScalingSpec:
        if fleet.scaling_spec is None or fleet.scaling_spec[0] is not pool:
            server = self._servers.get(self._server_name(pool))
            scrape_seconds = server.scrape_interval_seconds if server else self._tick_seconds
            fleet.scaling_spec = (pool, scaling_spec(pool, fleet.role, scrape_seconds))
            fleet.idle_until = -math.inf
        return fleet.scaling_spec[1]

    def _decide(self, record: Record, pool: GreenWorkerPool, fleet: Fleet, answers: Answers, now: float) -> None:
        deployment = self._view.deployment(pool.namespace, names.fleet_name(pool.name, fleet.role))
        if deployment is None or fleet.actuating:
            return
        spec = self._scaling_spec(pool, fleet)
        workers, problems = self._workers_of(pool, fleet.role, answers)
        queues, more = self._queues_of(pool, fleet.role, answers)
        sample = Sample(
            queues=queues,
            workers=tuple(worker.sample for worker in workers),
            pods=tuple(
                scaling_pod(pod)
                for pod in self._view.pods(pool.namespace, pool.name, fleet.role)
                if not is_finished(pod)
            ),
            replicas=deployment["spec"].get("replicas", 0),
            expected_queues=_expected_queues(pool, fleet.role),
            problems=(*more, *problems),
        )
        if now < fleet.idle_until and fleet.state is not None and is_idle(spec, sample, now):
            fleet.skipped = (sample, now)
            self._metrics.observe_idle(record.key, fleet.role, now)
            return
        if fleet.skipped is not None and fleet.state is not None:
            _, fleet.state = decide(spec, fleet.state, *fleet.skipped)
        fleet.skipped = None
        if fleet.state is None:
            learned = learned_from_status(record.status if fleet.role is Role.EVENTLET else {})
            fleet.state = initial_state(learned, now)
        decision, fleet.state = decide(spec, fleet.state, sample, now)
        skips = can_skip(spec, decision) and is_idle(spec, sample, now)
        # Spread, so that a thousand idle pools are not all looked at in the same tick.
        fleet.idle_until = now + random.uniform(IDLE_SECONDS / 2, IDLE_SECONDS) if skips else -math.inf
        self._remember(record, fleet, decision, workers, now)
        record.evidence.forget_old(fleet.role, {pod.name for pod in sample.pods}, now)
        ready = sum(pod.ready_since is not None and not pod.terminating for pod in sample.pods)
        self._metrics.observe_decision(record.key, fleet.role, decision, ready, now)
        fleet.load = None
        if not decision.metrics_issues:
            waiting = _waiting(sample)
            waited = fleet.wait_clock.update(waiting, {one.pod: one.started for one in sample.workers}, now)
            fleet.load = Load(waiting, waited)
            self._metrics.observe_wait(record.key, fleet.role, waited, spec.max_wait_seconds)
        if spec.mode is not Mode.DRY_RUN:
            self._recycle(pool, fleet, workers, sample, now)
            self._spawn(self._apply(record, pool, fleet, decision, sample))

    def _recycle(
        self, pool: GreenWorkerPool, fleet: Fleet, workers: tuple[Worker, ...], sample: Sample, now: float
    ) -> None:
        if now - fleet.evicted_at < PAUSE_SECONDS:
            return
        worker = next_to_recycle(workers, sample.pods, sample.replicas)
        if worker is not None:
            fleet.evicted_at = now
            self._spawn(self._recycler.evict(pool, worker))

    async def _apply(
        self, record: Record, pool: GreenWorkerPool, fleet: Fleet, decision: Decision, sample: Sample
    ) -> None:
        fleet.actuating = True
        try:
            by_pod = {worker.pod: worker for worker in sample.workers}
            if not await self._actuator.apply(ScalePlan(record, pool, fleet, decision, sample.pods, by_pod)):
                fleet.idle_until = -math.inf  # also an idle pool is decided on at the next tick
        finally:
            fleet.actuating = False

    def _queues_of(
        self, pool: GreenWorkerPool, role: Role, answers: Answers
    ) -> tuple[tuple[QueueSample, ...], tuple[Problem, ...]]:
        answer = answers.depths[self._source_name(pool)]
        if answer is None:
            unknown = unknown_source(pool, self._settings)
            return (), (
                Problem(MetricsIssue.NO_SAMPLE, f"{unknown.message}." if unknown else "The source has just changed."),
            )
        if isinstance(answer, QueryError):
            return (), (Problem(answer.reason, answer.message),)
        if pool.namespace in answers.crowded.get(self._source_name(pool), ()):
            return (), (_crowded_problem(pool.namespace, "about queues"),)
        return self._depths_of(pool, role, answer)

    def _depths_of(
        self, pool: GreenWorkerPool, role: Role, answer: Depths
    ) -> tuple[tuple[QueueSample, ...], tuple[Problem, ...]]:
        scopes = self._scopes(pool)
        if not answer.down.isdisjoint(scopes):
            return (), (Problem(MetricsIssue.BROKER_DOWN, "The exporter cannot reach the broker."),)
        expected = _expected_queues(pool, role)
        if pool.spec.scaling.prometheus.query:
            own = tuple(depth.sample for depth in answer.of(scopes, ""))
            samples = tuple(QueueSample(expected[0], one.at, one.ready) for one in own)
            # One query speaks for all queues of the pool: the others are counted in it.
            return samples + tuple(QueueSample(queue, one.at, 0.0) for queue in expected[1:] for one in samples), ()
        found = [depth for queue in expected for depth in answer.of(scopes, queue)]
        if not found and (text := _unheard(pool, expected, answer)):
            return (), (Problem(MetricsIssue.NO_SAMPLE, text),)
        if len({depth.labels.get("vhost") for depth in found}) > 1:
            return (), (Problem(MetricsIssue.CONTRADICTION, _SEVERAL_VHOSTS),)
        return tuple(depth.sample for depth in found), ()

    def _workers_of(
        self, pool: GreenWorkerPool, role: Role, answers: Answers
    ) -> tuple[tuple[Worker, ...], tuple[Problem, ...]]:
        if isinstance(answers.workers, QueryError):
            return (), (Problem(answers.workers.reason, answers.workers.message),)
        if pool.namespace in answers.crowded.get(_WORKERS, ()):
            return (), (_crowded_problem(pool.namespace, "about workers"),)
        return answers.workers.by_fleet.get((pool.key, role), ()), ()

    def _remember(
        self,
        record: Record,
        fleet: Fleet,
        decision: Decision,
        workers: tuple[Worker, ...],
        now: float,
    ) -> None:
        before, fleet.decision = fleet.decision, decision
        same = before is not None and (before.replicas, before.threads, before.why.binding, before.metrics_issues) == (
            decision.replicas,
            decision.threads,
            decision.why.binding,
            decision.metrics_issues,
        )
        if not same:
            fleet.history.append(decision.why)
        record.evidence.hear(fleet.role, workers, now)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed: a bug of ours", exc_info=error)


def query_offset(server: str, servers: Collection[str], tick_seconds: float) -> float:
    """Seconds into a tick at which a server is asked: spread, so that several servers are not asked in the same moment."""
    servers_in_order = sorted(servers)
    return tick_seconds * servers_in_order.index(server) / len(servers_in_order) if server in servers else 0.0


_SEVERAL_VHOSTS = (
    "Several virtual hosts of the broker have this queue, and the source does not say which is meant: ask the administrator "
    'for one whose selector does, such as rabbitmq_queue_messages_ready{vhost="production"}.'
)


def _crowded_problem(namespace: str, about: str) -> Problem:
    return Problem(
        MetricsIssue.TOO_MANY_SERIES,
        f"The pods of namespace {namespace} export so many series {about}, or such long ones, that the answer for everybody was too "
        "large, so that this namespace is left out of it for some minutes: find the pods that export them.",
    )


def _unheard(pool: GreenWorkerPool, expected: Iterable[str], answer: Depths) -> str:
    """Why samples of a pool's queues may not be believed although there are some; "" if there are none."""
    if pool.namespace in answer.namespace_mismatch:
        return (
            "Samples arrive without the target label `namespace`, or with one that does not match, and are not believed: "
            "see the scrape configuration in the documentation."
        )
    source = pool.spec.scaling.prometheus.source
    if not answer.unnamed.isdisjoint(expected):
        return (
            f"Samples come from targets of other namespaces, which the administrator has not named: ask for theirs in "
            f"prometheus.sources.{source}.namespaces."
        )
    return ""


def _waiting(sample: Sample) -> float:
    """Messages that wait for a green thread, in the broker or inside a worker."""
    depths: dict[str, float] = {}
    for queue in sample.queues:
        depths[queue.queue] = max(queue.ready, depths.get(queue.queue, 0.0))
    return sum(depths.values()) + sum(worker.reserved for worker in sample.workers)


def _note_dead_letters(record: Record, pool: GreenWorkerPool, answers: Answers) -> bool:
    """What the exporter says of the pool's queues, and the workers of their tasks; True if it is news. Silence is none."""
    workers, counts = answers.workers, answers.dead_letters
    named = frozenset() if isinstance(workers, QueryError) else workers.dead_tasks.get(pool.key, frozenset())
    queues = [*_expected_queues(pool, Role.EVENTLET), *_expected_queues(pool, Role.PREFORK)]
    return record.evidence.hear_of_dead_letters(
        {queue: counts.get((pool.broker_key, queue)) for queue in queues}, named
    )


def _expected_queues(pool: GreenWorkerPool, role: Role) -> tuple[str, ...]:
    return tuple(prefork_queue(queue) if role is Role.PREFORK else queue for queue in pool.spec.queues)
