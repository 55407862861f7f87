"""One look at one pool: take its sample, have it decided on, carry that out, and write its status."""

from __future__ import annotations

import logging
from collections.abc import Callable

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import Mode
from greenfleet.controller.actuator import Actuator, ScalePlan
from greenfleet.controller.background import Background
from greenfleet.controller.booster import Booster
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.decider import Decider
from greenfleet.controller.ownership import is_owned_by
from greenfleet.controller.recycler import Recycler
from greenfleet.controller.registry import Fleet, Record, Registry
from greenfleet.controller.sampling import fleet_sample
from greenfleet.controller.status_writer import StatusWriter
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import queues_of, roles_of
from greenfleet.prometheus.collect import Depths
from greenfleet.prometheus.poller import Answers, source_of
from greenfleet.prometheus.series import QueryError
from greenfleet.settings import Prometheus

_log = logging.getLogger(__name__)


class PoolScaler:
    """Looks at pools when the scaling loop says so. `adopt_generation` is called for every pool that is looked at."""

    def __init__(
        self,
        *,
        registry: Registry,
        view: ClusterCache,
        settings: Prometheus,
        decider: Decider,
        actuator: Actuator,
        recycler: Recycler,
        booster: Booster,
        status: StatusWriter,
        adopt_generation: Callable[[Record, GreenWorkerPool], None],
        background: Background,
    ) -> None:
        self._registry = registry
        self._view = view
        self._settings = settings
        self._decider = decider
        self._actuator = actuator
        self._recycler = recycler
        self._booster = booster
        self._status = status
        self._adopt_generation = adopt_generation
        self._background = background

    def look_at(self, record: Record, pool: GreenWorkerPool, answers: Answers, now: float) -> None:
        """*now* is Unix time. A pool that fails is logged and fails alone."""
        try:
            self._adopt_generation(record, pool)
            for role in roles_of(pool):
                for pod in self._view.pods(pool.namespace, pool.name, role):
                    self._booster.look_at(pod, pool, role)
                if self._is_scaled(record, pool, role):
                    self._scale(record, pool, record.fleet(role), answers, now)
            news = _note_dead_letters(record, pool, answers)
            news |= record.findings.set_speaks_for_others(pool.namespace in answers.spoke_for_others)
            news |= record.findings.set_broker_error(_broker_error(pool, answers), now)
            news |= record.findings.set_missing_queues(_missing_queues(pool, answers))
        except Exception:
            _log.exception("%s: the scaling loop failed on this pool: a bug of ours", record.key)
            news = True
        all_skipped = record.fleets and all(fleet.autoscaling.skipped is not None for fleet in record.fleets.values())
        if all_skipped and not news and self._status.is_of_now(record):
            return  # nothing was decided and nothing changed: the status is what it was
        self.report(record)

    def report(self, record: Record) -> None:
        """Writes the status, if it says something new."""
        self._background.spawn(self._status.sync(record))

    def _is_scaled(self, record: Record, pool: GreenWorkerPool, role: Role) -> bool:
        """Whether the workers of a role are this pool's, and its backlog its own. What else the API server refuses of
        it stops no scaling.
        """
        state = record.reconciliation
        if state.conflict is not None or self._registry.is_in_conflict(pool):
            return False
        live = self._view.deployment(pool.namespace, names.fleet_name(pool.name, role))
        return live is not None and (state.generation is not None or is_owned_by(live, pool))

    def _scale(self, record: Record, pool: GreenWorkerPool, fleet: Fleet, answers: Answers, now: float) -> None:
        if fleet.actuation.busy:
            return
        found = fleet_sample(pool, fleet.role, answers, self._view, self._settings)
        if found is None:
            return
        decision = self._decider.decide(record, pool, fleet, found, now=now, scrape_seconds=answers.scrape_seconds)
        if decision is None:
            return
        sample = found.sample
        record.findings.add_workers(fleet.role, found.workers, now)
        record.findings.forget_old(fleet.role, {pod.name for pod in sample.pods}, now)
        if Mode(pool.spec.scaling.mode) is not Mode.DRY_RUN:
            if (worker := self._recycler.choose(fleet, found.workers, sample, now)) is not None:
                self._background.spawn(self._recycler.evict(pool, worker))
            by_pod = {worker.pod: worker for worker in sample.workers}
            self._background.spawn(self._apply(ScalePlan(record, pool, fleet, decision, sample.pods, by_pod)))

    async def _apply(self, plan: ScalePlan) -> None:
        if not await self._actuator.apply(plan):
            self._decider.decide_anew(plan.fleet)


def _broker_error(pool: GreenWorkerPool, answers: Answers) -> str | None:
    """The kind of error that keeps the exporter from the pool's broker; "" for none, None where nobody says."""
    answer = answers.depths.get(source_of(pool))
    return answer.errors.get(pool.broker_key, "") if isinstance(answer, Depths) else None


def _missing_queues(pool: GreenWorkerPool, answers: Answers) -> list[str] | None:
    """The pool's queues that its broker does not have; None where nobody says."""
    answer = answers.depths.get(source_of(pool))
    if not isinstance(answer, Depths):
        return None
    return [queue for queue in pool.spec.queues if (pool.broker_key, queue) in answer.missing]


def _note_dead_letters(record: Record, pool: GreenWorkerPool, answers: Answers) -> bool:
    """What the exporter says of the pool's queues, and the workers of their tasks; True if it is news. No answer
    is none.
    """
    workers, counts = answers.workers, answers.dead_letters
    named = frozenset() if isinstance(workers, QueryError) else workers.dead_tasks.get(pool.key, frozenset())
    known = {queue: counts.get((pool.broker_key, queue)) for queue in queues_of(pool)}
    return record.findings.set_dead_letters(known, named)
