"""Specs that people get wrong: every leaf of the schema deleted, changed, pushed to each bound and past it, in chains,
and then put right.

The leaves and their bounds come from the CRD itself (`leaves`, `values`), so that a new field is tried as soon as it is
there. A chain begins and ends with the same spec: what exists at its end is what existed at its beginning, whatever the
API server and the operator said in between.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import yaml

from greenfleet.api.crd import custom_resource_definition
from tests.faults.operator.life import differences
from tests.faults.operator.stage import Replica, Stage
from tests.integration.operator.harness import REPOSITORY, Namespace, Object, Refused, eventually, fresh_name

HANDLED_SECONDS = 60.0
Path_ = tuple[str | int, ...]
DELETE = object()
_TRIED = "tried"
"""A key or item that a map or list gets where it has none."""


@dataclass(frozen=True)
class Mutation:
    """One change of a spec at one place."""

    path: Path_
    what: str
    value: Any

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.what}"

    def of(self, spec: Object) -> Object:
        """A copy of `spec` with this change; parents that are missing are made."""
        changed = copy.deepcopy(spec)
        place: Any = changed
        for step, after in itertools.pairwise(self.path):
            empty: Any = [] if isinstance(after, int) else {}
            if isinstance(place, list):
                if not place:
                    place.append(empty)
                place = place[0]
            else:
                if not isinstance(place.get(step), type(empty)):
                    place[step] = empty
                place = place[step]
        last = self.path[-1]
        if isinstance(place, list):
            place[:1] = [] if self.value is DELETE else [self.value]
        elif self.value is DELETE:
            place.pop(last, None)
        else:
            place[last] = self.value
        return changed


def leaves(schema: Object, path: Path_ = ()) -> Iterator[tuple[Path_, Object]]:
    """Every place of a schema that has a value, lists and maps as a whole among them."""
    if path:
        yield path, schema
    for name, part in (schema.get("properties") or {}).items():
        yield from leaves(part, (*path, name))
    if isinstance(schema.get("items"), dict):
        yield from leaves(schema["items"], (*path, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from leaves(schema["additionalProperties"], (*path, _TRIED))


def values(schema: Object, now: Any) -> Iterator[tuple[str, Any]]:
    """What is put in a place: (what it is, the value)."""
    yield "deleted", DELETE
    yield "null", None
    for member in schema.get("enum") or ():
        yield f"{member!r}", member
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        kind = "string"
        yield "a number", 1
    if kind in ("integer", "number"):
        yield from _numbers(schema, now)
    elif kind == "string":
        yield from _texts(schema, now)
    elif kind == "boolean":
        yield "true", True
        yield "false", False
        yield "another type", "yes"
    elif kind == "array":
        yield from _lists(schema, now)
    else:
        yield "empty", {}
        yield "another type", "text"
        yield "an unknown field", {**(now if isinstance(now, dict) else {}), "noSuchField": 1}


def _numbers(schema: Object, now: Any) -> Iterator[tuple[str, Any]]:
    for bound, past in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            yield f"at its {bound}", schema[bound]
            yield f"past its {bound}", schema[bound] + past
    yield "changed", (now or 0) + 1
    for value in (0, -1, 2**31, 2**63 - 1):
        yield f"{value}", value
    yield "another type", "text"


_TEXTS = (
    "",
    " ",
    "x",
    "1s",
    "0s",
    "-1s",
    "1ms",
    "9999h",
    "0",
    "1",
    "-1",
    "1e400",
    "5Ei",
    "100m",
    "é☃",
    "a/b",
    "$(HOME)",
    "*/0 * * * *",
)
"""Words that some field or other takes for something."""


def _texts(schema: Object, now: Any) -> Iterator[tuple[str, Any]]:
    if now:
        yield "changed", f"{now}x"
    for bound, past in (("minLength", -1), ("maxLength", 1)):
        if bound in schema:
            yield f"at its {bound}", "x" * schema[bound]
            if schema[bound] + past >= 0:
                yield f"past its {bound}", "x" * (schema[bound] + past)
    for text in _TEXTS:
        yield f"{text!r}", text
    yield "another type", 7


def _lists(schema: Object, now: Any) -> Iterator[tuple[str, Any]]:
    yield "empty", []
    items = list(now or ())
    if items:
        yield "twice", items + items
        yield "reversed", items[::-1]
    for bound, past in (("minItems", -1), ("maxItems", 1)):
        for name, count in ((f"at its {bound}", 0), (f"past its {bound}", past)):
            if bound in schema and 0 <= schema[bound] + count <= 300:
                yield name, [_numbered(items, number) for number in range(schema[bound] + count)]
    yield "another type", "text"


def _numbered(items: Sequence[Any], number: int) -> Any:
    """One of many, different from the others where that is easy."""
    item = items[0] if items else f"tried{number}"
    if isinstance(item, str):
        return f"{item}{number}"
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        return {**item, "name": f"{item['name']}{number}"}
    return number if isinstance(item, int) else item


def everything(spec: Object) -> list[Mutation]:
    """All mutations of a spec."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return [
        Mutation(path, what, value) for path, part in leaves(schema) for what, value in values(part, _at(spec, path))
    ]


