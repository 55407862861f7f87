"""What the autoscalers did on each trace, as a picture: messages waiting and worker pods over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.scaling.record import Record
from greenfleet.simulator.traces import Trace

COLOURS = {"greenfleet": "#2a7f3f", "default": "#b0b0b0", "single": "#d9822b", "tuned": "#7b5ea7", "fixed": "#4c8bbf"}
NAMES = {
    "greenfleet": "Greenfleet, one configuration",
    "default": "KEDA + HPA, defaults",
    "single": "KEDA + HPA, tuned once",
    "tuned": "KEDA + HPA, tuned for the trace",
    "fixed": "KEDA + HPA, 100 threads",
}


def draw(records: Mapping[str, Sequence[Record]], traces: Mapping[str, Trace], path: Path) -> None:
    """Two rows of panels for every four traces."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    columns = min(4, len(records))
    bands = -(-len(records) // columns)
    figure, axes = plt.subplots(
        2 * bands, columns, figsize=(4 * columns, 4 * bands), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for index, (name, runs) in enumerate(records.items()):
        band, column = divmod(index, columns)
        above, below = axes[2 * band][column], axes[2 * band + 1][column]
        for record in runs:
            at = [second.at for second in record.seconds]
            style = {
                "color": COLOURS.get(record.label),
                "label": NAMES.get(record.label, record.label),
                "linewidth": 1.3,
            }
            above.plot(at, [second.backlog for second in record.seconds], **style)
            below.step(at, [second.pods for second in record.seconds], where="post", **style)
        for axis, label in ((above, "waiting"), (below, "worker pods")):
            axis.set_visible(True)
            axis.set_ylim(bottom=0)
            axis.set_xlim(0, traces[name].seconds)
            axis.axvspan(0, traces[name].warmup, color="0.94", linewidth=0)
            if column == 0:
                axis.set_ylabel(label)
        above.set_title(name)
        above.tick_params(labelbottom=False)
        if band == bands - 1:
            below.set_xlabel("seconds")
    lines = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(path, dpi=75)
    plt.close(figure)
