"""What the fault runs on a cluster make of what the API server tells of pods."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.cluster.nemesis import KINDS, SHORT_KINDS, Attempt, Nemesis
from tests.faults.cluster.pods import Book, Said, StatusLog
from tests.faults.cluster.run import Outcome
from tests.faults.fleet import DRAIN_SECONDS
from tests.faults.history import Disruption, Verdict, crashed, hung

OFFSET = -1_000_000.0
"""So that Unix times are a million seconds ahead of the monotonic clock here."""


def at(seconds: float) -> str:
    """A time of kubelet's, for a monotonic one."""
    return datetime.fromtimestamp(seconds - OFFSET, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def terminated(code: int, start: float, end: float, reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "startedAt": at(start), "finishedAt": at(end)}


def pod(  # noqa: PLR0917 - as a pod has them
    name: str = "w1",
    restarts: int = 0,
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    *,
    role: str = "eventlet",
    told: bool = False,
    ready: bool = True,
    why: str = "",
) -> dict[str, Any]:
    container = {
        "name": "worker",
        "restartCount": restarts,
        "state": state or {"running": {"startedAt": at(100)}},
        "lastState": {"terminated": last} if last else {},
    }
    conditions = [{"type": "Ready", "status": str(ready)}]
    conditions += [{"type": "DisruptionTarget", "status": "True", "reason": why}] if why else []
    metadata: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "labels": {"greenfleet.io/role": role}}
    if told:
        metadata["deletionTimestamp"] = at(0)
    return {"metadata": metadata, "status": {"containerStatuses": [container], "conditions": conditions}}


@pytest.fixture
def book() -> Book:
    return Book(OFFSET)


def test_a_worker_that_drained_is_one_process_that_was_told(book: Book) -> None:
    book.see(pod(), 101)
    book.see(pod(told=True, why="EvictionByEvictionAPI"), 150)
    book.see(pod(told=True, state={"terminated": terminated(0, 100, 153)}), 153.5)
    book.see(pod(told=True), 154, deleted=True)
    [process] = book.processes(200)
    assert (process.start, process.end, process.told, process.status) == (100, 150, True, 0)
    assert book.lives()[0].reason == "EvictionByEvictionAPI"
    drain, over = book.drains()
    assert (drain.kind, drain.target, drain.start, drain.end, drain.may_repeat) == ("drain", "w1", 150, 154, False)
    assert over.unfinished
    assert over.start == 150 + DRAIN_SECONDS
    assert not crashed([process], book.drains())


def test_a_worker_that_the_kernel_ended_is_a_process_of_its_own_and_no_crash_where_that_was_tried(book: Book) -> None:
    book.see(pod(), 101)
    book.see(
        pod(restarts=1, state={"running": {"startedAt": at(162)}}, last=terminated(137, 100, 160, "OOMKilled")), 162
    )
    [(life, run)] = book.killed_for_memory(since=160.9)
    assert (life.name, run.end, run.status) == ("w1", 160, -9)
    first, second = book.processes(200)
    assert (first.status, first.told, first.end, second.start, second.status) == (-9, False, 160, 162, None)
    assert crashed([first], [])
    assert not crashed([first], [Disruption("out_of_memory", "w1", 159, 161, may_repeat=True)])
    assert not book.killed_for_memory(since=170)


def test_a_worker_whose_probe_failed_is_no_crash_if_it_drained(book: Book) -> None:
    book.see(pod(), 101)
    book.see(pod(restarts=1, state={"running": {"startedAt": at(162)}}, last=terminated(0, 100, 160)), 162)
    assert crashed(book.processes(200), [])
    book.probed("w1", 158)
    assert not crashed(book.processes(200), [])


def test_a_drain_that_took_longer_than_its_grace_period_has_hung(book: Book) -> None:
    book.see(pod(), 101)
    book.see(pod(told=True), 150)
    book.see(pod(told=True, state={"terminated": terminated(137, 100, 169)}), 169.5)
    assert "did not end" in hung(book.processes(200), [], {}, [])[0]


def test_who_is_told_to_end_before_it_has_started_is_no_crash(book: Book) -> None:
    book.see(pod(ready=False), 101)
    book.see(pod(ready=False, told=True), 102)
    book.see(pod(ready=False, told=True, state={"terminated": terminated(143, 100, 102)}), 102.5)
    assert not crashed(book.processes(200), [])
    book.see(pod("w2"), 101)
    book.see(pod("w2", told=True), 150)
    book.see(pod("w2", told=True, state={"terminated": terminated(143, 100, 151)}), 151.5)
    assert "status -15" in crashed(book.processes(200), [])[0]


def test_a_pod_that_went_while_the_api_server_was_away_is_gone(book: Book) -> None:
    book.see(pod(), 101)
    book.relisted([pod("w2")], 170)
    assert [(life.name, life.told, life.left) for life in book.lives()] == [("w1", 170, 170), ("w2", None, None)]
    assert [one.living for one in book.lives()] == [False, True]


def test_an_exporter_is_no_worker(book: Book) -> None:
    book.see(pod("exporter", role="exporter"), 101)
    book.see(pod("exporter", role="exporter", told=True), 150)
    assert not book.processes(200)
    assert not book.drains()


def test_the_status_log_tells_what_was_said_after_a_time_and_each_scale_in() -> None:
    log = StatusLog(None, "n", "p")
    log.said = [
        Said(10, {"MetricsAvailable": ("False", "NoSample")}, 4, 4),
        Said(20, {"MetricsAvailable": ("True", "Complete")}, 4, 4),
        Said(30, {"MetricsAvailable": ("False", "StaleSample")}, 4, 3),
        Said(35, {"MetricsAvailable": ("False", "StaleSample")}, 3, None),
        Said(40, {"MetricsAvailable": ("True", "Complete")}, 3, 2),
    ]
    assert log.reasons("MetricsAvailable", "False", 15) == {"StaleSample"}
    assert log.scaled_in(25, 32) == [(4, 3)]
    assert log.scaled_in(30, 50) == [(3, 2)]
    assert not log.scaled_in(30, 36)


def test_a_fault_that_was_not_proven_does_not_count_and_one_that_the_pool_did_not_survive_breaks_the_run() -> None:
    well = Attempt("pod_evicted", 1, 2, proof="gone", again_seconds=5.0)
    unproven = Attempt("scale_in", 1, 2, error="not within 90 s", again_seconds=1.0)
    outcome = Outcome(Verdict(), [well, well, unproven])
    assert (outcome.faults, outcome.kept) == ({"pod_evicted": 2}, True)
    assert outcome.unproven == ["scale_in: not within 90 s"]
    assert not Outcome(Verdict(), [Attempt("pod_evicted", 1, 2, proof="gone")]).kept
    assert not Outcome(Verdict(), [Attempt("x", 1, 2, again_seconds=1.0, unsaid="Reconciling")]).kept
    assert not Outcome(Verdict(lost=("t1",)), [well]).kept


def test_each_kind_has_its_method() -> None:
    assert [kind for kind in KINDS if not callable(getattr(Nemesis, f"_{kind}", None))] == []
    assert set(SHORT_KINDS) <= set(KINDS)