def _at(spec: Any, path: Path_) -> Any:
    for step in path:
        try:
            spec = spec[step]
        except (KeyError, IndexError, TypeError):
            return None
    return spec


def right_spec(pool: str) -> Object:
    """A spec with nearly everything in it. No worker runs: what is compared is what the operator makes, and no rollout
    delays it.
    """
    [found] = yaml.safe_load_all((REPOSITORY / "tests" / "golden" / "everything.pools.yaml").read_text())
    spec: Object = json.loads(json.dumps(found["spec"]))
    spec["broker"]["urlFrom"] = {"secretKeyRef": {"name": f"broker-{pool}", "key": "url"}}
    spec["queues"] = [f"{pool}-{queue}" for queue in ("feeds", "feeds:low", "a/b.c")]
    spec["scaling"]["prometheus"] = {}
    spec["scaling"]["mode"] = "Manual"
    spec["manualReplicas"] = 0
    spec["replicas"] = {"min": 0, "max": 20}
    for field_ in ("pause", "schedules", "onMissingMetrics"):
        spec["scaling"].pop(field_, None)
    for field_ in ("serviceAccountName", "priorityClassName"):
        spec["worker"].pop(field_, None)
    return spec


@dataclass
class Tally:
    """What a number of chains came to."""

    chains: int = 0
    mutations: int = 0
    refused: int = 0
    """By the API server."""
    stalled: Counter[str] = field(default_factory=Counter)
    """By the operator, with the reason."""
    leaves: set[Path_] = field(default_factory=set)
    failures: list[Object] = field(default_factory=list)

    def as_json(self) -> Object:
        """One line."""
        return {
            "chains": self.chains, "mutations": self.mutations, "refused_by_schema": self.refused,
            "leaves": len(self.leaves), "stalled": dict(self.stalled), "failures": len(self.failures),
        }  # fmt: skip


