"""What this replica knows about every pool. Plain state, owned by one event loop; everything in it can be made anew."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from greenfleet.api import GreenWorkerPool
from greenfleet.api.pool import InvalidPoolError, parse_pool
from greenfleet.engine.evidence import exempt_tasks, routes
from greenfleet.resources.names import Role
from greenfleet.resources.worker import prefork_queue
from greenfleet.scaling import Decision, State, Why

HISTORY = 50
"""Decisions that are remembered per fleet for `why`."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Why a pool cannot make progress without a human: reason for programs, field–value–reason–fix for people."""

    reason: str
    message: str


@dataclass(slots=True)
class Fleet:
    """One role of a pool as the scaling loop sees it."""

    role: Role
    state: State | None = None
    """None until the first tick under our leadership."""
    decision: Decision | None = None
    history: deque[Why] = field(default_factory=lambda: deque(maxlen=HISTORY))
    start_threads: int | None = None
    """What the ConfigMap says, None if we have not written it yet."""
    start_threads_written_at: float = 0.0
    pod_threads_written_at: dict[str, float] = field(default_factory=dict)
    actuating: bool = False
    evicted_at: float = float("-inf")
    """Unix time of the last eviction for recycling."""


@dataclass(slots=True)
class Record:
    """One pool."""

    key: str
    body: dict[str, Any]
    """The object as the API server has it."""
    pool: GreenWorkerPool | None = None
    """None while the spec cannot be parsed."""
    invalid: Stall | None = None
    """Why the spec cannot be parsed."""
    refused: Stall | None = None
    """What the last reconciliation ran into: a conflict between pools, or the API server's refusal."""
    misfit: Stall | None = None
    """What the operator's configuration has no place for, or what it cannot evaluate; scaling goes on without it."""
    reconciled_generation: int | None = None
    """Generation whose children were all applied by this replica."""
    fleets: dict[Role, Fleet] = field(default_factory=dict)
    last_scale: tuple[str, str] | None = None
    """Time and reason of the last change, for the status."""
    blocked: dict[str, float] = field(default_factory=dict)
    """Unix time at which each task was last seen blocking the hub."""
    blocked_seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    """Counter values by (worker, task), to see increments."""
    caught: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Moments at which each task was caught blocking, as evidence for routing."""
    learned_written_at: float = float("-inf")

    @property
    def status(self) -> dict[str, Any]:
        """The status as the API server has it."""
        return self.body.get("status") or {}

    def routes(self, now: float) -> tuple[str, ...]:
        """Tasks that evidence sends to prefork: kept in the status, which is where they survive a restart."""
        if self.pool is None or self.pool.spec.prefork is None or not self.pool.spec.prefork.auto_route:
            return ()
        exempt = exempt_tasks(self.body["metadata"].get("annotations") or {})
        return routes(self.status.get("blockingTasks") or (), self.caught, exempt, now)

    def fleet(self, role: Role) -> Fleet:
        """The fleet of a role, made when first asked for."""
        return self.fleets.setdefault(role, Fleet(role))


class Registry:
    """All pools by `namespace/name`."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def get(self, key: str) -> Record | None:
        """The record of a pool, or None."""
        return self._records.get(key)

    def put(self, body: dict[str, Any]) -> Record:
        """Takes in an object from the API server."""
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        record = self._records.get(key)
        if record is None or record.body["metadata"]["uid"] != body["metadata"]["uid"]:
            record = self._records[key] = Record(key, body)
        record.body = body
        try:
            record.pool, record.invalid = parse_pool(body), None
        except InvalidPoolError as error:
            record.pool, record.invalid = None, Stall("InvalidSpec", str(error))
        if record.pool is not None and record.pool.spec.prefork is None:
            record.fleets.pop(Role.PREFORK, None)
        return record

    def remove(self, key: str) -> Record | None:
        """Forgets a pool."""
        return self._records.pop(key, None)

    def forget_decisions(self) -> None:
        """For a new leader: what another replica decided in between is not known, so begin anew."""
        for record in self:
            record.fleets.clear()
            record.blocked_seconds.clear()

    def of_broker(self, broker_key: str) -> list[GreenWorkerPool]:
        """All pools of one broker, those in conflict included."""
        return [record.pool for record in self if record.pool is not None and record.pool.broker_key == broker_key]

    def conflict(self, pool: GreenWorkerPool) -> Stall | None:
        """Says whether another pool consumes one of this pool's queues from the same broker."""
        for other in sorted(self.of_broker(pool.broker_key), key=lambda other: other.name):
            shared = sorted(set(queues_of(pool)) & set(queues_of(other))) if other.key != pool.key else []
            if shared:
                return Stall(
                    "QueueConflict",
                    f"spec.queues has {_quoted(shared)}, which the pool {other.name} of the same broker consumes too, so that "
                    "neither could be scaled by its backlog: give each queue to one pool",
                )
        return None


def queues_of(pool: GreenWorkerPool) -> Iterable[str]:
    """The queues that a pool's workers consume, the prefork companion's included."""
    companions = [prefork_queue(queue) for queue in pool.spec.queues] if pool.spec.prefork is not None else []
    return [*pool.spec.queues, *companions]


def _quoted(queues: list[str]) -> str:
    return ", ".join(repr(queue) for queue in queues)
