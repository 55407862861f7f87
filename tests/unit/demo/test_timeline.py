"""Promises of the arithmetic on a timeline."""

from __future__ import annotations

from pathlib import Path

from demo import timeline as seen
from demo.timeline import Mark, Reason, Timeline
from tests.unit.demo.runs import BURST_AT, START, feed_hub, snapshot, worker


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    timeline = feed_hub()
    entries: list[seen.Snapshot | Reason | Mark] = [*timeline.snapshots, *timeline.reasons, *timeline.marks]
    path = tmp_path / "timeline.jsonl"
    path.write_text("".join(seen.to_line(entry) + "\n" for entry in entries), encoding="utf-8")
    assert seen.read(path) == timeline


def test_worker_seconds_count_every_pod_from_creation_to_its_end() -> None:
    snapshots = [
        snapshot(0),
        snapshot(2, workers=(worker("a", ready=False),)),
        snapshot(5, workers=(worker("a"), worker("b", ready=False))),
        snapshot(9, workers=(worker("a"),)),
        snapshot(10),
    ]
    assert seen.worker_seconds(snapshots) == 3 * 1 + 4 * 2 + 1 * 1


def test_more_threads_are_measured_from_the_burst_and_not_from_the_level_before() -> None:
    snapshots = [
        snapshot(0, workers=(worker(limit=40),)),
        snapshot(1, workers=(worker(limit=10),)),
        snapshot(3, workers=(worker(limit=10),)),
        snapshot(4, workers=(worker(limit=15),)),
    ]
    assert seen.seconds_to_more_threads(snapshots, START + 1.5) == 2.5


def test_threads_that_were_asked_for_before_the_burst_are_no_answer_to_it() -> None:
    asked = seen.Worker(name="a", ready=True, leaving=False, asked=11, limit=10, busy=0)
    snapshots = [
        snapshot(0, workers=(asked,)),
        snapshot(1, workers=(worker(limit=11),)),
        snapshot(6, workers=(worker(limit=14),)),
    ]
    assert seen.seconds_to_more_threads(snapshots, START) == 6


def test_a_new_worker_counts_when_it_is_ready() -> None:
    snapshots = [
        snapshot(0, workers=(worker("a"),)),
        snapshot(3, workers=(worker("a"), worker("b", ready=False))),
        snapshot(8, workers=(worker("a"), worker("b"))),
    ]
    assert seen.seconds_to_more_workers(snapshots, START) == 8


def test_what_never_came_is_none_and_not_zero() -> None:
    snapshots = [snapshot(0, workers=(worker(),)), snapshot(5, workers=(worker(),))]
    assert seen.seconds_to_more_workers(snapshots, START) is None
    assert seen.seconds_to_more_threads(snapshots, START) is None
    assert seen.seconds_to_more_threads([], START) is None


def test_a_worker_without_a_sample_counts_with_what_it_was_asked_for_once_it_is_ready() -> None:
    asked = seen.Worker(name="a", ready=True, leaving=False, asked=30, limit=None, busy=None)
    young = seen.Worker(name="b", ready=False, leaving=False, asked=30, limit=None, busy=None)
    assert (asked.threads, young.threads) == (30, 0)


def test_a_scale_in_is_found_only_inside_the_window() -> None:
    snapshots = [snapshot(second, desired=desired) for second, desired in enumerate((3, 2, 2, 4, 1, 0))]
    assert seen.scale_ins(snapshots, START + 1, START + 3) == []
    assert seen.scale_ins(snapshots, START, START + 4) == [(START + 1, 3, 2), (START + 4, 4, 1)]


def test_the_rate_is_taken_over_a_short_window() -> None:
    snapshots = [snapshot(second, executions=10 * second) for second in range(20)]
    assert [rate for _, rate in seen.done_per_second(snapshots)][5:] == [10.0] * 15


def test_phases_follow_each_other_without_a_gap() -> None:
    spans = seen.phases(feed_hub().snapshots)
    assert [span.name for span in spans] == ["quiet", "ramp", "burst"]
    assert spans[0].end == spans[1].start
    assert spans[1].end == spans[2].start == BURST_AT


def test_entries_go_where_they_belong() -> None:
    timeline = Timeline()
    timeline.add(Mark(1.0, "burst", ""))
    timeline.add(Reason(2.0, "lastScale", "why"))
    assert timeline.mark("burst") == Mark(1.0, "burst", "")
    assert timeline.mark("ramp") is None
    assert [reason.text for reason in timeline.reasons] == ["why"]
