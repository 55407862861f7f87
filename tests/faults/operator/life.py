"""The life of two pools, from the operator's start to their deletion, with a disturbance in every step; and what has to
be true after each.

A step is one thing that a person, the load or an administrator does. Before the next one begins everything has to be
*settled*: what the step is for has come about, and the operator has written nothing for ten ticks. What exists then is
compared with the same moment of an undisturbed life.
"""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.faults.operator.stage import LEASE_SECONDS, TICK_SECONDS, Replica, Stage
from tests.integration.operator.faulty_api import Cut, Fault, Seen
from tests.integration.operator.harness import Namespace, Object, Refused, fresh_name

QUIET_SECONDS = 10 * TICK_SECONDS
LOOK_SECONDS = 0.3
TROUBLE_SECONDS = 4.0
"""A trouble is over then, or as soon as what the step is for has come about."""
SETTLED_SECONDS = 90.0
"""A step that has not come about by then never will. The collector alone takes half a minute to learn of a resource."""

STEPS = (
    "start", "create", "create another", "scale out", "update", "add prefork", "remove prefork", "upgrade",
    "drift", "move", "make again", "scale in", "delete another", "scale out again", "delete with orphans", "adopt",
    "delete",
)  # fmt: skip
SHORT_ROUTES = (
    ("start", "create", "scale out", "update", "upgrade", "make again", "scale in", "delete"),
    ("start", "create", "create another", "add prefork", "remove prefork", "drift", "scale out", "move",
     "delete another", "delete with orphans", "adopt", "delete"),
)  # fmt: skip
"""Together all kinds of steps, but each in half of the time. In the second one nothing is scaled in: what it moves to
another broker, leaves as orphans and adopts are running workers.
"""
MAY_SHRINK = {
    "remove prefork": {"feeds-prefork"},
    "make again": {"feeds-eventlet"},
    "scale in": {"feeds-eventlet"},
    "delete another": {"mails-eventlet"},
    "delete": {"feeds-eventlet"},
}
"""The fleets that a step takes workers from. In all others, and in all other steps, nothing does."""
SCALED = {
    "scale out": "feeds-eventlet 3",
    "scale out again": "feeds-eventlet 3",
    "scale in": "feeds-eventlet 0",
}
"""The size that a fleet was seen to be given in a step, whatever else it was given."""
MAKES_NOTHING = {"start"}
"""The only step in which nothing is created or deleted."""
CHANCES = 20
"""Looks for rest in a step, until what it is for comes and goes for good: each that finds it takes one, and each
picture.
"""
MADE_BY_CHANCE = {"make again"}
"""Steps in which it depends on who comes first how often something is made: the operator makes a child again that is
gone, and the garbage collector deletes what was made for the pool before. What exists in the end does not.
"""

