"""Writes a pool's status under the field manager `greenfleet-status`, and only when it says something new."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

from greenfleet.api import GreenWorkerPool
from greenfleet.controller.cluster_cache import ClusterCache, is_available
from greenfleet.controller.field_managers import STATUS
from greenfleet.controller.registry import Record, Report
from greenfleet.controller.status_builder import compute, lately_missing
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client, ConflictError, NotFoundError, NotLeaderError
from greenfleet.k8s.events import EventRecorder
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.status import missing_queues
from greenfleet.status.auto_routing import EXEMPT_ANNOTATION
from greenfleet.status.diagnosis import capacity_shortage, nothing_runs, pod_failure
from greenfleet.status.learned import learned_from_status, learned_status, significant_change
from greenfleet.status.load import FIELDS
from greenfleet.status.observed import Observed
from greenfleet.status.stalled import StalledReason

_log = logging.getLogger(__name__)

LEARNED_INTERVAL_SECONDS = 300.0
"""What was learned is written at most so often, so that a status does not move with the noise of a mean.

What becomes known for the first time is written at once: a restart would lose it."""

LOAD_INTERVAL_SECONDS = 60.0
"""Backlog and age of the oldest message are written at most so often, unless something else changes: they move with
every sample.
"""

EMPTY_INTERVAL_SECONDS = 10.0
"""A queue that is empty, or no longer, is what people look for first: that is written at most so often."""

EVENT_BURST, EVENT_SECONDS = 25, 300.0
"""So many Events of a pool's conditions at once, then one in so many seconds: the limit that Kubernetes' own components
have for each object (client-go, EventSourceObjectSpamFilter).
"""

_BAD: Mapping[str, str] = {
    "Stalled": "True",
    "HubBlocked": "True",
    "TasksAtRisk": "True",
    "DeadLetters": "True",
    "MetricsAvailable": "False",
}
"""Conditions that make Events, and the status in which they are bad."""


class StatusWriter:
    """Computes and writes statuses; says what changed in Events."""

    def __init__(
        self,
        client: Client,
        view: ClusterCache,
        events: EventRecorder,
        routes_changed: Callable[[Record], None],
        *,
        pool_doubtful: Callable[[Record], None] = lambda record: None,
        exporter_refused: Callable[[GreenWorkerPool | None], StalledReason | None] = lambda pool: None,
        config_error: Callable[[GreenWorkerPool], StalledReason | None] = lambda pool: None,
        scrape_problem: Callable[[GreenWorkerPool], str] = lambda pool: "",
    ) -> None:
        self._client = client
        self._view = view
        self._events = events
        self._routes_changed = routes_changed
        self._pool_doubtful = pool_doubtful
        self._exporter_refused = exporter_refused
        self._config_error = config_error
        self._scrape_problem = scrape_problem
        self._writing: set[str] = set()

    async def sync(self, record: Record) -> None:
        """Writes the status of one pool if it differs from the one that the API server has."""
        if record.key in self._writing:
            return  # the next tick comes soon
        self._writing.add(record.key)
        try:
            await self._sync(record)
        finally:
            self._writing.discard(record.key)

    def is_of_now(self, record: Record) -> bool:
        """Whether the status was last computed from the object and the Deployments as they still are."""
        shown = record.report.shown
        return shown is not None and all(map(operator.is_, shown, self._seen(record)))

    def _seen(self, record: Record) -> tuple[dict[str, Any] | None, ...]:
        pool = record.pool
        if pool is None:
            return (record.body,)
        exporter = names.exporter_name(pool.spec.broker.identity)
        deployments = (*(names.fleet_name(pool.name, role) for role in (Role.EVENTLET, Role.PREFORK)), exporter)
        return (record.body, *(self._view.deployment(pool.namespace, name) for name in deployments))

    async def _sync(self, record: Record) -> None:
        now = time.time()
        record.report.shown = self._seen(record)
        status = compute(record, self._observe(record, now))
        if lately_missing(record, now):
            record.report.shown = None
        self._add_learned(record, status, now)
        if _same(status, record.status) or not self._is_news(record, status, now):
            if record.report.unsaid:
                await self._announce(record, record.status, status, now)
            return
        metadata = record.body["metadata"]
        body = {
            "apiVersion": record.body["apiVersion"],
            "kind": record.body["kind"],
            # The uid makes it 409 where another pool of this name is there by now.
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": record.uid},
            "status": status,
        }
        path = f"{paths.pool(metadata['namespace'], metadata['name'])}/status"
        before = record.status
        try:
            record.status_written(await self._client.apply(path, body, STATUS, low_priority=True))
            record.report.load_written_at = now
        except NotLeaderError:
            return
        except (NotFoundError, ConflictError):
            self._pool_doubtful(record)
            return
        except ApiError as error:
            _log.warning("the status of %s was not written: %s", record.key, error)
            return
        await self._announce(record, before, status, now)
        await self._announce_routes(record, before, status)
        await self._announce_missing_queues(record, before, status, now)

    def _is_news(self, record: Record, status: dict[str, Any], now: float) -> bool:
        """Whether more than the load has changed, or the load was not written for a while."""
        since = now - record.report.load_written_at
        if since >= LOAD_INTERVAL_SECONDS:
            return True
        before, after = record.status.get("backlog"), status.get("backlog")
        known = before is not None and after is not None
        if since >= EMPTY_INTERVAL_SECONDS and known and (before == 0) != (after == 0):
            return True
        steady = [{key: value for key, value in one.items() if key not in FIELDS} for one in (status, record.status)]
        return not _same(*steady)

    def _observe(self, record: Record, now: float) -> Observed:
        metadata = record.body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        pods = self._view.pods(namespace, name, Role.EVENTLET)
        companions = self._view.pods(namespace, name, Role.PREFORK)
        exporter, exporter_pods = None, []
        if record.pool is not None:
            exporter_name = names.exporter_name(record.pool.spec.broker.identity)
            exporter = self._view.deployment(namespace, exporter_name)
            exporter_pods = self._view.exporter_pods(namespace, exporter_name)
        fleet = self._view.deployment(namespace, names.fleet_name(name, Role.EVENTLET))
        companion = self._view.deployment(namespace, names.fleet_name(name, Role.PREFORK))
        groups = ((exporter, exporter_pods), (fleet, pods), (companion, companions))
        short = [capacity_shortage(deployment, some) for deployment, some in groups]
        failures = (
            pod_failure(some, now) or nothing_runs(lack, some, now)
            for (_, some), lack in zip(groups, short, strict=True)
        )
        return Observed(
            deployment=fleet,
            pods=pods,
            exporter_available=is_available(exporter),
            exporter_refused=self._exporter_refused(record.pool),
            config_error=self._config_error_of(record),
            pod_failure=next((failure for failure in failures if failure is not None), None),
            capacity_shortage=next((lack.cause for lack in short if lack is not None), None),
            generation=metadata.get("generation", 1),
            now=now,
            scrape_problem="" if record.pool is None else self._scrape_problem(record.pool),
        )

    def _config_error_of(self, record: Record) -> StalledReason | None:
        """Looked for once a pool, not once a tick: a cron and a time zone take a while to understand."""
        pool, report = record.pool, record.report
        if pool is None:
            return None
        if report.config_error is None or report.config_error[0] is not pool:
            report.config_error = (pool, self._config_error(pool))
        return report.config_error[1]

    def _add_learned(self, record: Record, status: dict[str, Any], now: float) -> None:
        fleet = record.fleets.get(Role.EVENTLET)
        if fleet is None or fleet.autoscaling.decision is None:
            return
        learned = fleet.autoscaling.decision.learned
        news = learned_status(learned).keys() - (record.status.get("learned") or {}).keys()
        due = bool(news) or now - record.report.learned_written_at >= LEARNED_INTERVAL_SECONDS
        if due and significant_change(learned_from_status(record.status), learned):
            status["learned"] = learned_status(learned)
            record.report.learned_written_at = now

    async def _announce(self, record: Record, before: dict[str, Any], after: dict[str, Any], now: float) -> None:
        """One Event for each condition that became bad, and one when it is good again. Of a condition that changes too
        often the Event comes later, if it still is as it would say.
        """
        if record.pool is None:
            return
        report, conditions = record.report, before.get("conditions") or []
        old = {condition["type"]: condition for condition in conditions}
        if report.announced is not None and report.announced != conditions:
            report.said = {}  # another replica led meanwhile, and its Events say what its conditions say
        report.announced, report.unsaid = after["conditions"], False
        for condition in after["conditions"]:
            name, reason, message = condition["type"], condition["reason"], condition["message"]
            if name not in _BAD:
                continue
            news = _gist(condition)
            said = report.said.setdefault(name, _gist(old[name]) if name in old else (False, ""))
            if news == said:
                continue
            if not _take_token(report, now):
                report.unsaid = True
                continue
            report.said[name] = news
            if news[0]:
                await self._events.warning(record.pool, reason, message)
            else:
                await self._events.normal(record.pool, reason, message)

    async def _announce_routes(self, record: Record, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Auto-routing moved a task, or a human moved it back: say so, and have the workers' list of routes written."""
        old, new = set(before.get("blockingTasks") or ()), set(after.get("blockingTasks") or ())
        if old == new or record.pool is None:
            return
        self._routes_changed(record)
        if moved := ", ".join(sorted(new - old)):
            note = (
                f"{moved} blocked the hub again and again, and runs in prefork workers from now on; to undo it, "
                f"name it in the annotation {EXEMPT_ANNOTATION}"
            )
            await self._events.warning(record.pool, "TaskRouted", note)
        if back := ", ".join(sorted(old - new)):
            await self._events.normal(record.pool, "TaskRouteRemoved", f"{back} runs on green threads again")

    async def _announce_missing_queues(
        self, record: Record, before: dict[str, Any], after: dict[str, Any], now: float
    ) -> None:
        """One Warning of queues that the broker does not have, and another one only for others: not one each time that
        a queue that expires is gone again.
        """
        pool, report, queues = record.pool, record.report, frozenset(record.findings.missing_queues)
        if pool is None or queues <= report.missing_queues_said or missing_queues.REASON not in _reasons(after):
            return
        if missing_queues.REASON in _reasons(before):  # another replica has said it, or this one before it started anew
            report.missing_queues_said |= queues
        elif _take_token(report, now):
            report.missing_queues_said |= queues
            await self._events.warning(pool, missing_queues.REASON, missing_queues.sentence(sorted(queues)))


def _reasons(status: dict[str, Any]) -> set[str]:
    return {condition["reason"] for condition in status.get("conditions") or ()}


def _gist(condition: dict[str, Any]) -> tuple[bool, str]:
    """Whether it is bad, and the reason of that: what an Event says."""
    bad = condition["status"] == _BAD[condition["type"]]
    return bad, condition["reason"] if bad else ""


def _take_token(report: Report, now: float) -> bool:
    """Whether one more Event may be written at *now*, a Unix time."""
    tokens, at = report.event_tokens or (float(EVENT_BURST), now)
    tokens = min(float(EVENT_BURST), tokens + max(0.0, now - at) / EVENT_SECONDS)
    report.event_tokens = (tokens - 1.0, now) if tokens >= 1.0 else (tokens, now)
    return tokens >= 1.0


def _same(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether nothing that people read differs. Empty lists may be absent in what the API server has."""
    return {key: value for key, value in new.items() if value != []} == {
        key: value for key, value in old.items() if value != []
    }
