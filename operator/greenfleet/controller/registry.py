"""What this replica knows about every pool. Plain state, owned by one event loop; everything in it can be made anew."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from greenfleet.api import GreenWorkerPool
from greenfleet.api.pool import InvalidPoolError, parse_pool
from greenfleet.autoscaling import State
from greenfleet.autoscaling.model import Decision, Problem, Sample, ScalingSpec, Why
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import queues_of
from greenfleet.status.auto_routing import EXEMPT_ANNOTATION, exempt_tasks, routes
from greenfleet.status.findings import Findings
from greenfleet.status.load import Load
from greenfleet.status.stalled import StalledReason
from greenfleet.status.waiting import WaitClock

HISTORY = 50
"""Decisions that are remembered per fleet for `why`."""


@dataclass(frozen=True, slots=True)
class LastThreadWrite:
    """The last time that a pod's annotation of green threads was written."""

    at: float
    """Monotonic seconds."""
    fewer: bool
    """Than was written before."""


@dataclass(slots=True)
class Reconciliation:
    """What became of a pool's objects. Written by `controller.reconciler` alone."""

    conflict: StalledReason | None = None
    """Another pool consumes one of its queues. It is not scaled meanwhile: its backlog is not its own."""
    refused: StalledReason | None = None
    """What the last reconciliation ran into: somebody else's object, or the API server's refusal. Workers that run go
    on being scaled.
    """
    refusals: int = 0
    """Of these in a row."""
    generation: int | None = None
    """Generation whose objects were all applied by this replica."""
    begun: bool = False
    """Whether this replica has begun to apply the pool's objects: what is seen of them may be its own work since."""
    drifted: bool = False
    """A child changed since the last reconciliation, by somebody else's hand or our own."""
    config_uid: str | None = None
    """Of the pool's ConfigMap, which nobody watches, as the last apply found it."""
    config_version: str | None = None
    """Its resourceVersion after that apply: of a version that has its owner."""
    config_applied_at: float = float("-inf")
    """Monotonic time at which the ConfigMap was last applied."""
    config_threads: tuple[float, str | None] | None = None
    """What the ConfigMap said then of green threads, with the monotonic time."""

    @property
    def stalled(self) -> StalledReason | None:
        """Why it cannot make progress without a human."""
        return self.conflict or self.refused


@dataclass(slots=True)
class ExporterState:
    """What became of a broker's exporter, which all pools of the broker share. Written by
    `controller.exporters` alone.
    """

    refused: StalledReason | None = None
    """What its last reconciliation ran into."""
    refusals: int = 0
    """Of these in a row."""


@dataclass(slots=True)
class Actuation:
    """What was written of one role's decisions. Written by `controller.actuator` alone."""

    busy: bool = False
    """Whether a decision is being carried out just now."""
    start_threads: int | None = None
    """What the ConfigMap says, None if we have not written it yet."""
    start_threads_written_at: float = 0.0
    """Monotonic seconds."""
    last_thread_writes: dict[str, LastThreadWrite] = field(default_factory=dict)
    last_scale: tuple[float, str, str] | None = None
    """Unix time, reason and message of the last change, for the status."""


@dataclass(slots=True)
class Recycling:
    """Which workers of one role were recycled. Written by `controller.recycler` alone."""

    evicted_at: float = float("-inf")
    """Unix time of the last eviction."""


@dataclass(slots=True)
class Autoscaling:
    """What was decided for one role of a pool, and what the next decision needs. Written by `controller.decider`
    alone.
    """

    state: State | None = None
    """None until the first tick under our leadership."""
    decision: Decision | None = None
    history: deque[Why] = field(default_factory=lambda: deque(maxlen=HISTORY))
    scaling_spec: tuple[GreenWorkerPool, ScalingSpec] | None = None
    """The autoscaler's view of the spec, with the pool that it was made from."""
    idle_until: float = float("-inf")
    """Unix time until which samples that show nothing new are skipped."""
    skipped: tuple[Sample, float] | None = None
    """The last sample that was skipped, with its Unix time."""
    wait_clock: WaitClock = field(default_factory=WaitClock)
    """How long the oldest message waits."""
    load: Load | None = None
    """What waits; None while it is not known."""
    last_missing: tuple[float, tuple[Problem, ...]] | None = None
    """When the load was last not known, in Unix time, and why."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One role of a pool. Each part has an owner that alone writes it."""

    role: Role
    autoscaling: Autoscaling = field(default_factory=Autoscaling)
    actuation: Actuation = field(default_factory=Actuation)
    recycling: Recycling = field(default_factory=Recycling)


