"""What the oracles of the operator's lives accept and what they reject, by forged ones."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.operator.crashes import Verdict, judge
from tests.faults.operator.life import (
    MADE_BY_CHANCE,
    MAY_SHRINK,
    SHORT_ROUTES,
    STEPS,
    Life,
    Outcome,
    Plan,
    Trouble,
    is_unrest,
    knows,
    newly,
    shrunk,
    unseen,
    wrote_without_lease,
)
from tests.faults.operator.long import not_tried
from tests.faults.operator.mutations import may_be_of
from tests.faults.operator.stage import LEASE_SECONDS, Chronicle
from tests.faults.operator.troubles import Deaf, Renewals, troubled, versions
from tests.integration.operator.faulty_api import Seen
from tests.integration.operator.harness import eventually

FEEDS, PREFORK = "feeds-eventlet", "feeds-prefork"
NAMESPACE = "/apis/apps/v1/namespaces/life-1"


def seen(method: str, path: str, at: float = 0.0, *, status: int | None = 200, **known: Any) -> Seen:
    accepted = known.pop("accepted", status is not None and status < 300)
    made = Seen(method, path, known.pop("query", {}), known.pop("body", None), at, **known)
    made.passed_at, made.answered_at, made.status, made.accepted = at, at + 0.01, status, accepted
    return made


def renewal(who: str, at: float, *, status: int | None = 200, **known: Any) -> Seen:
    body = {"spec": {"holderIdentity": who}}
    return seen("PUT", "/apis/coordination.k8s.io/v1/namespaces/life-1/leases/g", at, status=status, body=body, **known)


def write(at: float) -> Seen:
    return seen("PATCH", f"{NAMESPACE}/deployments/{FEEDS}", at)


@pytest.mark.parametrize(
    ("before", "since", "found"),
    [
        ([], [0, 3], []),
        ([3], [3, 3], []),
        ([0, 3, 0], [0], []),
        ([3], [1], ["from 3 to 1"]),
        ([0], [3, 1, 3], ["from 3 to 1"]),
        ([0], [3, 0, 3], ["from 3 to 0"]),
        ([], [1, 2, 1, 3, 2], ["from 2 to 1", "from 3 to 2"]),
    ],
)
def test_a_fleet_that_is_smaller_than_it_was_within_a_step_was_scaled_in(
    before: list[int], since: list[int], found: list[str]
) -> None:
    for name in (FEEDS, PREFORK):
        said = list(shrunk([(name, one) for one in before], [(name, one) for one in since], set()))
        assert [one.split(f"{name} ")[1] for one in said] == found
        assert not list(shrunk([(name, one) for one in before], [(name, one) for one in since], {name}))


def test_a_step_that_takes_workers_from_one_fleet_takes_none_from_another() -> None:
    allowed = MAY_SHRINK["remove prefork"]
    assert not list(shrunk([(FEEDS, 3), (PREFORK, 1)], [(PREFORK, 0)], allowed))
    assert list(shrunk([(FEEDS, 3), (PREFORK, 1)], [(PREFORK, 0), (FEEDS, 2)], allowed))


def test_orphans_are_left_and_adopted_as_they_run() -> None:
    for route in (STEPS, SHORT_ROUTES[1]):
        grown = max(number for number, step in enumerate(route) if step.startswith("scale out"))
        assert grown < route.index("adopt")
        assert not any(FEEDS in MAY_SHRINK.get(step, ()) for step in route[grown : route.index("adopt") + 1])
    assert set(STEPS) - {"scale out again"} == {step for route in SHORT_ROUTES for step in route}
    assert {*MAY_SHRINK, *MADE_BY_CHANCE} <= set(STEPS)
    assert all(hasattr(Life, "_" + step.replace(" ", "_")) for step in STEPS)


def test_a_step_that_comes_and_goes_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait ends well at once, and each look finds that it has gone again."""
    monkeypatch.setattr(Life, "_while", lambda *_: True)
    monkeypatch.setattr(Life, "_changed_at", lambda _: 0.0)
    life = object.__new__(Life)
    life._now = Outcome("create")
    life._settle("create", lambda: False, iter(range(3)))
    assert life._now.broken == ["what the step is for comes and goes, and never stays: create"]