EGRESS = {"egress": [{"to": [{"ipBlock": {"cidr": "198.18.0.0/15"}}], "ports": [{"port": 6379}]}]}
SPEC: Object = {
    "replicas": {"min": 0, "max": 3},
    "greenThreads": {"min": 10, "max": 10, "start": 10},
    "scaling": {"maxWait": "2s", "cooldown": "1s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
    "network": EGRESS,
}


@dataclass(frozen=True)
class Crash:
    """SIGKILL at a write of a step: before the API server gets the `number`th one, or after it has answered and
    before the operator knows.
    """

    number: int
    after: bool


class Trouble:
    """What goes wrong between operator and API server during a step."""

    name = "none"
    least_seconds = 0.0
    """It does not end before, though what the step is for has come about."""
    counts_itself = False
    """A fault that it asks for may be without effect, so it says itself how often one had any (`count_trouble`)."""

    def begin(self, life: Life) -> None:
        """The step is about to begin."""

    def strike(self, life: Life) -> None:
        """What the step is for was just asked of the API server."""

    def judge(self, life: Life, replica: Replica, seen: Seen) -> Fault | None:
        """What happens to a request."""
        return None

    def end(self, life: Life) -> None:
        """What the step is for was done; from now on nothing goes wrong."""


@dataclass(frozen=True)
class Plan:
    """What happens to one life. `crashes` by step: the first counts writes from the step's beginning, each other one
    from the restart before it.
    """

    crashes: Mapping[str, Sequence[Crash]] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    standby: bool = False
    """A second replica takes over when the first one dies; else the first one comes back, as kubelet restarts a
    container.
    """
    steps: tuple[str, ...] = STEPS

    def as_json(self) -> Object:
        """For the history."""
        return {
            "crashes": {
                step: [f"{'after' if one.after else 'before'} write {one.number}" for one in some]
                for step, some in self.crashes.items()
            },
            "troubles": {step: repr(one) for step, one in self.troubles.items()},
            "standby": self.standby,
        }


@dataclass
class Outcome:
    """One step as it went."""

    step: str
    picture: Object = field(default_factory=dict)
    """What exists, without times, names by chance and uids."""
    made: dict[str, int] = field(default_factory=dict)
    """What was created and deleted in this step; nothing of it is known of a step in `MADE_BY_CHANCE`."""
    sizes: list[str] = field(default_factory=list)
    """How the numbers of workers went that fleets were given in it: `name count`, each change once."""
    writes: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    """The writes at which a replica was killed."""
    troubled: int = 0
    """Requests that something happened to."""
    leader: str = ""
    """The replica that leads at its end."""
    broken: list[str] = field(default_factory=list)
    """What was not as it should be, whatever the undisturbed life was like."""
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds, from when nothing went wrong any more, until what the step is for had come about."""


class Life:
    """Runs through the steps. Everything public is called from one thread; the proxies call `_judge` from theirs."""

    def __init__(self, stage: Stage, directory: Path, plan: Plan) -> None:
        self.stage, self.plan = stage, plan
        self.namespace = Namespace(stage.api, fresh_name("life"))
        stage.namespaces.add(self.namespace.name)
        for secret in ("broker", "broker-2"):
            self.namespace.secret(secret, url="redis://redis.example:6379/0")
        names = ("operator-1", "operator-2") if plan.standby else ("operator-1",)
        self.replicas = [
            Replica(stage, self.namespace, directory / name, name, worker={"image": "greenfleet/worker:1"})
            for name in names
        ]
        for replica in self.replicas:
            replica.judge = lambda seen, replica=replica: self._judge(replica, seen)
        self.outcomes: list[Outcome] = []
        self._specs: dict[str, Object] = {}
        self._workers, self._brokers = 0, 1
        self._lock = threading.Lock()
        self._now = Outcome("before")
        self._due: list[Crash] = []
        self._count = 0
        self._last_change = monotonic()
        self._trouble: Trouble | None = None
        self._starts: dict[str, list[float]] = {name: [] for name in names}
        self._dead: dict[str, bool] = dict.fromkeys(names, False)

    def run(self) -> list[Outcome]:
        """All steps; the first that does not settle is the last."""
        try:
            for step in self.plan.steps:
                self._do(step)
                if any("never" in one for one in self._now.broken):
                    break
            self.outcomes[-1].broken += self._leaders()
            self.outcomes[-1].broken += self._bugs()
        finally:
            for replica in self.replicas:
                replica.close()
            self.stage.forget(self.namespace.name)
        return self.outcomes

    # What happens to requests, in the proxies' threads.

    def _judge(self, replica: Replica, seen: Seen) -> Fault | None:
        if self._dead[replica.name]:
            return Cut(lambda: None, after=False)  # what a dead process had sent and the proxy has not passed on yet
        trouble = self._trouble
        if trouble is not None and (fault := trouble.judge(self, replica, seen)) is not None:
            if not trouble.counts_itself:
                self._now.troubled += 1
            return fault
        counts = self._now.step == "start" or not _is_lease(seen)
        if not seen.is_write or "dryRun" in seen.query or not counts:
            return None
        with self._lock:
            self._count += 1
            self._now.writes.append(_what(seen))
            if self._due and self._count == self._due[0].number:
                crash = self._due.pop(0)
                self._count = 0
                return Cut(lambda: self._kill(replica, seen), crash.after)
        return None

    def _kill(self, replica: Replica, seen: Seen) -> None:
        self.kill(replica)
        self._now.crashed.append(_what(seen))

    def kill(self, replica: Replica) -> None:
        """SIGKILL; it is started again at the next look."""
        self._dead[replica.name] = True
        replica.send(signal.SIGKILL)

    def count_trouble(self, happened: int) -> None:
        """So many requests or events met a trouble that is no answer to a request."""
        self._now.troubled += happened

    # Steps, in the life's own thread.

    def _do(self, step: str) -> None:
        chronicle = self.stage.chronicle
        before, made = chronicle.sizes(self.namespace.name), chronicle.of(self.namespace.name)
        began = monotonic()
        with self._lock:
            self._now = Outcome(step)
            self._due, self._count = list(self.plan.crashes.get(step, ())), 0
        self.outcomes.append(self._now)
        self._trouble = self.plan.troubles.get(step)
        if self._trouble is not None:
            self._trouble.begin(self)
        goal = getattr(self, "_" + step.replace(" ", "_"))()
        if self._trouble is not None:
            self._trouble.strike(self)
            least = monotonic() + self._trouble.least_seconds
            self._while(lambda: monotonic() < least or not goal(), max(TROUBLE_SECONDS, self._trouble.least_seconds))
            trouble, self._trouble = self._trouble, None
            trouble.end(self)
        chances = iter(range(CHANCES))
        for _ in chances:
            self._settle(step, goal, chances)
            self._now.picture = self.picture()
            if self._now.broken or self._while(lambda: not goal(), 0):
                break  # else what the step is for went while the picture was taken
        else:
            self._now.broken.append(f"what the step is for comes and goes, and never stays: {step}")
        self._due = []
        if step not in MADE_BY_CHANCE:
            self._now.made = newly(made, chronicle.of(self.namespace.name))
        self._now.leader = next((one.name for one in self.replicas if _leads(one.text("/metrics"))), "")
        self._now.seconds = monotonic() - began
        sizes = chronicle.sizes(self.namespace.name)[len(before) :]
        self._now.sizes = [f"{name} {count}" for (name, count), _ in groupby(sizes)]
        self._now.broken += shrunk(before, sizes, MAY_SHRINK.get(step, set()))
        # What was made and scaled is not known any more, and will never be.
        self._now.broken += [f"a watch of the test has ended, never to come back: {one}" for one in chronicle.dead]

    def _settle(self, step: str, goal: Callable[[], bool], chances: Iterator[int]) -> None:
        if not self._comes(goal):
            self._now.broken.append(
                f"what the step is for never came about: {self.namespace.name}, {step}; {self._scene()}"
            )
            return

        reached = monotonic()

        def moves() -> bool:
            return monotonic() - max(reached, self._changed_at()) < QUIET_SECONDS

        for _ in chances:
            if not self._while(moves, SETTLED_SECONDS):
                late = [_what(seen) for seen in self._written()[-5:]]
                self._now.broken.append(f"the operator never comes to rest, its last writes: {late}")
                return
            if goal():
                return
            if not self._comes(goal):
                self._now.broken.append(f"what the step is for came about and went, and never came again: {step}")
                return
        self._now.broken.append(f"what the step is for comes and goes, and never stays: {step}")

    def _comes(self, goal: Callable[[], bool]) -> bool:
        """Whether it comes about in time; how long that takes counts as waited."""
        began = monotonic()
        came = self._while(lambda: not goal(), SETTLED_SECONDS)
        self._now.waited += monotonic() - began
        return came

    def _scene(self) -> str:
        """For a person: what there is, who owns it, what the operator wrote last, and whom it knows."""
        there = [
            f"{item['metadata']['name']} {'goes' if 'deletionTimestamp' in item['metadata'] else 'stays'}"
            f" {item['metadata'].get('finalizers', '')} of"
            f" {[owner['name'] + '/' + owner['uid'] for owner in item['metadata'].get('ownerReferences') or ()]}"
            for kind in ("greenworkerpools", "deployments", "configmaps", "networkpolicies", "poddisruptionbudgets")
            for item in self.namespace.api.items(self.namespace.path(kind))
        ]
        writes = [_what(seen) for seen in self._written()[-5:]]
        return f"there is {there}; last writes {writes}; in memory {self._in_memory()}"

    def _while(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits while it holds, and restarts who was killed; False when it still holds after so long."""
        deadline, looked = monotonic() + seconds, 0.0
        while True:
            for replica in self.replicas:
                if self._dead[replica.name] and replica.gone():
                    self._begin(replica)
            if monotonic() - looked > LOOK_SECONDS:
                looked = monotonic()
                try:
                    if not condition():
                        return True
                except Refused as refusal:  # the API server has too much to do
                    if refusal.status != 429 and refusal.status < 500:
                        raise
            if monotonic() > deadline:
                return False
            sleep(0.02)

    def _begin(self, replica: Replica) -> None:
        """Starts it again; what the process before it had sent counts as that one's."""
        replica.proxy.await_hung_up()
        self._starts[replica.name].append(monotonic())
        self._dead[replica.name] = False
        replica.start()

    def _written(self) -> list[Seen]:
        found = [seen for replica in self.replicas for seen in list(replica.proxy.requests)]
        return [seen for seen in found if is_unrest(seen)]

    def _changed_at(self) -> float:
        starts = [at for some in self._starts.values() for at in some]
        return max([*(seen.at for seen in self._written()), *starts, 0.0])

    def apply(self, name: str, **changes: Any) -> None:
        """Applies a pool with changes of its spec that stay; None takes a field out."""
        spec = {**self._specs.get(name, SPEC), **changes}
        self._specs[name] = {key: value for key, value in spec.items() if value is not None}
        self.namespace.apply_pool(name, **self._specs[name])

    def _ready(self, name: str, replicas: int) -> bool:
        """The pool is as its spec says, has complete knowledge, and its status says what there is."""
        pool = self.namespace.find("greenworkerpools", name)
        if pool is None:
            return False
        status = pool.get("status") or {}
        said = {one["type"]: (one["status"], one.get("observedGeneration")) for one in status.get("conditions") or ()}
        wanted = {"Ready": "True", "Stalled": "False", "Reconciling": "False", "MetricsAvailable": "True"}
        generation = pool["metadata"]["generation"]
        if any(said.get(kind) != (value, generation) for kind, value in wanted.items()):
            return False
        live = self.namespace.deployment(name)
        if live is None or live["spec"].get("replicas") != replicas or not _rolled_out(live):
            return False
        shown = (status.get("replicas"), status.get("readyReplicas"))
        there = [
            pod for pod in self.namespace.pods(name) if pod["metadata"]["labels"]["greenfleet.io/role"] == "eventlet"
        ]
        told = [(pod["metadata"].get("annotations") or {}).get("greenfleet.io/threads") for pod in there]
        return shown == (replicas, replicas) and told == ["10"] * replicas

    def _in_memory(self) -> bool:
        """One replica leads, and knows the pools that there are, and no other."""
        pools = self.namespace.api.items(self.namespace.path("greenworkerpools"))
        there = {f"{pool['metadata']['namespace']}/{pool['metadata']['name']}" for pool in pools}
        texts = [replica.text("/metrics") for replica in self.replicas if not self._dead[replica.name]]
        leaders = [text for text in texts if _leads(text)]
        return len(leaders) == 1 and knows(leaders[0], there)

    def _gone(self, *pools: str) -> bool:
        """Nothing of these pools exists."""
        left = [
            item
            for kind in ("deployments", "configmaps", "poddisruptionbudgets", "networkpolicies", "pods")
            for item in self.namespace.api.items(self.namespace.path(kind))
            if (item["metadata"].get("labels") or {}).get("greenfleet.io/pool") in pools
        ]
        return not left and not any(self.namespace.find("greenworkerpools", name) for name in pools)

    def _exporters(self) -> set[str]:
        """Names of those of which anything exists."""
        only = "greenfleet.io/role=exporter"
        return {
            one["metadata"]["name"]
            for kind in ("deployments", "configmaps", "networkpolicies")
            for one in self.namespace.api.items(self.namespace.path(kind), labelSelector=only)
        }

    def _as_applied(self) -> bool:
        """All pools are as their specs and the load say, and there is one exporter for each of their brokers."""
        counts = {name: self._workers if name == "feeds" else 0 for name in self._specs}
        return (
            all(self._ready(name, count) for name, count in counts.items())
            and self._in_memory()
            and len(self._exporters()) == self._brokers
            and all(map(_rolled_out, self.namespace.api.items(self.namespace.path("deployments"))))
        )

    def _start(self) -> Callable[[], bool]:
        for replica in self.replicas:
            self._begin(replica)
        return self._in_memory

    def _create(self) -> Callable[[], bool]:
        for queue in ("feeds", "mails", "feeds.prefork"):
            self.stage.load[self.namespace.name, queue] = 0
        self.apply("feeds")
        return self._as_applied

    def _create_another(self) -> Callable[[], bool]:
        self.apply("mails")
        return self._as_applied

    def _scale_out(self) -> Callable[[], bool]:
        self.stage.load[self.namespace.name, "feeds"] = 100_000
        self._workers = 3
        return self._as_applied

    def _update(self) -> Callable[[], bool]:
        self.apply("feeds", image="registry.example/hub:2")
        return self._rolled("registry.example/hub:2")

    def _rolled(self, image: str) -> Callable[[], bool]:
        def rolled() -> bool:
            live = self.namespace.deployment("feeds") or {"spec": {"template": {"spec": {"containers": [{}]}}}}
            return live["spec"]["template"]["spec"]["containers"][0].get("image") == image and self._as_applied()

        return rolled

    def _add_prefork(self) -> Callable[[], bool]:
        self.apply("feeds", prefork={"processes": 2, "replicas": {"min": 0, "max": 1}, "tasks": ["proj.resize"]})
        return lambda: self.namespace.deployment("feeds", "prefork") is not None and self._as_applied()

    def _remove_prefork(self) -> Callable[[], bool]:
        self.apply("feeds", prefork=None)
        return lambda: self.namespace.deployment("feeds", "prefork") is None and self._as_applied()

    def _upgrade(self) -> Callable[[], bool]:
        """Of the operator, and with it of the agent in the pods as soon as something else replaces them."""
        for replica in self.replicas:
            replica.configure(worker={"image": "greenfleet/worker:2"})
            replica.send(signal.SIGTERM)
        for replica in self.replicas:
            if not self._while(lambda replica=replica: not replica.gone(), 20):
                self._now.broken.append(f"{replica.name} never ends by SIGTERM")
                replica.send(signal.SIGKILL)
            if not self._dead[replica.name]:
                self._begin(replica)
        self.apply("feeds", image="registry.example/hub:3")
        rolled = self._rolled("registry.example/hub:3")

        def upgraded() -> bool:
            live = self.namespace.deployment("feeds")
            inits = (live or {"spec": {"template": {"spec": {}}}})["spec"]["template"]["spec"].get("initContainers")
            return bool(inits and inits[0]["image"] == "greenfleet/worker:2") and rolled()

        return upgraded

    def _drift(self) -> Callable[[], bool]:
        """Somebody edits one child and deletes another."""
        budget, wall = self.namespace.path("poddisruptionbudgets", "feeds-eventlet"), "feeds-greenfleet"
        before = self.namespace.find("networkpolicies", wall)
        self.namespace.api.merge(budget, {"spec": {"maxUnavailable": 5}})
        self.namespace.api.delete(self.namespace.path("networkpolicies", wall))

        def repaired() -> bool:
            found = self.namespace.find("networkpolicies", wall)
            back = found is not None and before is not None and found["metadata"]["uid"] != before["metadata"]["uid"]
            return back and self.namespace.api.get(budget)["spec"]["maxUnavailable"] == 1 and self._as_applied()

        return repaired

    def _move(self) -> Callable[[], bool]:
        """To another broker: its exporter is made, the other one stays for the other pool."""
        self.apply("feeds", broker={"urlFrom": {"secretKeyRef": {"name": "broker-2", "key": "url"}}})
        self._brokers += "mails" in self._specs
        return self._as_applied

    def _make_again(self) -> Callable[[], bool]:
        """A pool is deleted, and made anew by the same name at once."""
        path = self.namespace.path("greenworkerpools", "feeds")
        before = self.namespace.api.get(path)["metadata"]["uid"]
        self.namespace.api.delete(path, propagationPolicy="Background")
        self._while(lambda: self.namespace.find("greenworkerpools", "feeds") is not None, SETTLED_SECONDS)
        self.apply("feeds")
        uid = self.namespace.pool("feeds")["metadata"]["uid"]
        assert uid != before

        def made() -> bool:
            live = self.namespace.deployment("feeds")
            owners = (live or {"metadata": {}})["metadata"].get("ownerReferences") or ()
            return [owner["uid"] for owner in owners] == [uid] and self._as_applied()

        return made

    def _scale_in(self) -> Callable[[], bool]:
        self.stage.load[self.namespace.name, "feeds"] = 0
        self._workers = 0
        return self._as_applied

    def _delete_another(self) -> Callable[[], bool]:
        """The exporter of its broker goes with it."""
        self.namespace.api.delete(self.namespace.path("greenworkerpools", "mails"), propagationPolicy="Background")
        del self._specs["mails"]
        self._brokers = 1
        return lambda: self._gone("mails") and self._as_applied()

    def _scale_out_again(self) -> Callable[[], bool]:
        """So that orphans run and are adopted as they run."""
        return self._scale_out()

    def _delete_with_orphans(self) -> Callable[[], bool]:
        self.namespace.api.delete(self.namespace.path("greenworkerpools", "feeds"), propagationPolicy="Orphan")

        def orphaned() -> bool:
            live = self.namespace.deployment("feeds")
            return (
                self.namespace.find("greenworkerpools", "feeds") is None
                and live is not None
                and not live["metadata"].get("ownerReferences")
                and not self._exporters()
                and self._in_memory()
            )

        return orphaned

    def _adopt(self) -> Callable[[], bool]:
        """A pool of that name takes over what the other one left."""
        self.apply("feeds")
        return self._as_applied

    def _delete(self) -> Callable[[], bool]:
        self.namespace.api.delete(self.namespace.path("greenworkerpools", "feeds"), propagationPolicy="Background")
        return lambda: self._gone("feeds") and not self._exporters() and self._in_memory()

    # What is compared, and what is always true.

    def picture(self) -> Object:
        """All objects of ours as they are, with what differs between two lives masked.

        Compared are labels, annotations (but for times, and digests that have the namespace in them), owners,
        finalizers, whether an object goes, and
        - of a pool its generation, its spec, and of its status what `_pool_status` keeps;
        - of a Deployment its spec, the numbers of its pods, and the fields that each of the operator's field managers
          owns, but whether the reconciler owns `replicas`: it lets go of them at an apply that comes sooner or later;
        - of a ConfigMap its data, of a NetworkPolicy and a PodDisruptionBudget the spec, and of all three who owns
          which fields;
        - of a pod its images.
        Not compared are the field managers of pools and pods: which of them has written depends on what it found to
        do. Nor are `ScalingActive` and `ScalingLimited`, which tell of the last decision, the text of a condition,
        Events, nor the Lease.
        """
        found: list[Object] = []
        for kind in (
            "greenworkerpools",
            "deployments",
            "configmaps",
            "poddisruptionbudgets",
            "networkpolicies",
            "pods",
        ):
            for item in self.namespace.api.items(self.namespace.path(kind)):
                if item["metadata"]["name"] != "kube-root-ca.crt":
                    found.append({**item, "kind": kind})
        alive = {item["metadata"]["uid"] for item in found}
        masked = sorted(
            ((_title(item), _masked(item, alive)) for item in found), key=lambda one: (one[0], json.dumps(one[1]))
        )
        text = json.dumps(masked).replace(self.namespace.name, "NAMESPACE")
        found_twice: dict[str, int] = {}
        picture = {}
        for title, what in json.loads(text):
            number = found_twice[title] = found_twice.get(title, 0) + 1
            picture[f"{title} {number}"] = what
        return picture

    def _leaders(self) -> list[str]:
        requests = {replica.name: list(replica.proxy.requests) for replica in self.replicas}
        stalls = {replica.name: list(replica.proxy.stalls) for replica in self.replicas}
        return wrote_without_lease(requests, self._starts, stalls)[:3]

    def _bugs(self) -> list[str]:
        texts = [replica.log.read_text(errors="replace") for replica in self.replicas if replica.log.exists()]
        return [line for text in texts for line in text.splitlines() if "a bug of ours" in line or "Traceback" in line][
            :3
        ]


def _rolled_out(live: Object) -> bool:
    status, wanted = live.get("status") or {}, live["spec"].get("replicas", 1)
    counts = {status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
    return counts == {wanted} and status.get("observedGeneration") == live["metadata"]["generation"]


def knows(metrics: str, there: set[str]) -> bool:
    """Whether a leader knows these pools (`namespace/name`) and no other. It exposes how many it knows, and the names
    of those it has decided about, which it drops with a pool: as many as there are, and all that there are.
    """
    decided = set(re.findall(r'^greenfleet_desired_workers\{[^}]*\bpool="([^"]*)"', metrics, re.MULTILINE))
    return f"\ngreenfleet_pools {float(len(there))}\n" in metrics and there <= decided


def unseen(step: str, made: Mapping[str, int], sizes: Sequence[str]) -> Iterator[str]:
    """What the test's watches have to tell of a step and did not: what else they did not tell proves nothing then."""
    if not made and step not in MAKES_NOTHING | MADE_BY_CHANCE:
        yield f"nothing was seen to be created or deleted: {step}"
    if step in SCALED and SCALED[step] not in sizes:
        yield f"not seen: {SCALED[step]}"


def shrunk(before: Iterable[tuple[str, int]], since: Iterable[tuple[str, int]], allowed: set[str]) -> Iterator[str]:
    """Each time at which a fleet became smaller than the largest that it had been in a step, and nothing said that it
    may be. `before`: its sizes until the step began, the last of which counts; `since`: those in the step.
    """
    largest = dict(before)
    for name, count in since:
        if count < largest.get(name, 0) and name not in allowed:
            yield f"a scale-in that nothing justified: {name} from {largest[name]} to {count}"
        largest[name] = max(count, largest.get(name, 0))


def wrote_without_lease(
    requests: Mapping[str, Sequence[Seen]],
    starts: Mapping[str, Sequence[float]],
    stalls: Mapping[str, Sequence[tuple[float, float]]],
) -> list[str]:
    """Writes of a replica that did not lead, or no longer, or not yet after its start; by replica, what it asked for,
    when (monotonic seconds) it was started, and when its proxy stood still (`FaultyApi.stalls`).

    Another one leads as soon as the API server has its name in the Lease. A replica itself leads by the renewals that
    it was told of. What it had sent by the end of the Lease is passed on within 0.25 s in which the proxy runs: a write
    counts as in time even if a proxy that stood still passed it on late, unless another one led by then.
    """
    held = [
        (seen.at, seen.answered_at, name, seen.status in (200, 201))
        for name, some in requests.items()
        for seen in some
        if _is_lease(seen) and seen.is_write and seen.accepted and seen.answered_at is not None
        if (seen.body or {}).get("spec", {}).get("holderIdentity") == name
    ]
    broken = []
    for name, some in requests.items():
        for seen in some:
            at = seen.passed_at
            if at is None or not seen.is_write or _is_lease(seen):
                continue
            started = max((one for one in starts[name] if one <= seen.at), default=0.0)
            renewed = max(
                (asked for asked, done, who, told in held if told and who == name and started <= done <= at),
                default=float("-inf"),
            )
            others = [who for _, done, who, _ in held if who != name and renewed < done < at]
            due = renewed + LEASE_SECONDS
            stood = sum(max(0.0, min(ended, at) - max(ended - paused, due)) for ended, paused in stalls.get(name, ()))
            if others or at > due + 0.25 + stood:
                broken.append(
                    f"{name} wrote {_what(seen)} {at - renewed:.2f} s after its last renewal; others led: {others}"
                )
    return broken


def newly(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was counted in between."""
    return {what: count - before.get(what, 0) for what, count in after.items() if count != before.get(what, 0)}


def is_unrest(seen: Seen) -> bool:
    """A request that an operator at rest does not make: any write, whether it changes anything and whatever came of it.

    The Lease is renewed also at rest. Every object is applied again after `HASTY["all is applied again"]` seconds, each
    pool's at once; that is longer than `QUIET_SECONDS`, so it makes the rest begin anew and does not end it for good.
    """
    return seen.is_write and not _is_lease(seen)


def _leads(metrics: str) -> bool:
    return "\ngreenfleet_leader 1.0" in metrics


def _is_lease(seen: Seen) -> bool:
    return "/leases" in seen.path


def _what(seen: Seen) -> str:
    """One request in a few words, the same in every life."""
    path = re.sub(r"^.*/namespaces/[^/]+/", "", seen.path)
    path = re.sub(r"(pods/[a-z-]+-(?:eventlet|prefork|[0-9a-f]{10})-).*?(/|$)", r"\1*\2", path)
    manager = seen.query.get("fieldManager", "")
    return f"{seen.method} {path}" + (f" by {manager.removeprefix('greenfleet-')}" if manager else "")


def _title(item: Object) -> str:
    name = item["metadata"]["name"]
    if item["kind"] == "pods":
        name = name.split(item["metadata"]["labels"].get("pod-template-hash", "-"))[0] + "*"
    return f"{item['kind']} {name}"


_TIMED_ANNOTATIONS = ("greenfleet.io/threads-written-at", "greenfleet.io/queues-touched", "greenfleet.io/queues")
"""When a pod was told something, and whether it had to be."""
_NAMED_ANNOTATIONS = ("greenfleet.io/template",)
"""Digests of what has the namespace in it; that itself is compared."""


def _masked(item: Object, alive: set[str]) -> Object:
    metadata = item["metadata"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != "pod-template-hash"}
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key not in (*_TIMED_ANNOTATIONS, *_NAMED_ANNOTATIONS)
    }
    owners = [
        {**owner, "uid": "alive" if owner["uid"] in alive else "not there"}
        for owner in metadata.get("ownerReferences") or ()
        if owner["kind"] != "ReplicaSet"
    ]
    found: Object = {
        "labels": labels,
        "annotations": annotations,
        "owners": sorted(owners, key=lambda owner: str(owner["name"])),
        "finalizers": metadata.get("finalizers"),
        "going": "deletionTimestamp" in metadata,
        "managers": {
            f"{one['manager']} {one['operation']} {one.get('subresource', '')}": _fields(one)
            for one in metadata.get("managedFields") or ()
            if one["manager"].startswith("greenfleet") and item["kind"] != "pods"
        },
    }
    status = item.get("status") or {}
    match item["kind"]:
        case "greenworkerpools":
            found["generation"] = metadata["generation"]
            found["spec"], found["status"] = item["spec"], _pool_status(status)
            del found["managers"]
        case "deployments":
            counts = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
            found["spec"], found["status"] = item["spec"], {key: status.get(key, 0) for key in counts}
        case "configmaps":
            found["data"] = item.get("data")
        case "pods":
            found["images"] = [one["image"] for one in item["spec"]["containers"]]
        case _:
            found["spec"] = item["spec"]
    return found


def _fields(entry: Object) -> Object:
    fields = dict(entry.get("fieldsV1") or {})
    if entry["manager"] == "greenfleet-reconciler":
        # It lets go of the replicas at the first apply after the autoscaler has them, whenever that is.
        spec = fields.get("f:spec") or {}
        fields["f:spec"] = {key: value for key, value in spec.items() if key != "f:replicas"}
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", json.dumps(fields))
    masked: Object = json.loads(text)
    return masked


def _pool_status(status: Object) -> Object:
    """Counts, and the conditions that a step waits for. Not what was measured, and not the last scaling: a crash right
    after one loses its reason.
    """
    told = ("Ready", "Stalled", "Reconciling", "MetricsAvailable")
    kept = {key: status.get(key) for key in ("replicas", "readyReplicas", "selector", "observedGeneration")}
    conditions = [one for one in status.get("conditions") or () if one["type"] in told]
    # How often a busy machine scrapes is measured, too.
    reasons = {one["type"]: one["reason"].replace("WrongScrapeInterval", "Complete") for one in conditions}
    return {**kept, "conditions": {one["type"]: f"{one['status']} {reasons[one['type']]}" for one in conditions}}


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two pictures differ, one line each."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                yield f"{where}/{key}: {'only in the undisturbed life' if key in one else 'only in this life'}"
            else:
                yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (mine, yours) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, yours, f"{where}/{number}")
    elif one != other:
        yield f"{where}: {str(one)[:400]!r} in the undisturbed life, {str(other)[:400]!r} in this one"
