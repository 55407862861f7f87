"""One loop for all pools: ask Prometheus, let the law decide, carry it out. Two queries a tick and server, however many pools,
and a small third one between two ticks while pools sleep.
"""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from greenfleet.api import GreenWorkerPool
from greenfleet.engine.actuator import Actuator, Order
from greenfleet.engine.booster import Booster
from greenfleet.engine.evidence import caught_again
from greenfleet.engine.fleet_view import FleetView
from greenfleet.engine.pinning import GENERATION_ANNOTATION
from greenfleet.engine.pods import is_finished, law_pod, law_spec
from greenfleet.engine.recycler import PAUSE_SECONDS, Recycler, next_to_recycle
from greenfleet.engine.registry import Fleet, Record, Registry
from greenfleet.engine.status import learned_from_status
from greenfleet.engine.status_writer import StatusWriter
from greenfleet.engine.usable import misfit, unknown_source
from greenfleet.metrics import sources
from greenfleet.metrics.collect import Depths, Worker, Workers, read_depths, read_waiting, read_workers
from greenfleet.metrics.own import OperatorMetrics
from greenfleet.metrics.prometheus import PrometheusServer, QueryError, Series
from greenfleet.resources import names
from greenfleet.resources.names import Role
from greenfleet.resources.worker import prefork_queue
from greenfleet.scaling import (
    Blindness,
    Decision,
    Mode,
    Problem,
    QueueSample,
    Sample,
    ScalingSpec,
    decide,
    initial_state,
    may_rest,
    sleeps,
)
from greenfleet.settings import Prometheus, Source

_log = logging.getLogger(__name__)

_BLOCKED_NOISE_SECONDS = 0.05
REST_SECONDS = 20.0
"""A pool that sleeps is looked at every tick, and decided on at least so often."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one server said in one round: each answer, or why there is none."""

    server: str
    depths: Mapping[str, Depths | QueryError | None]
    """By source; a pool's own query is a source called `query:…`. None: the configuration has no such source."""
    workers: Workers | QueryError


