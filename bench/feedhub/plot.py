"""The picture of docs/worker-bench.md: feeds per second by green threads, and what each worker spends on a feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLES = {
    "this worker, RabbitMQ": ("#1b7837", "-", "o"),
    "this worker, Redis": ("#1b7837", "--", "o"),
    "stock eventlet, RabbitMQ": ("#2166ac", "-", "s"),
    "stock eventlet, Redis": ("#2166ac", "--", "s"),
    "stock gevent, RabbitMQ": ("#67a9cf", "-", "^"),
    "stock gevent, Redis": ("#67a9cf", "--", "^"),
    "dramatiq-gevent, RabbitMQ": ("#b2182b", "-", "D"),
    "dramatiq-gevent, Redis": ("#b2182b", "--", "D"),
    "raw GreenPool": ("#888888", ":", "x"),
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path, latency_seconds: float) -> None:
    """Write the PNG. *rows* have label, threads, feeds_per_second and cpu_ms."""
    import matplotlib  # noqa: PLC0415 - only needed here

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (rates, costs) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    sizes = sorted({row["threads"] for row in rows if row["label"] in STYLES})
    for label, (colour, dash, marker) in STYLES.items():
        found = sorted((row for row in rows if row["label"] == label), key=lambda row: row["threads"])
        if not found:
            continue
        across = [row["threads"] for row in found]
        style = {"color": colour, "linestyle": dash, "marker": marker, "label": label}
        rates.plot(across, [row["feeds_per_second"] for row in found], **style)
        costs.plot(across, [row["cpu_ms"] for row in found], **style)
    highest = max(row["feeds_per_second"] for row in rows) * 1.1
    end = min(sizes[-1], highest * latency_seconds)
    curve = [sizes[0] + (end - sizes[0]) * step / 50 for step in range(51)]
    rates.plot(curve, [threads / latency_seconds for threads in curve], color="#cccccc", linewidth=1)
    rates.annotate(" threads ÷ latency", (end, highest), color="#999999", ha="left", va="top", fontsize=8)
    prefork = [row for row in rows if "prefork" in row["label"]]
    for row in prefork:
        rates.axhline(row["feeds_per_second"], color="#bbaa88", linewidth=1)
    if prefork:
        counts = ", ".join(str(row["threads"]) for row in prefork)
        found = ", ".join(f"{row['feeds_per_second']:.0f}" for row in prefork)
        top = max(row["feeds_per_second"] for row in prefork)
        rates.annotate(
            f"stock prefork with {counts} processes: {found}", (sizes[-1], top), (0, 3), textcoords="offset points",
            color="#887755", fontsize=8, ha="right", va="bottom",
        )  # fmt: skip
    rates.set(title="Feeds per second, one worker on one core", ylim=(0, highest), xscale="log")
    costs.set(title="CPU per feed, ms", xscale="log", ylim=(0, None))
    for axes in (rates, costs):
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("green threads")
        axes.grid(alpha=0.25)
    costs.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