def test_what_is_made_is_counted_by_step() -> None:
    assert newly({"created Pod": 2, "deleted Pod": 1}, {"created Pod": 2, "deleted Pod": 2, "created X": 1}) == {
        "deleted Pod": 1,
        "created X": 1,
    }


def test_a_life_that_made_something_twice_differs_from_the_undisturbed_one() -> None:
    verdict = Verdict()
    judge(
        verdict,
        1,
        Plan(),
        [Outcome("create", made={"created Pod": 2})],
        [Outcome("create", made={"created Pod": 1})],
    )
    assert verdict.failures[0]["found"] == ["made: /created Pod: '1' in the undisturbed life, '2' in this one"]


@pytest.mark.parametrize("status", [200, 201, 404, 409, 422, 429, 500, None])
def test_a_write_is_no_rest_whatever_comes_of_it(status: int | None) -> None:
    """Also one that changes nothing: its version is the one before."""
    assert is_unrest(seen("PATCH", f"{NAMESPACE}/deployments/{FEEDS}", status=status, changed=False))
    assert is_unrest(seen("POST", "/apis/events.k8s.io/v1/namespaces/life-1/events", status=status))
    assert is_unrest(seen("DELETE", f"{NAMESPACE}/deployments/{FEEDS}", status=status))


def test_reading_and_the_lease_are_no_unrest() -> None:
    assert not is_unrest(seen("GET", f"{NAMESPACE}/deployments"))
    assert not is_unrest(renewal("operator-1", 1.0))


def held(*requests: Seen, by: str = "one") -> dict[str, list[Seen]]:
    return {by: list(requests)}


def test_who_renewed_in_time_may_write() -> None:
    assert not wrote_without_lease(held(renewal("one", 1.0), write(2.0)), {"one": [0.5], "two": []}, {})


@pytest.mark.parametrize(
    "requests",
    [
        held(write(2.0)),
        held(renewal("one", 1.0, status=409), write(2.0)),
        held(renewal("one", 1.0), write(1.5 + LEASE_SECONDS)),
        {**held(renewal("one", 1.0), write(3.0)), **held(renewal("two", 2.0), by="two")},
        # The standby has the Lease, and was never told.
        {**held(renewal("one", 1.0), write(3.0)), **held(renewal("two", 2.0, status=None, accepted=True), by="two")},
        # Its own renewal came through, and it was never told.
        held(renewal("one", 1.0), renewal("one", 5.0, status=None, accepted=True), write(1.5 + LEASE_SECONDS)),
    ],
)
def test_who_does_not_lead_may_not_write(requests: dict[str, list[Seen]]) -> None:
    [found] = wrote_without_lease(requests, {"one": [0.5], "two": [0.5]}, {})
    assert found.startswith("one wrote PATCH deployments/feeds-eventlet")


def test_what_a_proxy_that_stood_still_passed_on_late_was_in_time() -> None:
    starts = {"one": [0.5], "two": [0.5]}
    late = held(renewal("one", 1.0), write(1.5 + LEASE_SECONDS))
    assert not wrote_without_lease(late, starts, {"one": [(1.5 + LEASE_SECONDS, 0.5)]})
    twice = {"one": [(1.3 + LEASE_SECONDS, 0.3), (1.6 + LEASE_SECONDS, 0.3)]}
    assert not wrote_without_lease(late, starts, twice), "it stood still twice"
    assert wrote_without_lease(late, starts, {"one": [(0.9 + LEASE_SECONDS, 3.0)]}), "it went on in time"
    assert wrote_without_lease(late, starts, {"two": [(1.5 + LEASE_SECONDS, 0.5)]}), "another one's proxy"
    led = {**held(renewal("one", 1.0), write(1.5 + LEASE_SECONDS)), **held(renewal("two", 2.0), by="two")}
    assert wrote_without_lease(led, starts, {"one": [(1.5 + LEASE_SECONDS, 0.5)]}), "another one led by then"


def test_a_replica_that_was_started_again_has_to_take_the_lease_anew() -> None:
    assert wrote_without_lease(held(renewal("one", 1.0), write(3.0)), {"one": [0.5, 2.0]}, {})


class _Kind(Trouble):
    name = "of a kind"