class ScalingLoop:
    """Looks at all pools every `tick_seconds` while this replica leads."""

    def __init__(
        self,
        *,
        registry: Registry,
        view: FleetView,
        servers: Mapping[str, PrometheusServer],
        settings: Prometheus,
        actuator: Actuator,
        status: StatusWriter,
        recycler: Recycler,
        booster: Booster,
        metrics: OperatorMetrics,
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
        self._leads = leads
        self._tick_seconds = tick_seconds
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
            self.glance()
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

    def glance(self) -> None:
        """Between two ticks: looks at the pools that sleep and for which something waits now, and at nobody else."""
        if self._led:
            for server in self._asked() - self._rounds:
                self._spawn(self._wake(server))

    def _asked(self) -> set[str]:
        """Every server that some pool refers to."""
        return {self._server_name(record.pool) for record in self._registry if record.pool is not None}

    async def _round(self, server: str) -> None:
        """Asks one server and looks at its pools. A server that is slow to answer delays nobody else's pools."""
        self._rounds.add(server)
        try:
            await asyncio.sleep(turn(server, self._servers, self._tick_seconds))
            with self._metrics.loop_seconds.time():
                answers = await self._ask(server)
                now = time.time()
                for record in self._registry:
                    self._look_at(record, answers, now)
        finally:
            self._rounds.discard(server)

    async def _wake(self, server: str) -> None:
        await asyncio.sleep(turn(server, self._servers, self._tick_seconds))
        now = time.time()
        asleep = [(record, pool) for record, pool in self._pools(server) if record.rests(now)]
        waiting = await self._waiting(server, [pool for _, pool in asleep])
        woken = [record for record, pool in asleep if not waiting.isdisjoint(self._queue_keys(record, pool))]
        if woken:
            answers = await self._ask(server)
            for record in woken:
                self._look_at(record, answers, time.time())

    def _pools(self, server: str) -> Iterator[tuple[Record, GreenWorkerPool]]:
        """The pools that refer to this server."""
        for record in self._registry:
            if record.pool is not None and self._server_name(record.pool) == server:
                yield record, record.pool

    async def _waiting(self, server: str, pools: Iterable[GreenWorkerPool]) -> frozenset[tuple[str, str, str]]:
        """(source, broker, queue) wherever something waits. An answer that does not come is the next round's business."""
        by_source = {self._source_name(pool): pool for pool in pools}
        queries = {
            name: query for name, pool in by_source.items() if (query := self._depth_query(pool)) and query.waiting
        }
        answers = await asyncio.gather(*(self._query(server, query.waiting) for query in queries.values()))
        verify = self._settings.verify_namespace
        return frozenset(
            (name, *key)
            for (name, query), answer in zip(queries.items(), answers, strict=True)
            if not isinstance(answer, QueryError)
            for key in read_waiting(answer, query, verify_namespace=verify)
        )

    def _queue_keys(self, record: Record, pool: GreenWorkerPool) -> Iterator[tuple[str, str, str]]:
        """(source, broker, queue) of all that a pool works off."""
        for role in record.fleets:
            for queue in _expected_queues(pool, role):
                yield self._source_name(pool), self._broker(pool), queue

    def _broker(self, pool: GreenWorkerPool) -> str:
        """As the series of the pool's source name it: only our exporter does."""
        reference = pool.spec.scaling.prometheus
        return pool.broker_key if not reference.query and reference.source == sources.GREENFLEET else ""

    async def _ask(self, server: str) -> Answers:
        queries: dict[str, sources.DepthQuery | None] = {}
        for _, pool in self._pools(server):
            queries[self._source_name(pool)] = self._depth_query(pool)
        wanted = {name: query for name, query in queries.items() if query is not None}
        workers, *depths = await asyncio.gather(
            self._query(server, sources.workers()),
            *(self._query(server, query.expression) for query in wanted.values()),
        )
        verify = self._settings.verify_namespace
        found: dict[str, Depths | QueryError | None] = dict.fromkeys(queries)
        for (name, query), answer in zip(wanted.items(), depths, strict=True):
            if isinstance(answer, QueryError):
                found[name] = answer
            else:
                found[name] = read_depths(answer, query, verify_namespace=verify)
        return Answers(
            server,
            found,
            workers if isinstance(workers, QueryError) else read_workers(workers, verify_namespace=verify),
        )

    async def _query(self, server: str, expression: str) -> list[Series] | QueryError:
        found = self._servers.get(server)
        if found is None:
            return QueryError(
                Blindness.UNREACHABLE, f"The operator's configuration names no Prometheus server {server!r}."
            )
        try:
            return await found.query(expression)
        except QueryError as error:
            return error

    def _server_name(self, pool: GreenWorkerPool) -> str:
        return pool.spec.scaling.prometheus.server or self._settings.default_server

    @staticmethod
    def _source_name(pool: GreenWorkerPool) -> str:
        reference = pool.spec.scaling.prometheus
        return f"query:{reference.query}" if reference.query else reference.source

    def _depth_query(self, pool: GreenWorkerPool) -> sources.DepthQuery | None:
        reference = pool.spec.scaling.prometheus
        if reference.query:
            return sources.own_depth(reference.query) if self._settings.allow_query else None
        if reference.source == sources.GREENFLEET:
            return sources.greenfleet_depth()
        source: Source | None = self._settings.sources.get(reference.source) or sources.BUILT_IN.get(reference.source)
        return sources.selected_depth(source) if source else None

    def _look_at(self, record: Record, answers: Answers, now: float) -> None:
        pool = record.pool
        if pool is None or self._server_name(pool) != answers.server or self._source_name(pool) not in answers.depths:
            return  # another round's, or changed since this one began
        try:
            record.misfit = misfit(pool, self._settings)
            self._recognise(record, pool)
            for role in (Role.EVENTLET, Role.PREFORK) if pool.spec.prefork else (Role.EVENTLET,):
                for pod in self._view.pods(pool.namespace, pool.name, role):
                    self._booster.look_at(pod, pool, role)
                if record.refused is None and record.reconciled_generation is not None:
                    self._decide(record, pool, record.fleet(role), answers, now)
        except Exception:
            _log.exception("%s: the scaling loop failed on this pool: a bug of ours", record.key)
        shown = (record.body, *(self._view.deployment(pool.namespace, name) for name in _children(pool)))
        same = record.shown is not None and all(map(operator.is_, record.shown, shown))
        if same and record.fleets and all(fleet.skipped is not None for fleet in record.fleets.values()):
            return  # nothing was decided and nothing changed: the status is what it was
        record.shown = shown
        self._spawn(self._status.sync(record))

    def _recognise(self, record: Record, pool: GreenWorkerPool) -> None:
        """After a restart: a pool whose Deployment was made from this very spec is scaled before it is applied again."""
        if record.reconciled_generation is None and record.refused is None:
            live = self._view.deployment(pool.namespace, names.fleet_name(pool.name, Role.EVENTLET))
            annotations = (live["metadata"].get("annotations") or {}) if live is not None else {}
            if annotations.get(GENERATION_ANNOTATION) == str(pool.generation) and not self._registry.rivals(pool):
                record.reconciled_generation = pool.generation

    def _law_spec(self, pool: GreenWorkerPool, fleet: Fleet) -> ScalingSpec:
        if fleet.law_spec is None or fleet.law_spec[0] is not pool:
            server = self._servers.get(self._server_name(pool))
            scrape_seconds = server.scrape_interval_seconds if server else self._tick_seconds
            fleet.law_spec = (pool, law_spec(pool, fleet.role, scrape_seconds))
            fleet.rests_until = -math.inf
        return fleet.law_spec[1]

    def _decide(self, record: Record, pool: GreenWorkerPool, fleet: Fleet, answers: Answers, now: float) -> None:
        deployment = self._view.deployment(pool.namespace, names.fleet_name(pool.name, fleet.role))
        if deployment is None or fleet.actuating:
            return
        spec = self._law_spec(pool, fleet)
        workers, problems = self._workers_of(pool, fleet.role, answers)
        queues, more = self._queues_of(pool, fleet.role, answers)
        sample = Sample(
            queues=queues,
            workers=tuple(worker.sample for worker in workers),
            pods=tuple(
                law_pod(pod) for pod in self._view.pods(pool.namespace, pool.name, fleet.role) if not is_finished(pod)
            ),
            replicas=deployment["spec"].get("replicas", 0),
            expected_queues=_expected_queues(pool, fleet.role),
            problems=(*more, *problems),
        )
        if now < fleet.rests_until and fleet.state is not None and sleeps(spec, sample, now):
            fleet.skipped = (sample, now)
            self._metrics.observe_rest(record.key, fleet.role, now)
            return
        if fleet.skipped is not None and fleet.state is not None:
            _, fleet.state = decide(spec, fleet.state, *fleet.skipped)
        fleet.skipped = None
        if fleet.state is None:
            learned = learned_from_status(record.status if fleet.role is Role.EVENTLET else {})
            fleet.state = initial_state(learned, now)
        decision, fleet.state = decide(spec, fleet.state, sample, now)
        rests = may_rest(spec, fleet.state, decision) and sleeps(spec, sample, now)
        # Spread, so that a thousand sleeping pools are not all looked at in the same tick.
        fleet.rests_until = now + random.uniform(REST_SECONDS / 2, REST_SECONDS) if rests else -math.inf
        self._remember(record, fleet, decision, workers, now)
        ready = sum(pod.ready_since is not None and not pod.terminating for pod in sample.pods)
        self._metrics.observe_decision(record.key, fleet.role, decision, ready, now)
        if spec.mode is not Mode.DRY_RUN:
            self._recycle(pool, fleet, workers, sample, now)
            self._spawn(self._carry_out(record, pool, fleet, decision, sample))

    def _recycle(
        self, pool: GreenWorkerPool, fleet: Fleet, workers: tuple[Worker, ...], sample: Sample, now: float
    ) -> None:
        if now - fleet.evicted_at < PAUSE_SECONDS:
            return
        worker = next_to_recycle(workers, sample.pods, sample.replicas)
        if worker is not None:
            fleet.evicted_at = now
            self._spawn(self._recycler.evict(pool, worker))

    async def _carry_out(
        self, record: Record, pool: GreenWorkerPool, fleet: Fleet, decision: Decision, sample: Sample
    ) -> None:
        fleet.actuating = True
        try:
            by_pod = {worker.pod: worker for worker in sample.workers}
            await self._actuator.carry_out(Order(record, pool, fleet, decision, sample.pods, by_pod))
        finally:
            fleet.actuating = False

    def _queues_of(
        self, pool: GreenWorkerPool, role: Role, answers: Answers
    ) -> tuple[tuple[QueueSample, ...], tuple[Problem, ...]]:
        reference = pool.spec.scaling.prometheus
        answer = answers.depths[self._source_name(pool)]
        if answer is None:
            unknown = unknown_source(pool, self._settings)
            return (), (
                Problem(Blindness.NO_SAMPLE, f"{unknown.message}." if unknown else "The source has just changed."),
            )
        if isinstance(answer, QueryError):
            return (), (Problem(answer.reason, answer.message),)
        broker = self._broker(pool)
        if broker in answer.down:
            return (), (Problem(Blindness.BROKER_DOWN, "The exporter cannot reach the broker."),)
        expected = _expected_queues(pool, role)
        if reference.query:
            samples = tuple(QueueSample(expected[0], one.at, one.ready) for one in answer.queues.get(("", ""), ()))
            # One query speaks for all queues of the pool: the others are counted in it.
            return samples + tuple(QueueSample(queue, one.at, 0.0) for queue in expected[1:] for one in samples), ()
        found = tuple(one for queue in expected for one in answer.queues.get((broker, queue), ()))
        if not found and pool.namespace not in answer.foreign and answer.foreign and broker:
            text = (
                "Samples arrive without the target label `namespace`, or with a foreign one, and are not believed: "
                "see the scrape configuration in the documentation."
            )
            return (), (Problem(Blindness.NO_SAMPLE, text),)
        return found, ()

    def _workers_of(
        self, pool: GreenWorkerPool, role: Role, answers: Answers
    ) -> tuple[tuple[Worker, ...], tuple[Problem, ...]]:
        if isinstance(answers.workers, QueryError):
            return (), (Problem(answers.workers.reason, answers.workers.message),)
        return answers.workers.by_fleet.get((pool.key, role), ()), ()

    def _remember(
        self, record: Record, fleet: Fleet, decision: Decision, workers: tuple[Worker, ...], now: float
    ) -> None:
        before, fleet.decision = fleet.decision, decision
        same = before is not None and (before.replicas, before.threads, before.why.binding, before.blind) == (
            decision.replicas,
            decision.threads,
            decision.why.binding,
            decision.blind,
        )
        if not same:
            fleet.history.append(decision.why)
        for worker in workers:
            record.guards.update(dict.fromkeys(worker.guards, now))
            for task, seconds in worker.blocked_seconds_by_task.items():
                key = (worker.sample.pod, task)
                if seconds - record.blocked_seconds.get(key, seconds) > _BLOCKED_NOISE_SECONDS:
                    record.blocked[task] = now
                    record.caught[task] = caught_again(record.caught.get(task, ()), now)
                record.blocked_seconds[key] = seconds

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed: a bug of ours", exc_info=error)


def turn(server: str, servers: Collection[str], tick_seconds: float) -> float:
    """Seconds into a tick at which a server is asked: spread, so that several servers are not asked in the same moment."""
    order = sorted(servers)
    return tick_seconds * order.index(server) / len(order) if server in servers else 0.0


def _expected_queues(pool: GreenWorkerPool, role: Role) -> tuple[str, ...]:
    return tuple(prefork_queue(queue) if role is Role.PREFORK else queue for queue in pool.spec.queues)


def _children(pool: GreenWorkerPool) -> tuple[str, ...]:
    """Names of the Deployments that the status tells of."""
    reference = pool.spec.broker.secret_ref
    exporter = names.exporter_name(reference.name, reference.key)
    return (*(names.fleet_name(pool.name, role) for role in (Role.EVENTLET, Role.PREFORK)), exporter)
