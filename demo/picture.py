"""The picture of a run: backlog, wait, green threads, workers and throughput over time, with the operator's reasons.

Read from top to bottom it tells the whole story: what came in, how long it waited, what moved first, what followed.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from demo import timeline as seen
from demo.pattern import BURST
from demo.summary import Summary
from demo.timeline import Reason, Snapshot, Span, Timeline

INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
GREEN, BLUE, AMBER, RED, VIOLET = "#2f9e44", "#1c7ed6", "#e8890c", "#d6336c", "#7048e8"
WORKER_COLOURS = ("#2f9e44", "#1c7ed6", "#e8890c", "#7048e8", "#0ca678", "#d6336c", "#868e96", "#5c940d")
PHASE_COLOURS = {"quiet": "#f1f3f5", "ramp": "#fff3bf", BURST: "#ffe3e3", "drain": "#e6fcf5"}
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": GRID, "text.color": INK}
MOST_REASONS = 9
"""More than this cannot be read."""
_FIRST_SECONDS = 8.0
"""After the burst: how long a change of green threads is the first answer to it."""
_BADGE = 0.018
"""Width of a number on top, as a share of the axis."""


def draw(
    timeline: Timeline,
    path: Path,
    *,
    objective_seconds: float,
    waits: Sequence[Sequence[float]] = (),
    summary: Summary | None = None,
) -> None:
    """Draw the run into a PNG. `waits` is the account's (Unix time, median wait, longest wait) per second."""
    if not timeline.snapshots:
        raise ValueError("the timeline has no snapshots: there is nothing to draw")
    with rc_context(_STYLE):
        _figure(timeline, objective_seconds, waits, summary).savefig(path, dpi=130, facecolor="white")


def _figure(
    timeline: Timeline, objective_seconds: float, waits: Sequence[Sequence[float]], summary: Summary | None
) -> Figure:
    snapshots = timeline.snapshots
    start = _start(timeline)
    burst = timeline.mark(BURST)
    reasons = told(timeline.reasons, start, burst.at if burst else 0.0)
    height = 11.2 + 0.42 * len(reasons)
    figure = Figure(figsize=(13, height))
    axes = figure.subplots(5, 1, sharex=True, height_ratios=(1.25, 1.25, 1.25, 0.8, 1.0), gridspec_kw={"hspace": 0.16})
    foot = (0.5 + 0.42 * len(reasons)) / height
    figure.subplots_adjust(left=0.075, right=0.975, top=1 - 1.25 / height, bottom=foot + 0.6 / height)
    at = [snapshot.at - start for snapshot in snapshots]
    _backlog(axes[0], at, snapshots)
    _wait(axes[1], at, snapshots, objective_seconds, [(row[0] - start, row[1], row[2]) for row in waits])
    _threads(axes[2], at, snapshots)
    _workers(axes[3], at, snapshots)
    _throughput(axes[4], [(moment - start, rate) for moment, rate in seen.done_per_second(snapshots)])
    for axis in axes:
        _shade(axis, spans(timeline), start)
        _number(axis, reasons, start, at[-1])
        _style(axis)
    _name_phases(axes[0], spans(timeline), start)
    _faults(axes, timeline, start)
    _hatch(axes, metrics_missing(snapshots), start)
    figure.align_ylabels(axes)
    axes[-1].set_xlim(0, max(at[-1], 1))
    axes[-1].set_xlabel("seconds since the first message", color=SOFT)
    _headline(figure, summary, height)
    _legend_of_reasons(figure, reasons, start, foot, height)
    return figure


def spans(timeline: Timeline) -> tuple[Span, ...]:
    """The phases as shown: what follows the burst is called so, once everything was published."""
    shown: list[Span] = []
    for span in seen.phases(timeline.snapshots):
        mark = timeline.mark(span.name)
        start = min(max(mark.at, timeline.snapshots[0].at), span.end) if mark else span.start
        if shown:
            shown[-1] = Span(shown[-1].name, shown[-1].start, start)
        shown.append(Span(span.name, start, span.end))
    idle = next((s.at for s in timeline.snapshots if s.finished and s.executions >= s.sent > 0), None)
    if shown and idle is not None and idle < shown[-1].end:
        last = shown.pop()
        shown += [Span(last.name, last.start, idle), Span("drain", idle, last.end)]
    return tuple(shown)


def told(reasons: Sequence[Reason], start: float, burst_at: float = 0.0) -> list[Reason]:
    """The reasons that can be shown: in order, the most telling ones if there are too many."""
    chosen: list[Reason] = []
    for reason in sorted(reasons, key=lambda entry: (entry.at, entry.source != "lastScale")):
        if reason.at < start - 1 or not reason.text:
            continue
        chosen.append(reason)
    if len(chosen) > MOST_REASONS:
        keep = sorted(chosen, key=lambda entry: (_weight(entry, burst_at), entry.at))[:MOST_REASONS]
        chosen = sorted(keep, key=lambda entry: entry.at)
    return chosen


