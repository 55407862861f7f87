"""What the producer of the fault runs expects of its tasks' results is what their messages say."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery import signals
from kombu.utils.json import dumps

from tests.faults.workload import LONG_SECONDS, WEIGHTS, Workload
from tests.integration.worker.harness import Producer

EXPECTED = {
    "short": [None],
    "chain": [None, None, None],
    "retry": ["of t1"],
    "forwarded": ["of t1"],
    "result": ["of t1"],
    "reader": ["of t1", "of t2 with of t1"],
    "group": ["of t1", "of t2", "of t3", "of t4"],
    "chord": ["of t1", "of t2", "of t3", "of t4 with of t1, of t2, of t3"],
}


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    producer = Producer("memory://", result_backend="cache+memory://")
    return Workload(producer, tmp_path / "journal", random.Random(1), 10.0)


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_results_that_are_expected_are_those_of_the_tasks_that_were_sent(workload: Workload, kind: str) -> None:
    messages: dict[str, Any] = {}

    def note(headers: Any, body: Any, **_: Any) -> None:
        messages[headers["id"]] = body

    signals.before_task_publish.connect(note)
    try:
        workload._send(kind)
    finally:
        signals.before_task_publish.disconnect(note)
    sent = list(workload.sent.values())
    assert all(one.confirmed_at is not None for one in sent), "published"
    assert [one.result for one in sent] == EXPECTED[kind]
    assert sorted(workload.task_ids) == sorted(one.identity for one in sent if one.result)
    for identity, task_id in workload.task_ids.items():
        if task_id in messages:
            assert messages[task_id][0][0] == identity
        else:  # published by a worker: its id is in the message of a task before it
            assert any(task_id in dumps(body) for body in messages.values())


def test_every_kind_can_be_sent(workload: Workload) -> None:
    for kind in WEIGHTS:
        workload._send(kind)
    assert {one.kind for one in workload.sent.values() if one.confirmed_at is not None} == set(WEIGHTS)


def test_a_producer_that_ended_by_itself_fails_the_run(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the faults that follow would meet no load, and count."""
    monkeypatch.setattr(workload, "_send", lambda kind: 1 / 0)
    workload.start()
    workload._thread.join(10)
    with pytest.raises(RuntimeError, match="ended before"):
        workload.stop()


def test_some_of_the_long_tasks_take_as_long_as_the_run_asks_for(tmp_path: Path) -> None:
    producer = Producer("memory://", result_backend="cache+memory://")
    workload = Workload(producer, tmp_path / "journal", random.Random(1), 10.0, longest_seconds=60.0)
    seconds: Counter[float] = Counter()

    def note(body: Any, **_: Any) -> None:
        seconds[body[0][1]] += 1

    signals.before_task_publish.connect(note)
    try:
        for _ in range(200):
            workload._send("long")
    finally:
        signals.before_task_publish.disconnect(note)
    assert set(seconds) == {LONG_SECONDS, 60.0}
    assert 1 <= seconds[60.0] <= 20