@dataclass(slots=True)
class Report:
    """What the status was computed from. Written by `controller.status_writer` alone."""

    learned_written_at: float = float("-inf")
    """Unix time."""
    load_written_at: float = float("-inf")
    """Unix time."""
    shown: tuple[dict[str, Any] | None, ...] | None = None
    """The object and the Deployments that the status was last computed from; None if time alone may change it."""
    said: dict[str, tuple[bool, str]] = field(default_factory=dict)
    """What Events have last said of each condition: whether it is bad, and the reason."""
    announced: list[dict[str, Any]] | None = None
    """The conditions that Events were last written of: another leader has written since if the status has others."""
    unsaid: bool = False
    """Whether an Event waits for its turn."""
    event_tokens: tuple[float, float] | None = None
    """How many Events may be written at once, and the Unix time of that; None: as many as ever."""
    missing_queues_said: frozenset[str] = frozenset()
    """Queues of which an Event has said that the broker does not have them."""
    config_error: tuple[GreenWorkerPool, StalledReason | None] | None = None
    """What the operator's configuration has no place for, with the pool that it was found in."""


@dataclass(slots=True)
class Record:
    """One pool. Its own fields are written here; each part has an owner that alone writes it."""

    key: str
    body: dict[str, Any]
    """The object as the API server has it."""
    pool: GreenWorkerPool | None = None
    """None while the spec cannot be parsed."""
    invalid: StalledReason | None = None
    """Why the spec cannot be parsed."""
    reconciliation: Reconciliation = field(default_factory=Reconciliation)
    fleets: dict[Role, Fleet] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    report: Report = field(default_factory=Report)

    @property
    def uid(self) -> str:
        """The object's own: another one of its name has another."""
        return str(self.body["metadata"]["uid"])

    @property
    def status(self) -> dict[str, Any]:
        """The status as the API server has it."""
        return self.body.get("status") or {}

    def routes(self, now: float) -> tuple[str, ...]:
        """Tasks that auto-routing moved to prefork: kept in the status, which is where they survive a restart."""
        if self.pool is None or self.pool.spec.prefork is None or not self.pool.spec.prefork.auto_route:
            return ()
        exempt = exempt_tasks(self.body["metadata"].get("annotations") or {})
        return routes(self.status.get("blockingTasks") or (), self.findings.detections, exempt, now)

    @property
    def is_scaled_to_zero(self) -> bool:
        """Whether it was decided that no worker is wanted, in either role."""
        decisions = [fleet.autoscaling.decision for fleet in self.fleets.values()]
        return bool(decisions) and all(decision is not None and decision.replicas == 0 for decision in decisions)

    def is_idle(self, now: float) -> bool:
        """Whether nothing waited and nothing ran when it was last looked at, in either role. *now* is Unix time."""
        return bool(self.fleets) and all(fleet.autoscaling.idle_until > now for fleet in self.fleets.values())

    def status_written(self, body: dict[str, Any]) -> None:
        """Takes in the API server's answer to a status that was written."""
        self.body = what_is_kept(body)

    def fleet(self, role: Role) -> Fleet:
        """The fleet of a role, made when first asked for."""
        found = self.fleets.get(role)
        if found is None:
            found = self.fleets[role] = Fleet(role)
        return found


def what_is_kept(body: dict[str, Any]) -> dict[str, Any]:
    """An object without its spec, which is parsed already, and without what others write into its metadata: most of its
    memory, and as much as they like.
    """
    metadata = {name: value for name, value in body["metadata"].items() if name not in ("managedFields", "labels")}
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {name: text for name, text in annotations.items() if name == EXEMPT_ANNOTATION}
    return {**{name: value for name, value in body.items() if name != "spec"}, "metadata": metadata}


def _is_older(body: dict[str, Any], known: dict[str, Any]) -> bool:
    """By resourceVersion: comparable between objects of one kind since Kubernetes 1.35 by promise, and before
    in fact.
    """
    versions = [one["metadata"].get("resourceVersion", "") for one in (body, known)]
    return all(version.isdecimal() for version in versions) and int(versions[0]) < int(versions[1])


