"""Promises of the verdict: good only if nothing was lost and no worker is left."""

from __future__ import annotations

from typing import Any

import pytest

from demo.summary import Summary, rows, summarize
from tests.unit.demo.runs import feed_hub, snapshot, worker

ACCOUNT: dict[str, Any] = {
    "sent": 20_484,
    "done": 20_484,
    "lost": 0,
    "twice": 3,
    "unknown": 0,
    "waited_max_seconds": 104.2,
    "waited_p50_seconds": 52.0,
    "waited_p99_seconds": 101.0,
}


def _summary(**changes: Any) -> Summary:
    error = str(changes.pop("error", ""))
    return summarize(feed_hub(), ACCOUNT | changes, objective_seconds=120.0, error=error)


def test_a_run_that_lost_nothing_and_ended_at_zero_is_good() -> None:
    summary = _summary()
    assert summary.good
    assert summary.first_threads_seconds == 3
    assert summary.first_worker_seconds == 9
    assert summary.most_workers == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lost": 1}, "1 tasks were lost"),
        ({"unknown": 2}, "cannot be believed"),
        ({"sent": 0}, "nothing was sent"),
        ({"error": "scaled in while metrics were missing: 3 to 2 workers"}, "while metrics were missing"),
    ],
)
def test_each_kind_of_failure_is_named(changes: dict[str, Any], said: str) -> None:
    summary = _summary(**changes)
    assert not summary.good
    assert any(said in failure for failure in summary.failures)


def test_a_worker_that_is_left_is_a_failure() -> None:
    timeline = feed_hub()
    timeline.add(snapshot(200, workers=(worker(),)))
    assert summarize(timeline, ACCOUNT, objective_seconds=120.0).failures == ("the pool did not end at zero workers",)


def test_delivered_twice_is_told_and_is_no_failure() -> None:
    assert _summary(twice=40).good
    assert ("delivered twice", "40") in rows(_summary(twice=40))


def test_a_wait_beyond_the_objective_is_told() -> None:
    told = dict(rows(_summary(waited_max_seconds=130.0)))
    assert "BEYOND" in told["longest wait"]
    assert "within" in dict(rows(_summary()))["longest wait"]