def test_a_kind_of_trouble_that_met_nothing_was_not_tried() -> None:
    verdict, plan = Verdict(), Plan(troubles={"create": _Kind(), "update": _Kind()})
    judge(verdict, 1, plan, [Outcome("create")], [Outcome("create")])
    assert (len(verdict.troubled), verdict.troubled_steps) == (0, 0)
    judge(verdict, 1, plan, [Outcome("update", troubled=2)], [Outcome("update")])
    assert (dict(verdict.troubled), verdict.troubled_steps) == ({"of a kind": 2}, 1)


def test_leaders_of_one_step_after_the_other_are_takeovers() -> None:
    verdict = Verdict()
    steps = [Outcome(step, leader=who) for step, who in (("create", "1"), ("update", "2"), ("delete", "2"))]
    judge(verdict, 1, Plan(), steps, [Outcome(step) for step in ("create", "update", "delete")])
    assert verdict.takeovers == 1


def test_an_upgrade_ends_both_and_is_no_takeover() -> None:
    verdict = Verdict()
    steps = [Outcome(step, leader=who) for step, who in (("create", "1"), ("upgrade", "2"), ("delete", "2"))]
    judge(verdict, 1, Plan(), steps, [Outcome(one.step) for one in steps])
    assert verdict.takeovers == 0


def test_a_step_that_only_the_resync_may_have_repaired_is_told_beside_the_undisturbed_ones() -> None:
    verdict, made = Verdict(), {"created X": 1}
    calm = [Outcome("create", made=made, waited=1.0), Outcome("delete", made=made, waited=25.0)]
    judge(verdict, 0, Plan(), calm, calm)
    judge(verdict, 1, Plan(), [Outcome(one.step, made=made, waited=21.0) for one in calm], calm)
    assert verdict.as_json()["late"] == {"create": 1, "delete": 1}
    assert verdict.as_json()["late_undisturbed"] == {"delete": 1}


@pytest.mark.parametrize(
    ("step", "made", "sizes", "count"),
    [
        ("start", {}, [], 0),
        ("make again", {}, [], 0),
        ("create", {}, [], 1),
        ("create", {"created X": 1}, [], 0),
        ("scale out", {"created X": 1}, ["feeds-eventlet 1", "feeds-eventlet 3"], 0),
        ("scale out", {"created X": 1}, ["feeds-eventlet 1"], 1),
        ("scale in", {}, [], 2),
    ],
)
def test_a_step_of_which_nothing_was_seen_proves_nothing(
    step: str, made: dict[str, int], sizes: list[str], count: int
) -> None:
    assert len(list(unseen(step, made, sizes))) == count
    verdict, calm = Verdict(), [Outcome(step, made=made, sizes=sizes)]
    judge(verdict, 1, Plan(), calm, calm)
    assert len(verdict.failures) == bool(count)


@pytest.mark.parametrize(
    ("there", "known"), [({"n/feeds"}, True), ({"n/mails"}, False), ({"n/feeds", "n/mails"}, False), (set(), False)]
)
def test_a_leader_knows_pools_by_name(there: set[str], known: bool) -> None:
    text = '# HELP\ngreenfleet_desired_workers{pool="n/feeds",role="eventlet"} 3.0\ngreenfleet_pools 1.0\n'
    assert knows(text, there) is known


def test_a_leader_without_pools_knows_none() -> None:
    assert knows("# HELP\ngreenfleet_pools 0.0\n", set())


def test_a_list_is_old_when_another_version_of_something_is_there() -> None:
    one = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"uid": "a", "resourceVersion": "3"}}]}
    assert versions(one) == versions({**one, "metadata": {"resourceVersion": "9"}})
    assert versions(one) != versions({"items": [{"metadata": {"uid": "a", "resourceVersion": "4"}}]})
    assert versions(one) != versions({"items": []})


@pytest.mark.parametrize(
    ("owners", "label", "mine"),
    [
        (["p1"], "p1", True),
        (["p2"], "p2", False),
        (["p1", "p2"], None, True),
        ([], "p1", True),
        ([], "p2", False),
        ([], None, True),
        ([], "never heard of", True),
        (["never heard of"], None, True),
    ],
)
def test_what_belongs_to_no_other_pool_is_compared(owners: list[str], label: str | None, mine: bool) -> None:
    labels = {"greenfleet.io/pool": label} if label else None
    item = {"metadata": {"ownerReferences": [{"name": one} for one in owners], "labels": labels}}
    assert may_be_of(item, "p1", {"p2", "p3"}) is mine


