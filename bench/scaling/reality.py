"""The simulator held against the cluster: the same arrivals, the same autoscaler, start-up times as measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.scaling.record import Record
from greenfleet.simulator.autoscalers import autoscaler_named
from greenfleet.simulator.run import Run, simulate
from greenfleet.simulator.traces import Trace


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the simulator is off, from the end of the warm-up to the end of the trace."""

    workers: float
    """Mean absolute error of Ready workers."""
    backlog: float
    """Mean absolute error of the waiting messages, over the highest backlog that either of the two had."""
    worker_seconds: float
    """Simulated over live worker-seconds."""


def simulated(record: Record, trace: Trace, seed: int) -> Run:
    """The run of the simulator that corresponds to a live one."""
    startups = sorted(record.startups) or list(trace.startup)
    low, high = startups[len(startups) // 10], startups[(len(startups) - 1) * 9 // 10]
    return simulate(replace(trace, startup=(low, max(high, low + 0.1))), autoscaler_named(record.autoscaler), seed)


def agreement(record: Record, run: Run) -> Agreement:
    """Compare second by second."""
    trace = run.trace
    theirs = {int(second.at): second for second in run.seconds}
    pairs = [
        (second, theirs[round(second.at)])
        for second in record.seconds
        if trace.warmup < second.at and round(second.at) in theirs
    ]
    if not pairs:
        return Agreement(0.0, 0.0, 0.0)
    peak = max(1, *(max(live.backlog, other.backlog) for live, other in pairs))
    pods = sum(live.pods for live, _ in pairs), sum(other.pods for _, other in pairs)
    return Agreement(
        workers=sum(abs(live.ready - other.ready) for live, other in pairs) / len(pairs),
        backlog=sum(abs(live.backlog - other.backlog) for live, other in pairs) / len(pairs) / peak,
        worker_seconds=pods[1] / max(1, pods[0]),
    )


def draw(pairs: Sequence[tuple[Record, Run]], path: Path) -> None:
    """Backlog above, Ready workers below, of one fleet on each trace: live and simulated."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    columns = min(5, len(pairs))
    bands = -(-len(pairs) // columns)
    size = (3.2 * columns, 4 * bands)
    figure, axes = plt.subplots(2 * bands, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for index, (record, run) in enumerate(pairs):
        band, column = divmod(index, columns)
        live_at, simulated_at = [second.at for second in record.seconds], [second.at for second in run.seconds]
        for name, axis in zip(("backlog", "ready"), axes[2 * band : 2 * band + 2, column], strict=True):
            axis.set_visible(True)
            axis.plot(live_at, [getattr(second, name) for second in record.seconds], label="live", linewidth=1.6)
            simulated_values = [getattr(second, name) for second in run.seconds]
            axis.plot(simulated_at, simulated_values, label="simulated", linewidth=1.2, linestyle="--")
            axis.axvspan(0, run.trace.warmup, color="0.93", linewidth=0)
            axis.set_xlim(0, run.trace.seconds)
            axis.set_ylim(bottom=0)
        axes[2 * band][column].set_title(record.trace)
        if column == 0:
            axes[2 * band][column].set_ylabel("waiting")
            axes[2 * band + 1][column].set_ylabel("workers Ready")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=75)
    plt.close(figure)
