"""What goes wrong between operator and API server: stale and missed state, refusals, answers that never come. One per
step, drawn from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.operator.life import Life, Plan, Trouble
from tests.faults.operator.stage import LEASE_SECONDS, Replica
from tests.integration.operator.faulty_api import (
    Answer,
    Cut,
    Expire,
    Fault,
    Garble,
    Hold,
    Lose,
    Mute,
    Recall,
    Rule,
    Seen,
    Swallow,
)
from tests.integration.operator.harness import Object

KINDS = ("greenworkerpools", "deployments", "pods", "networkpolicies", "poddisruptionbudgets")


def _is_plain_write(seen: Seen) -> bool:
    return seen.is_write and "/leases" not in seen.path and "dryRun" not in seen.query


@dataclass
class Refusals(Trouble):
    """A share of all writes is refused: 409, 429, 500 or 503."""

    seed: int
    status: int

    def __post_init__(self) -> None:
        self.name = f"{self.status}"
        self._chance = random.Random(self.seed)

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        if not _is_plain_write(seen) or self._chance.random() > 0.4:
            return None
        return Answer(self.status, headers={"Retry-After": "1"} if self.status == 429 else {})


@dataclass
class Lost(Trouble):
    """A share of all writes is carried out, and the connection breaks before the answer."""

    seed: int
    name: str = "cut after commit"

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        return Lose() if _is_plain_write(seen) and self._chance.random() < 0.3 else None


@dataclass
class Unanswered(Trouble):
    """A share of all writes is carried out, and the answer never comes: the operator's own time-out ends them."""

    seed: int
    name: str = "time-out after commit"

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        return Mute() if _is_plain_write(seen) and self._chance.random() < 0.3 else None


LEASE_FAULTS: Mapping[str, Callable[[], Fault]] = {
    "409": lambda: Answer(409),
    "429": lambda: Answer(429, headers={"Retry-After": "1"}),
    "500": lambda: Answer(500),
    "cut before commit": lambda: Cut(lambda: None, after=False),
    "cut after commit": Lose,
}


@dataclass
class Renewals(Trouble):
    """The renewals of the replica that leads go wrong, all of them and for so long that it has to stop; where there is
    a standby, and the Lease was not renewed, it takes over.
    """

    how: str
    _leader: str = ""

    def __post_init__(self) -> None:
        self.name = f"Lease: {self.how}"
        self.least_seconds = 1.5 * LEASE_SECONDS

    def begin(self, life: Life) -> None:
        self._leader = next((replica.name for replica in life.replicas if replica.leads()), "")

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        if replica.name != self._leader or not seen.is_write or "/leases" not in seen.path:
            return None
        return LEASE_FAULTS[self.how]()


@dataclass
class Slow(Trouble):
    """Every write arrives late."""

    seconds: float
    name: str = "late writes"

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        return Hold(self.seconds) if _is_plain_write(seen) else None


@dataclass
class Deaf(Trouble):
    """The watch of one kind does not tell of some events, or of none at all. It ends with a new list, with a new watch,
    or stays silent.
    """

    kind: str
    types: tuple[str, ...]
    ends: str
    _rule: dict[str, Rule] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.name = "silent watch" if self.ends == "never" else f"missed {'/'.join(self.types) or 'events'}"

    def begin(self, life: Life) -> None:
        for replica in life.replicas:
            # One that stays silent does so until the operator gives it up; a new one gets events again.
            fault = Swallow(self.types, only_open=self.ends == "never")
            self._rule[replica.name] = replica.proxy.rule(fault, path=f"/{self.kind}$", watch=True)

    def end(self, life: Life) -> None:
        for replica in life.replicas:
            rule = self._rule[replica.name]
            life.count_trouble(rule.happened)
            if self.ends == "never":
                continue
            rule.remove()
            if self.ends == "410":
                replica.proxy.rule(Expire(), path=f"/{self.kind}$", watch=True, times=1)
            replica.proxy.end_watches(f"/{self.kind}$")


