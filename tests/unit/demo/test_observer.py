"""Promises of looking: what does not answer is the last known, never zero by guess."""

from __future__ import annotations

from typing import Any

import pytest

from demo.api import ApiError
from demo.observer import Observer, leader, unix_time

POD = {
    "metadata": {"name": "feeds-a", "annotations": {"greenfleet.io/threads": "40"}},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}
STATE = {
    "at": 100.0,
    "phase": "burst",
    "phase_started_at": 90.0,
    "sent": 9,
    "executions": 4,
    "waiting": 3,
    "unacked": 2,
}
SERIES = {"metric": {"__name__": "greenworker_threads_limit", "worker": "feeds-a"}, "value": [1, "38"]}


class Answers:
    """An API whose answers, and silences, a test can choose. Stands in for failures that a real one cannot be made to
    show.
    """

    def __init__(self) -> None:
        self.pool: dict[str, Any] = {"status": {"conditions": [{"type": "MetricsAvailable", "status": "False"}]}}
        self.silent: set[str] = set()
        self.holder = ""

    def _answer(self, what: str, content: Any) -> Any:
        if what in self.silent:
            raise ApiError(503, what)
        return content

    def get(self, path: str, **query: str) -> Any:
        return self._answer("pool", self.pool)

    def find(self, path: str, **query: str) -> Any:
        if "leases" in path:
            return {"spec": {"holderIdentity": self.holder}}
        return self._answer("deployment", {"spec": {"replicas": 2}})

    def items(self, path: str, **query: str) -> Any:
        return self._answer("events", []) if path.endswith("events") else self._answer("pods", [POD])

    def service(self, namespace: str, service: str, port: int, path: str, **query: str) -> Any:
        if service == "producer":
            return self._answer("producer", STATE)
        return self._answer("prometheus", {"status": "success", "data": {"result": [SERIES]}})

    def pod(self, namespace: str, pod: str, port: int, path: str) -> Any:
        return {"pool": "demo/feeds", "why": {"inputs": {}, "summary": "one worker is enough"}}


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def observer(answers: Answers) -> Observer:
    return Observer(answers, namespace="demo", pool="feeds")  # type: ignore[arg-type]


def test_one_look_sees_everything(answers: Answers, observer: Observer) -> None:
    answers.holder = "greenfleet-1"
    snapshot, _ = observer.look()
    (worker,) = snapshot.workers
    assert (worker.name, worker.ready, worker.asked, worker.limit, worker.busy) == ("feeds-a", True, 40, 38, None)
    assert (snapshot.phase, snapshot.sent, snapshot.executions, snapshot.desired) == ("burst", 9, 4, 2)
    assert snapshot.metrics_available is False
    assert snapshot.why == "one worker is enough"
    assert snapshot.at - snapshot.phase_started_at == pytest.approx(10, abs=1)


@pytest.mark.parametrize("silent", ["producer", "pods", "deployment", "pool", "events"])
def test_what_does_not_answer_keeps_its_last_value(answers: Answers, observer: Observer, silent: str) -> None:
    before, _ = observer.look()
    answers.silent = {silent}
    after, _ = observer.look()
    assert (after.sent, after.executions, after.desired, after.workers) == (
        *(before.sent, before.executions, before.desired),
        before.workers,
    )


def test_a_silent_prometheus_is_told_and_leaves_no_figures(answers: Answers, observer: Observer) -> None:
    answers.silent = {"prometheus"}
    snapshot, _ = observer.look()
    assert not snapshot.prometheus
    assert snapshot.workers[0].limit is None
    assert snapshot.workers[0].threads == 40


def test_a_change_is_told_once(answers: Answers, observer: Observer) -> None:
    answers.pool["status"]["lastScale"] = {"time": "2999-01-01T00:00:00Z", "reason": "Deadline", "message": "1 to 2"}
    assert [reason.text for reason in observer.look()[1]] == ["1 to 2"]
    assert observer.look()[1] == []


def test_what_was_said_before_the_run_is_not_told(answers: Answers, observer: Observer) -> None:
    answers.pool["status"]["lastScale"] = {"time": "2001-01-01T00:00:00Z", "reason": "Deadline", "message": "old"}
    assert observer.look()[1] == []


@pytest.mark.parametrize(
    ("holder", "pod"), [("op-1", "op-1"), ("op-1_3f2a", "op-1"), ("greenfleet-system/op-1", "op-1"), ("", None)]
)
def test_the_leader_is_the_pod_in_the_holders_name(answers: Answers, holder: str, pod: str | None) -> None:
    answers.holder = holder
    assert leader(answers) == pod  # type: ignore[arg-type]


def test_times_are_read_with_and_without_a_zone() -> None:
    assert unix_time("1970-01-01T00:01:00Z") == unix_time("1970-01-01T00:01:00") == 60
    assert unix_time("1970-01-01T01:01:00+01:00") == 60
    assert unix_time("soon") == unix_time("") == 0