def _weight(reason: Reason, burst_at: float) -> float:
    """Lower is more telling: workers, the first threads after the burst, what is not scaling at all, other threads."""
    change = re.match(r"(green threads|.*workers).*?(\d+) → (\d+)", reason.text)
    if change is None:
        return 1.0
    before, after = int(change[2]), int(change[3])
    if change[1] != "green threads" or (after > before and 0 < reason.at - burst_at < _FIRST_SECONDS):
        return 0.0
    return 2.0 - abs(math.log2(max(1, after) / max(1, before))) / 10


def _start(timeline: Timeline) -> float:
    """The first message, or the first thing that was seen."""
    first = next((snapshot.phase_started_at for snapshot in timeline.snapshots if snapshot.phase_started_at), 0.0)
    return max(first, timeline.snapshots[0].at)


def _backlog(axis: Any, at: Sequence[float], snapshots: Sequence[Snapshot]) -> None:
    waiting = [snapshot.waiting for snapshot in snapshots]
    axis.fill_between(at, waiting, color=RED, alpha=0.16, linewidth=0)
    axis.plot(at, waiting, color=RED, linewidth=1.8)
    axis.set_ylabel("messages\nwaiting")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_ylim(0, max(10, *waiting) * 1.18)


def _wait(
    axis: Any,
    at: Sequence[float],
    snapshots: Sequence[Snapshot],
    objective_seconds: float,
    waits: Sequence[tuple[float, float, float]],
) -> None:
    oldest = [snapshot.oldest_seconds for snapshot in snapshots]
    if waits:
        times = [row[0] for row in waits]
        axis.plot(
            times, [row[2] for row in waits], ".", color=AMBER, markersize=4, label="longest wait of what started then"
        )
    axis.plot(at, oldest, color=AMBER, linewidth=1.6, alpha=0.75, label="age of the oldest waiting message")
    axis.axhline(objective_seconds, color=INK, linewidth=1, linestyle=(0, (5, 3)))
    axis.annotate(
        f"maxWait {objective_seconds:.0f} s", (0, objective_seconds), xycoords=("axes fraction", "data"),
        xytext=(6, 4), textcoords="offset points", fontsize=9, color=INK,
    )  # fmt: skip
    top = max([objective_seconds, *oldest, *(row[2] for row in waits)])
    axis.set_ylim(0, top * 1.18)
    axis.set_ylabel("wait, s")
    axis.legend(loc="upper right", frameon=False, fontsize=8.5)


def _threads(axis: Any, at: Sequence[float], snapshots: Sequence[Snapshot]) -> None:
    """One band per worker, so that both dimensions show: bands grow (threads), bands are added (workers)."""
    names = _in_order_of_appearance(snapshots)
    series = [
        [next((worker.threads for worker in snapshot.workers if worker.name == name), 0) for snapshot in snapshots]
        for name in names
    ]
    if series:
        colours = [WORKER_COLOURS[index % len(WORKER_COLOURS)] for index in range(len(series))]
        axis.stackplot(at, series, colors=colours, alpha=0.75, step="post", linewidth=0)
    axis.plot(
        at,
        [_busy(snapshot) for snapshot in snapshots],
        color=INK,
        linewidth=1.2,
        drawstyle="steps-post",
        label="running a task",
    )
    axis.set_ylim(0, max(10, *(snapshot.threads for snapshot in snapshots)) * 1.18)
    axis.set_ylabel("green threads,\nby worker")
    axis.legend(loc="upper left", frameon=False, fontsize=8.5)


def _busy(snapshot: Snapshot) -> float:
    """A gap while nobody knows, not a zero."""
    unknown = snapshot.ready and all(worker.busy is None for worker in snapshot.workers)
    return math.nan if unknown else float(snapshot.busy)


def _workers(axis: Any, at: Sequence[float], snapshots: Sequence[Snapshot]) -> None:
    ready = [snapshot.ready for snapshot in snapshots]
    desired = [snapshot.desired for snapshot in snapshots]
    axis.fill_between(at, ready, step="post", color=BLUE, alpha=0.25, linewidth=0, label="ready")
    axis.plot(at, desired, color=BLUE, linewidth=1.6, drawstyle="steps-post", label="wanted")
    axis.set_ylim(0, max(1, *ready, *desired) + 0.6)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("workers")
    axis.legend(loc="upper left", frameon=False, fontsize=8.5, ncols=2)


def _throughput(axis: Any, rates: Sequence[tuple[float, float]]) -> None:
    axis.fill_between([at for at, _ in rates], [rate for _, rate in rates], color=GREEN, alpha=0.18, linewidth=0)
    axis.plot([at for at, _ in rates], [rate for _, rate in rates], color=GREEN, linewidth=1.8)
    axis.set_ylim(0, max(10, *(rate for _, rate in rates)) * 1.18)
    axis.set_ylabel("feeds done\nper second")


def _in_order_of_appearance(snapshots: Sequence[Snapshot]) -> list[str]:
    names: dict[str, None] = {}
    for snapshot in snapshots:
        for worker in snapshot.workers:
            names.setdefault(worker.name)
    return list(names)


