"""Backlog, workers and green threads over time. matplotlib is imported only here, and only when a plot is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .run import Run


def draw(runs: Sequence[Run], path: Path) -> None:
    """One column for each trace; the autoscalers share the axes."""
    import matplotlib as mpl  # noqa: PLC0415 - optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    traces = list(dict.fromkeys(run.trace.name for run in runs))
    rows = ("backlog", "oldest wait, s", "pods", "green threads")
    figure, axes = plt.subplots(
        len(rows), len(traces), figsize=(6 * len(traces), 9), sharex="col", squeeze=False, layout="constrained"
    )
    for column, name in enumerate(traces):
        for run in (run for run in runs if run.trace.name == name):
            at = [second.at for second in run.seconds]
            series = (
                [second.backlog for second in run.seconds],
                [second.oldest_wait for second in run.seconds],
                [second.pods for second in run.seconds],
                [second.threads for second in run.seconds],
            )
            for row, values in enumerate(series):
                axes[row][column].plot(at, values, label=run.autoscaler, linewidth=1.2)
            axes[1][column].axhline(run.trace.max_wait, color="grey", linewidth=0.6, linestyle="--")
        axes[0][column].set_title(name)
        axes[-1][column].set_xlabel("seconds")
    for row, label in enumerate(rows):
        axes[row][0].set_ylabel(label)
    axes[0][0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