class _Answer:
    def __init__(self, events: list[dict[str, Any]], status: int = 200) -> None:
        self.status, self._events, self.data = status, events, b"no"

    def stream(self, _: int) -> Iterator[bytes]:
        for event in self._events:
            yield json.dumps(event).encode() + b"\n"

    def close(self) -> None:
        pass


class _Api:
    """An API server that has these lists, and these answers to watches, one after the other."""

    server = ""

    def __init__(self, lists: list[list[dict[str, Any]]], watches: list[_Answer]) -> None:
        self._http, self._lists, self._watches = self, lists, watches
        self.done = threading.Event()

    def get(self, _: str) -> dict[str, Any]:
        return {"kind": "DeploymentList", "metadata": {"resourceVersion": "9"}, "items": self._lists.pop(0)}

    def request(self, *_: Any, **__: Any) -> _Answer:
        if not self._watches:
            self.done.wait(10)
            return _Answer([])
        return self._watches.pop(0)


def deployment(name: str, replicas: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "5"}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}


def bare(name: str, replicas: int) -> dict[str, Any]:
    """As it is in a list."""
    return {key: value for key, value in deployment(name, replicas).items() if key != "kind"}


@pytest.mark.parametrize(
    "expired", [_Answer([{"type": "ERROR", "object": {"kind": "Status", "code": 410}}]), _Answer([], status=410)]
)
def test_a_chronicle_whose_version_has_expired_lists_anew_and_goes_on(expired: _Answer) -> None:
    watches = [
        _Answer([{"type": "ADDED", "object": deployment("b", 3)}]),
        expired,
        _Answer([{"type": "MODIFIED", "object": deployment("c", 1)}]),
    ]
    api: Any = _Api([[bare("a", 2)], [bare("b", 1), bare("c", 2)]], watches)
    chronicle = Chronicle(api, ["/apis/apps/v1/deployments"])
    try:
        eventually(lambda: len(chronicle.sizes("n")) == 5, "all is told", 10)
        assert chronicle.of("n") == {"created Deployment b": 1, "created Deployment c": 1, "deleted Deployment a": 1}
        assert chronicle.sizes("n") == [("b", 3), ("a", 0), ("b", 1), ("c", 2), ("c", 1)]
        assert (chronicle.gaps, chronicle.dead) == (1, [])
        assert chronicle.told("n", "deployments") == 2
    finally:
        chronicle.close()
        api.done.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_Answer([{"type": "ADDED", "object": {}}]), "KeyError"),
        (_Answer([], status=403), "403"),
        (_Answer([{"type": "ERROR", "object": {"code": 400}}]), "400"),
    ],
)
def test_a_watch_of_the_test_that_has_died_is_known_by_name(answer: _Answer, said: str) -> None:
    api: Any = _Api([[]], [answer])
    chronicle = Chronicle(api, ["/apis/apps/v1/deployments"])
    eventually(lambda: bool(chronicle.dead), "it has died", 10)
    assert said in chronicle.dead[0]
    assert chronicle.dead[0].startswith("/apis/apps/v1/deployments: ")


def test_a_leader_with_a_standby_loses_its_lease_in_a_step() -> None:
    """And a deletion and a creation of one name are never shown by the watch of pools."""
    for seed, route in itertools.product(range(20), (*SHORT_ROUTES, STEPS)):
        plan = troubled(random.Random(seed), route, standby=True)
        assert any(isinstance(one, Renewals) and "after" not in one.how for one in plan.troubles.values())
        gap = plan.troubles.get("make again")
        assert gap is None or (isinstance(gap, Deaf) and (gap.kind, gap.types) == ("greenworkerpools", ()))


def test_a_long_run_that_tried_less_than_was_asked_says_so() -> None:
    chosen = argparse.Namespace(crash_points=500, troubles=200, mutations=1000)
    enough = {"crashes": {"crash_points": 500}, "stale_state": {"steps": 203}, "mutations": {"mutations": 1000}}
    assert not not_tried(enough, chosen)
    assert not_tried({**enough, "crashes": {"crash_points": 480}}, chosen) == ["480 of 500 crashes: crash_points"]
    assert not_tried({**enough, "stale_state": {"steps": 199}}, chosen) == ["199 of 200 stale_state: steps"]
    assert not not_tried({}, argparse.Namespace(crash_points=0, troubles=0, mutations=0))