class Patient:
    """One pool that chains are tried on, one after the other."""

    def __init__(self, shop: Namespace, name: str, operator: Replica, others: Collection[str] = ()) -> None:
        self.shop, self.name, self.operator, self.others = shop, name, operator, others
        self.right = right_spec(name)
        shop.secret(f"broker-{name}", url="redis://redis.example:6379/0")
        for queue in self.right["queues"]:
            operator.stage.load[shop.name, queue] = 0
        self.apply(self.right)
        assert self._is_right(), f"{name} never became right at first: {json.dumps(self._status())} {self._log()}"
        self.picture = self.look()

    def apply(self, spec: Object) -> None:
        """As a user does. Raises Refused."""
        body = {
            "apiVersion": "greenfleet.io/v1alpha1", "kind": "GreenWorkerPool",
            "metadata": {"name": self.name, "namespace": self.shop.name}, "spec": spec,
        }  # fmt: skip
        self.shop.api.apply(self.shop.path("greenworkerpools", self.name), body)

    def chain(self, mutations: Sequence[Mutation], *, waits: bool, tally: Tally) -> None:
        """Right, wrong, wrong, …, right again; what is wrong with that is in the tally."""
        spec = self.right
        for mutation in mutations:
            tally.mutations += 1
            tally.leaves.add(mutation.path)
            changed = mutation.of(spec)
            try:
                self.apply(changed)
            except Refused as refusal:
                tally.refused += 1
                if refusal.status >= 500 and "typed patch" not in refusal.message:
                    self._fail(tally, mutations, waits, f"{mutation}: the API server failed: {refusal}")
                continue
            spec = changed
            if waits:
                if not self._await(self._is_handled):
                    self._fail(tally, mutations, waits, f"{mutation}: never handled: {json.dumps(self._status())}")
                stalled = self._condition("Stalled")
                if stalled.get("status") == "True":
                    tally.stalled[stalled["reason"]] += 1
        tally.chains += 1
        self.apply(self.right)
        if not self._is_right():
            self._fail(tally, mutations, waits, f"never right again: {json.dumps(self._status())}")
        elif found := list(differences(self.picture, self._looked())):
            self._fail(tally, mutations, waits, *found[:8])

    def _fail(self, tally: Tally, mutations: Sequence[Mutation], waits: bool, *found: str) -> None:
        chain = [[list(one.path), "deleted" if one.value is DELETE else one.value] for one in mutations]
        tally.failures.append(
            {"pool": self.name, "chain": chain, "waits": waits, "found": list(found), "log": self._log()}
        )

    def _log(self) -> str:
        return "\n".join(self.operator.log.read_text(errors="replace").splitlines()[-4:])

    def _looked(self) -> Object:
        """What is there, as soon as it is as it was before, or else after a while."""
        deadline = monotonic() + 20
        while (found := self.look()) != self.picture and monotonic() < deadline:
            sleep(0.3)
        return found

    def _status(self) -> Object:
        return self.shop.pool(self.name).get("status") or {}

    def _condition(self, kind: str) -> Object:
        return next((one for one in self._status().get("conditions") or () if one["type"] == kind), {})

    def _await(self, condition: Any) -> bool:
        deadline = monotonic() + HANDLED_SECONDS
        while not condition():
            if monotonic() > deadline:
                return False
            sleep(0.15)
        return True

    def _is_handled(self) -> bool:
        """The operator has said something about this very spec, and is not at work on it."""
        pool = self.shop.pool(self.name)
        said = {one["type"]: one for one in (pool.get("status") or {}).get("conditions") or ()}
        current = all(one["observedGeneration"] == pool["metadata"]["generation"] for one in said.values())
        working = said.get("Reconciling", {})
        return bool(said) and current and (working["status"] == "False" or working["reason"] != "Applying")

    def _is_right(self) -> bool:
        """Once the load is known: before, `Ready` says `ScaledToZero` or `Holding`, as the first sample comes."""

        def right() -> bool:
            said = {one["type"]: one["status"] for one in self._status().get("conditions") or ()}
            wanted = {"Ready": "True", "Stalled": "False", "Reconciling": "False", "MetricsAvailable": "True"}
            return self._is_handled() and wanted.items() <= said.items()

        return self._await(right)

    def look(self) -> Object:
        """What the operator made and is no other pool's, as far as it decides about it; and the pool's status."""
        found: Object = {}
        for kind in ("deployments", "configmaps", "poddisruptionbudgets", "networkpolicies"):
            for item in self.shop.api.items(
                self.shop.path(kind), labelSelector="app.kubernetes.io/managed-by=greenfleet"
            ):
                metadata = item["metadata"]
                if may_be_of(item, self.name, self.others):
                    annotations = {
                        key: value
                        for key, value in (metadata.get("annotations") or {}).items()
                        if key not in ("deployment.kubernetes.io/revision", "greenfleet.io/pool-generation")
                    }
                    kept = {key: metadata.get(key) for key in ("labels", "ownerReferences", "finalizers")}
                    what = {key: item.get(key) for key in ("spec", "data")}
                    found[f"{kind} {metadata['name']}"] = {**what, **kept, "annotations": annotations}
        conditions = self._status().get("conditions") or ()
        told = ("Ready", "Stalled", "Reconciling")
        found["status"] = {one["type"]: (one["status"], one["reason"]) for one in conditions if one["type"] in told}
        return found