@dataclass
class Garbled(Trouble):
    """All watches are opened anew, and tell of everything late, twice, and in another order of the objects."""

    seed: int
    name: str = "late, repeated, out of order"
    counts_itself = True
    _since: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    """By replica and kind: the events that there had been when its watch was opened."""

    def begin(self, life: Life) -> None:
        for replica in life.replicas:
            replica.proxy.end_watches()

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        if not seen.is_watch:
            return None
        kind = seen.path.rpartition("/")[2]
        self._since.setdefault((replica.name, kind), life.stage.chronicle.told(life.namespace.name, kind))
        return Garble(0.7, times=2, seed=self.seed)

    def end(self, life: Life) -> None:
        told = life.stage.chronicle.told
        life.count_trouble(sum(told(life.namespace.name, kind) - had for (_, kind), had in self._since.items()))
        for replica in life.replicas:
            replica.proxy.end_watches()


@dataclass
class TimeTravel(Trouble):
    """The operator is killed, and finds lists as they were before the step; the watches tell of what has happened
    since.
    """

    name: str = "killed, and old lists"
    counts_itself = True
    _old: set[tuple[str, str]] = field(default_factory=set, repr=False)
    """Lists that were not what they had been when the step began."""
    _lists: dict[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    _left: set[tuple[str, str]] = field(default_factory=set, repr=False)

    def begin(self, life: Life) -> None:
        for replica in life.replicas:
            api = life.namespace.api
            old = {target: json.dumps(api.get(target)).encode() for target in sorted(replica.proxy.lists)}
            self._lists[replica.name] = old

    def strike(self, life: Life) -> None:
        for replica in life.replicas:
            self._left |= {(replica.name, target) for target in self._lists[replica.name]}
            life.kill(replica)
        for replica in life.replicas:
            for target, body in self._lists[replica.name].items():
                if versions(json.loads(body)) != versions(life.namespace.api.get(target)):
                    self._old.add((replica.name, target))

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        if seen.is_write or seen.is_watch or "fieldSelector" in seen.query:
            return None
        if (replica.name, seen.target) not in self._left:
            return None
        self._left.discard((replica.name, seen.target))
        life.count_trouble((replica.name, seen.target) in self._old)
        return Recall(self._lists[replica.name][seen.target])


def versions(listed: Object) -> set[tuple[str, str]]:
    """What a list tells of: which objects, and which version of each."""
    return {(item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in listed["items"]}


def drawn(chance: random.Random, step: str) -> Trouble:
    """One trouble of any kind."""
    seed = chance.randrange(2**31)
    if step == "make again":  # a deletion and a creation of the same name that the watch never shows
        return Deaf("greenworkerpools", (), chance.choice(["410", "anew", "never"]))
    makers: list[Callable[[], Trouble]] = [
        lambda: Refusals(seed, 409),
        lambda: Refusals(seed, 429),
        lambda: Refusals(seed, 500),
        lambda: Refusals(seed, 503),
        lambda: Lost(seed),
        lambda: Unanswered(seed),
        lambda: Renewals(chance.choice(list(LEASE_FAULTS))),
        lambda: Slow(0.4),
        lambda: Garbled(seed),
        lambda: Deaf(chance.choice(KINDS), (), "410"),
        lambda: Deaf(chance.choice(KINDS), (), "anew"),
        lambda: Deaf(chance.choice(KINDS), ("DELETED",), "410"),
        lambda: Deaf(chance.choice(KINDS), ("ADDED",), "anew"),
        lambda: Deaf(chance.choice(KINDS), ("MODIFIED",), "410"),
        lambda: Deaf(chance.choice(KINDS), (), "never"),
    ]
    if step not in ("start", "upgrade"):
        makers.append(TimeTravel)
    return chance.choice(makers)()


def troubled(chance: random.Random, steps: tuple[str, ...], *, standby: bool = False) -> Plan:
    """One trouble in each step. With a standby the leader loses its Lease to it in one of them."""
    troubles = {step: drawn(chance, step) for step in steps if step != "start"}
    if standby:
        loses = chance.choice([step for step in troubles if step not in ("upgrade", "make again")])
        troubles[loses] = Renewals(chance.choice([how for how in LEASE_FAULTS if how != "cut after commit"]))
    return Plan(troubles=troubles, standby=standby, steps=steps)
