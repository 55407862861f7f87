"""Promises of what people see: the live view, the picture, the load."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from demo import picture
from demo.live import View, line, panel, sparkline
from demo.pattern import BURST, full, short, total
from demo.show import over
from demo.timeline import Mark, Reason, Timeline
from tests.unit.demo.runs import START, feed_hub, snapshot, worker

TITLES = {BURST: "20,000 feeds at once"}


def _seen(timeline: Timeline, *, terminal: bool = True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=110, force_terminal=terminal, color_system=None)
    console.print(panel(timeline, TITLES, 120.0))
    return out.getvalue()


def test_the_panel_shows_figures_fleet_and_reason() -> None:
    timeline = feed_hub()
    timeline.snapshots = timeline.snapshots[:60]
    text = _seen(timeline)
    assert "20,000 feeds at once · 0:59" in text
    assert "16,220" in text
    assert "160 threads" in text
    assert "1 to 3 workers: 20,012 messages" in text


def test_metrics_missing_is_shown() -> None:
    timeline = Timeline(snapshots=[snapshot(0, prometheus=False)])
    assert "Prometheus does not answer" in _seen(timeline)
    assert "PROMETHEUS DOES NOT ANSWER" in line(timeline)


def test_an_empty_timeline_can_be_shown() -> None:
    assert "waiting for the first sample" in _seen(Timeline())


def test_without_a_terminal_each_reason_is_printed_once() -> None:
    out = io.StringIO()
    view = View(Console(file=out, width=200), titles=TITLES, objective_seconds=120.0)
    timeline = Timeline(snapshots=[snapshot(0)], reasons=[Reason(START, "Event/ScaledOut", "0 → 1 [bold]")])
    with view.running():
        view.show(timeline)
        view.show(timeline)
    assert out.getvalue().count("0 → 1 [bold]") == 1


@pytest.mark.parametrize(("values", "shown"), [([], ""), ([0, 0], "▁▁"), ([0, 4, 8], "▁▄█")])
def test_a_sparkline_is_scaled_to_its_own_maximum(values: list[float], shown: str) -> None:
    assert sparkline(values).replace("▅", "▄") == shown
    assert len(sparkline(list(range(1000)))) <= 40


def test_the_picture_is_drawn_from_any_run_even_one_that_stopped_early(tmp_path: Path) -> None:
    whole, early = feed_hub(), Timeline(snapshots=[snapshot(0), snapshot(1, workers=(worker(limit=None),))])
    for name, timeline in (("whole", whole), ("early", early)):
        path = tmp_path / f"{name}.png"
        picture.draw(timeline, path, objective_seconds=120.0)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.draw(Timeline(), tmp_path / "none.png", objective_seconds=120.0)


def test_the_picture_names_what_follows_the_work() -> None:
    assert [span.name for span in picture.spans(feed_hub())] == ["quiet", "ramp", "burst", "drain"]


def test_only_the_most_telling_reasons_are_drawn_in_their_order() -> None:
    burst_at = START + 35
    threads = [Reason(START + n, "Event", f"green threads per worker {20 + n} → {21 + n}: more") for n in range(40, 60)]
    first = Reason(burst_at + 3, "Event", "green threads per worker 10 → 11: something waits")
    workers = Reason(burst_at + 10, "Event", "eventlet workers 1 → 3: too much for one")
    other = Reason(START + 50, "Event", "a worker has no sample")
    told = picture.told([*threads, workers, other, first], START, burst_at)
    assert len(told) == picture.MOST_REASONS
    assert {first, workers, other} <= set(told)
    assert told == sorted(told, key=lambda reason: reason.at)


def test_the_pattern_has_the_promised_burst_and_sums_up() -> None:
    burst = next(phase for phase in full() if phase.name == BURST)
    assert burst.burst == 20_000
    assert total(full()) == sum(phase.messages() for phase in full()) > 20_000
    assert total(short()) < total(full()) / 2


def test_the_show_is_over_only_when_all_is_done_and_nobody_is_left() -> None:
    done = {"finished": True, "sent": 5, "executions": 5}
    assert over(snapshot(9, **done))
    assert not over(snapshot(9, **done, workers=(worker(),)))
    assert not over(snapshot(9, **done, desired=1))
    assert not over(snapshot(9, **done, waiting=1))
    assert not over(snapshot(9, **(done | {"executions": 4})))
    assert not over(snapshot(9, **(done | {"finished": False})))
    assert not over(snapshot(9, finished=True))


def test_scale_ins_without_metrics_are_looked_for_between_the_two_marks_only() -> None:
    faults = pytest.importorskip("demo.faults")
    timeline = Timeline(snapshots=[snapshot(second, desired=wanted) for second, wanted in enumerate((4, 4, 3, 3, 1))])
    assert faults.scale_ins_without_metrics(timeline) == []
    timeline.marks = [Mark(START + 2.5, faults.PROMETHEUS_GONE, ""), Mark(START + 3.5, faults.PROMETHEUS_BACK, "")]
    assert faults.scale_ins_without_metrics(timeline) == []
    timeline.marks[0] = Mark(START + 1, faults.PROMETHEUS_GONE, "")
    assert faults.scale_ins_without_metrics(timeline) == [(START + 2, 4, 3)]
