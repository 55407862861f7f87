"""The view while it runs: a live panel on a terminal, one plain line every few seconds anywhere else.

`panel` is a function of the timeline, so that what a person sees can be tested without a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.timeline import Snapshot, Timeline, Worker, done_per_second

PLAIN_SECONDS = 5.0
"""Between two lines where there is no terminal."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 40
_RECENT = 4
"""Reasons shown at once."""


class View:
    """Shows a timeline that grows."""

    def __init__(self, console: Console, *, titles: dict[str, str], objective_seconds: float) -> None:
        self._console = console
        self._titles = titles
        self._objective_seconds = objective_seconds
        self._live: Live | None = None
        self._plain_at = 0.0
        self._told = 0

    @contextmanager
    def running(self) -> Iterator[View]:
        """While the panel is on the screen."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            self._live = live
            yield self
            self._live = None

    def show(self, timeline: Timeline) -> None:
        """Show the newest state."""
        if self._live is not None:
            self._live.update(panel(timeline, self._titles, self._objective_seconds), refresh=True)
            return
        for reason in timeline.reasons[self._told :]:
            self._console.print(f"  {clock(reason.at)} [bold]{reason.source}[/bold]: ", end="")
            self._console.print(reason.text, markup=False)
        self._told = len(timeline.reasons)
        if timeline.snapshots and time.monotonic() - self._plain_at >= PLAIN_SECONDS:
            self._plain_at = time.monotonic()
            self._console.print(line(timeline), markup=False, highlight=False)


def line(timeline: Timeline) -> str:
    """One state as one line."""
    now = timeline.snapshots[-1]
    rate = done_per_second(timeline.snapshots[-12:])[-1][1]
    threads = "/".join(str(worker.threads) for worker in now.workers if worker.ready) or "-"
    return (
        f"  {clock(now.at)} {now.phase:6} backlog {now.waiting:6,}  wait {now.oldest_seconds:5.1f} s  "
        f"threads {threads:15}  workers {now.ready}/{now.desired}  done {now.executions:6,} ({rate:4.0f}/s)"
        + ("" if now.prometheus else "  PROMETHEUS DOES NOT ANSWER")
    )


def panel(timeline: Timeline, titles: dict[str, str], objective_seconds: float) -> RenderableType:
    """The whole view."""
    if not timeline.snapshots:
        return Panel("waiting for the first sample …", title="Greenfleet")
    now = timeline.snapshots[-1]
    elapsed = int(now.at - timeline.snapshots[0].at)
    title = f"Greenfleet · {titles.get(now.phase, now.phase or 'ready')} · {elapsed // 60}:{elapsed % 60:02}"
    parts: list[RenderableType] = [_figures(timeline, now, objective_seconds), Text(), _fleet(now.workers)]
    parts += [Text(), Text.assemble(("why  ", "bold"), now.why or "the operator has not said anything yet")]
    parts += [Text(f"{clock(reason.at)}  {reason.text}", style="dim") for reason in timeline.reasons[-_RECENT:]]
    if not now.prometheus:
        parts.append(Text("Prometheus does not answer: the pool holds", style="bold yellow"))
    return Panel(Group(*parts), title=title, border_style="green", padding=(1, 2))


def _figures(timeline: Timeline, now: Snapshot, objective_seconds: float) -> Table:
    rates = done_per_second(timeline.snapshots[-_SPARK_WIDTH * 2 :])
    recent = timeline.snapshots[-_SPARK_WIDTH * 2 :]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", min_width=14)
    table.add_column(justify="right", min_width=9)
    table.add_column(style="green")
    table.add_row("backlog", f"{now.waiting:,}", sparkline([snapshot.waiting for snapshot in recent]))
    style = "red" if now.oldest_seconds > objective_seconds else "green"
    waited = ProgressBar(
        total=objective_seconds, completed=now.oldest_seconds, width=_SPARK_WIDTH, complete_style=style
    )
    table.add_row("oldest waits", f"{now.oldest_seconds:.1f} s", waited)
    table.add_row("done", f"{rates[-1][1]:.0f} /s", sparkline([rate for _, rate in rates]))
    table.add_row("", f"{now.executions:,}", f"of {now.sent:,} sent")
    table.add_row("green threads", f"{now.threads:,}", sparkline([snapshot.threads for snapshot in recent]))
    table.add_row("workers", f"{now.ready}", f"ready, {now.desired} wanted")
    return table


def _fleet(workers: Sequence[Worker]) -> RenderableType:
    if not workers:
        return Text("no workers", style="dim")
    table = Table.grid(padding=(0, 2))
    for worker in workers:
        state = "leaving" if worker.leaving else "ready" if worker.ready else "starting"
        limit = worker.limit if worker.limit is not None else worker.asked
        busy = "" if worker.busy is None else f"{worker.busy} busy"
        bar = ProgressBar(total=max(1, limit or 1), completed=worker.busy or 0, width=24)
        table.add_row(worker.name, state, "" if limit is None else f"{limit} threads", bar, busy)
    return table


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """The newest values as blocks, scaled to their own maximum."""
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    grouped = [max(values[index : index + step]) for index in range(0, len(values), step)]
    top = max(grouped)
    if top <= 0:
        return _BLOCKS[0] * len(grouped)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in grouped)


def clock(at: float) -> str:
    """Wall clock of a Unix time."""
    return time.strftime("%H:%M:%S", time.localtime(at))