def may_be_of(item: Object, name: str, others: Collection[str]) -> bool:
    """Whether an object is this pool's, or at least none of the others': by its owners, or by its label where it has
    none. What nobody owns is everybody's, so that it is missed by nobody.
    """
    metadata = item["metadata"]
    owners = {owner["name"] for owner in metadata.get("ownerReferences") or ()}
    of = owners or {(metadata.get("labels") or {}).get("greenfleet.io/pool")}
    return name in of or of.isdisjoint(others)


def run(
    stage: Stage, directory: Path, chance: random.Random, *, count: int, pools: int = 12, longest: int = 8
) -> Tally:
    """`count` mutations and a few more, on so many pools at once; all that there are come before any comes twice."""
    shop = Namespace(stage.api, fresh_name("specs"))
    stage.namespaces.add(shop.name)
    operator = Replica(stage, shop, directory, "operator-1", tick="500ms", leaseDuration="15s")
    operator.start()
    tally = Tally()
    try:
        eventually(operator.leads, "it leads", 60)
        with ThreadPoolExecutor(pools) as threads:
            names = [f"p{number}" for number in range(pools)]
            patients = list(threads.map(lambda name: Patient(shop, name, operator, {*names} - {name}), names))
            chains = _chains(patients[0].right, chance, count, longest)
            shares = [(patient, chains[number::pools]) for number, patient in enumerate(patients)]
            for _ in threads.map(lambda share: _share(*share, tally), shares):
                pass
        text = operator.log.read_text(errors="replace")
        for line in re.findall(r".*(?:a bug of ours|Traceback).*", text)[:3]:
            tally.failures.append({"found": [line]})
        if operator.gone():
            tally.failures.append({"found": ["the operator has ended"]})
    finally:
        operator.close()
        stage.forget(shop.name)
    return tally


def _chains(right: Object, chance: random.Random, count: int, longest: int) -> list[tuple[list[Mutation], bool]]:
    """Each with whether the operator is given the time to see what is wrong before the next thing is."""
    possible = everything(right)
    drawn: list[Mutation] = []
    while len(drawn) < count:
        drawn += _mixed(possible, chance)[: count - len(drawn)]
    chains = []
    while drawn:
        length = chance.randint(1, longest)
        chains.append((drawn[:length], chance.random() < 0.5))
        drawn = drawn[length:]
    return chains


def _mixed(possible: Sequence[Mutation], chance: random.Random) -> list[Mutation]:
    """All of them, each kind in turn while it has any: most are texts that the schema refuses, and a short run of these
    alone would try little else.
    """
    kinds: dict[str, list[Mutation]] = {}
    for one in possible:
        kinds.setdefault("a text" if one.what.startswith("'") else one.what, []).append(one)
    for each in kinds.values():
        chance.shuffle(each)
    turns = itertools.zip_longest(*kinds.values())
    return [one for turn in turns for one in turn if one is not None]


def _share(patient: Patient, chains: Sequence[tuple[list[Mutation], bool]], tally: Tally) -> None:
    """A pool that did not recover is left alone: what comes after would say nothing."""
    for mutations, waits in chains:
        before = len(tally.failures)
        patient.chain([_for(patient, one) for one in mutations], waits=waits, tally=tally)
        if any(failure.get("pool") == patient.name for failure in tally.failures[before:]):
            return


def _for(patient: Patient, mutation: Mutation) -> Mutation:
    """The same for another pool: what was made of the first one's names is made of its own."""
    if mutation.value is DELETE:
        return mutation
    text = json.dumps(mutation.value).replace("p0-", f"{patient.name}-").replace("broker-p0", f"broker-{patient.name}")
    return Mutation(mutation.path, mutation.what, json.loads(text))