def _style(axis: Any) -> None:
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, length=0)
    axis.yaxis.label.set_color(INK)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _shade(axis: Any, phases: Sequence[Span], start: float) -> None:
    for phase in phases:
        colour = PHASE_COLOURS.get(phase.name, PHASE_COLOURS["quiet"])
        axis.axvspan(phase.start - start, phase.end - start, color=colour, alpha=0.55, linewidth=0, zorder=0)


_PHASE_TITLES = {BURST: "burst", "drain": "nothing left to do"}


def _name_phases(axis: Any, phases: Sequence[Span], start: float) -> None:
    for phase in phases:
        middle = (phase.start + phase.end) / 2 - start
        axis.annotate(
            _PHASE_TITLES.get(phase.name, phase.name),
            (middle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 20),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=SOFT,
            style="italic",
        )


def _number(axis: Any, reasons: Sequence[Reason], start: float, width: float) -> None:
    """A line at each reason, and on top its number; numbers that would overlap move apart."""
    badge = 0.0
    for number, reason in enumerate(reasons, start=1):
        at = max(0.0, reason.at - start)
        badge = max(at, badge)
        axis.axvline(at, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        if axis.get_subplotspec().is_first_row():
            axis.annotate(
                str(number), (badge, 1), xycoords=("data", "axes fraction"), xytext=(0, 9), textcoords="offset points",
                ha="center", va="center", fontsize=8.5, color="white", fontweight="bold",
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": INK, "edgecolor": "none"}, annotation_clip=False,
            )  # fmt: skip
        badge += width * _BADGE


def metrics_missing(snapshots: Sequence[Snapshot]) -> list[Span]:
    """When Prometheus did not answer, or the operator did not believe what it saw."""
    spans: list[Span] = []
    for before, after in pairwise(snapshots):
        if before.prometheus and before.metrics_available is not False:
            continue
        if spans and spans[-1].end == before.at:
            spans[-1] = Span("metrics missing", spans[-1].start, after.at)
        else:
            spans.append(Span("metrics missing", before.at, after.at))
    return spans


def _hatch(axes: Sequence[Any], spans: Sequence[Span], start: float) -> None:
    for span in spans:
        for axis in axes:
            axis.axvspan(
                span.start - start, span.end - start, facecolor="none", edgecolor=VIOLET, hatch="//", alpha=0.12, lw=0
            )
    if spans:
        axes[0].annotate(
            "hatched: no fresh sample, the pool holds", (1, 1), xycoords="axes fraction", xytext=(-6, -14),
            textcoords="offset points", ha="right", fontsize=8.5, color=VIOLET,
        )  # fmt: skip


def _faults(axes: Sequence[Any], timeline: Timeline, start: float) -> None:
    for mark in timeline.marks:
        if mark.name in _PHASE_TITLES or mark.name in PHASE_COLOURS or not mark.name:
            continue
        for axis in axes:
            axis.axvline(mark.at - start, color=VIOLET, linewidth=1.4)
        axes[0].annotate(
            mark.name, (mark.at - start, 0.86), xycoords=("data", "axes fraction"), xytext=(3, 0),
            textcoords="offset points", fontsize=8.5, color=VIOLET, rotation=0,
        )  # fmt: skip


def _headline(figure: Any, summary: Summary | None, height: float) -> None:
    figure.text(
        0.02, 1 - 0.32 / height, "Greenfleet: green threads first, workers second", fontsize=16, fontweight="bold"
    )
    if summary is None:
        return
    parts = [
        f"{summary.done:,} of {summary.sent:,} done, {summary.lost} lost, {summary.twice} twice",
        f"longest wait {summary.waited_max_seconds:.0f} s",
    ]
    if summary.first_threads_seconds is not None:
        parts.append(f"more threads {summary.first_threads_seconds:.0f} s after the burst")
    if summary.first_worker_seconds is not None:
        parts.append(f"first new worker after {summary.first_worker_seconds:.0f} s")
    parts.append(f"{summary.worker_seconds:.0f} worker-seconds")
    figure.text(0.02, 1 - 0.62 / height, " · ".join(parts), fontsize=10.5, color=SOFT)


def _legend_of_reasons(figure: Any, reasons: Sequence[Reason], start: float, foot: float, height: float) -> None:
    if not reasons:
        return
    figure.text(0.02, foot, "Why, in the operator's own words", fontsize=10.5, fontweight="bold", va="top")
    for number, reason in enumerate(reasons, start=1):
        text = textwrap.fill(reason.text, 150, max_lines=2, placeholder=" …")
        y = foot - (0.42 * number - 0.1) / height
        at = f"{max(0.0, reason.at - start):.0f} s"
        figure.text(0.02, y, f"{number}", fontsize=9.5, fontweight="bold", va="top")
        figure.text(0.04, y, at, fontsize=9.5, color=SOFT, va="top")
        figure.text(0.085, y, text, fontsize=9.5, va="top", linespacing=1.15)