class Registry:
    """All pools by `namespace/name`."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._by_broker: dict[str, dict[str, GreenWorkerPool]] = defaultdict(dict)
        self._consumers: dict[tuple[str, str], dict[str, GreenWorkerPool]] = defaultdict(dict)
        """By broker and queue, the companions' included. Asked for every pool at every tick, so it must not grow with
        all pools of a broker.
        """
        self._exporters: dict[str, ExporterState] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def get(self, key: str) -> Record | None:
        """The record of a pool, or None."""
        return self._records.get(key)

    def put(self, body: dict[str, Any], *, certain: bool = False) -> Record:
        """Takes in an object from the API server. One that is older than what is known changes nothing: events of two
        objects of the same name, the one deleted and the other created, may come in any order. *certain*: it was asked
        for just now, and is believed whatever its version: a restored etcd goes back in time.
        """
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        whole, body = body, what_is_kept(body)
        record = self._records.get(key)
        if record is not None and not certain and _is_older(body, record.body):
            return record
        if record is None or record.uid != body["metadata"]["uid"]:
            self.remove(key)
            record = self._records[key] = Record(key, body)
        record.body = body
        same = record.pool is not None and record.pool.generation == body["metadata"].get("generation")
        if same and not certain:
            return record  # its status or its annotations changed
        self._forget_broker(record)
        try:
            record.pool, record.invalid = parse_pool(whole), None
            self._by_broker[record.pool.broker_key][key] = record.pool
            for queue in queues_of(record.pool):
                self._consumers[record.pool.broker_key, queue][key] = record.pool
        except InvalidPoolError as error:
            record.pool, record.invalid = None, StalledReason("InvalidSpec", str(error))
        if record.pool is not None and record.pool.spec.prefork is None:
            record.fleets.pop(Role.PREFORK, None)
        return record

    def remove(self, key: str, uid: str | None = None) -> Record | None:
        """Forgets a pool and returns it; with a uid that one only, and not another one of its name."""
        record = self._records.get(key)
        if record is None or (uid is not None and uid != record.uid):
            return None
        del self._records[key]
        self._forget_broker(record)
        return record

    def _forget_broker(self, record: Record) -> None:
        if record.pool is not None:
            pools = self._by_broker[record.pool.broker_key]
            pools.pop(record.key, None)
            if not pools:
                del self._by_broker[record.pool.broker_key]
            for consumed in {(record.pool.broker_key, queue) for queue in queues_of(record.pool)}:
                self._consumers[consumed].pop(record.key, None)
                if not self._consumers[consumed]:
                    del self._consumers[consumed]

    def forget_decisions(self) -> None:
        """For a new leader: what another replica decided in between is not known, so begin anew."""
        for record in self:
            record.fleets.clear()
            record.findings.forget_counters()

    def of_broker(self, broker_key: str) -> list[GreenWorkerPool]:
        """All pools of one broker, those in conflict included."""
        return list(self._by_broker.get(broker_key, {}).values())

    def exporter(self, broker_key: str) -> ExporterState:
        """The state of a broker's exporter, made when first asked for."""
        return self._exporters.setdefault(broker_key, ExporterState())

    def forget_exporter(self, broker_key: str) -> None:
        """No pool needs it any more."""
        self._exporters.pop(broker_key, None)

    def exporter_refused(self, pool: GreenWorkerPool | None) -> StalledReason | None:
        """Why the pool's exporter cannot be made, if that is so."""
        state = None if pool is None else self._exporters.get(pool.broker_key)
        return None if state is None else state.refused

    def conflicting_pools(self, pool: GreenWorkerPool) -> list[GreenWorkerPool]:
        """Other pools that consume one of this pool's queues from the same broker."""
        found: dict[str, GreenWorkerPool] = {}
        for queue in queues_of(pool):
            found.update(self._consumers.get((pool.broker_key, queue), {}))
        found.pop(pool.key, None)
        return list(found.values())

    def is_in_conflict(self, pool: GreenWorkerPool) -> bool:
        """Whether there is any such pool."""
        consumers = (self._consumers.get((pool.broker_key, queue), {}) for queue in queues_of(pool))
        return any(len(some) > 1 or (some and pool.key not in some) for some in consumers)

    def conflict(self, pool: GreenWorkerPool) -> StalledReason | None:
        """Says whether another pool consumes one of this pool's queues from the same broker."""
        if not self.is_in_conflict(pool):
            return None
        other = min(self.conflicting_pools(pool), key=lambda other: other.name)
        shared = sorted(set(queues_of(pool)) & set(queues_of(other)))
        return StalledReason(
            "QueueConflict",
            f"spec.queues has {_quoted(shared)}, which the pool {other.name} of the same broker consumes too, so that "
            "neither could be scaled by its backlog: give each queue to one pool",
        )


def _quoted(queues: list[str]) -> str:
    return ", ".join(repr(queue) for queue in queues)
