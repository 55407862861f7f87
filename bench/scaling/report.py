"""The comparison: one line for each trace and autoscaler, and the JSON object that the bench ends with."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from bench.scaling.figures import Figures

OURS, DEFAULT, SINGLE, TUNED, FIXED = "greenfleet", "default", "single", "tuned", "fixed"
COLUMNS = (
    ("violated s", "violated_s"),
    ("wait p50", "wait_p50"),
    ("p99", "wait_p99"),
    ("max", "wait_max"),
    ("worker-s", "worker_seconds"),
    ("thread-s", "thread_seconds"),
    ("first s", "first_capacity_s"),
    ("full s", "full_capacity_s"),
    ("actions", "scale_actions"),
    ("lost", "lost"),
    ("killed", "killed"),
    ("twice", "twice"),
    ("left", "left"),
    ("queries/s", "queries_per_s"),
    ("writes", "writes"),
)

Results = Mapping[str, Mapping[str, tuple[str, Figures]]]
"""Trace → label → (autoscaler, figures)."""
Optima = Mapping[str, float]
"""Trace → the fewest worker-seconds of a fleet that knows it beforehand (`bench.scaling.optimum`)."""


def table(results: Results) -> str:
    """For people."""
    lines = [f"{'trace':16} {'':10} {'autoscaler':15} " + " ".join(f"{title:>10}" for title, _ in COLUMNS)]
    for trace, autoscalers in results.items():
        for label, (autoscaler, figures) in autoscalers.items():
            values = figures.as_dict()
            cells = " ".join(f"{_cell(values[key]):>10}" for _, key in COLUMNS)
            lines.append(f"{trace:16} {label:10} {autoscaler:15} {cells}")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def markdown(results: Results, optima: Optima) -> str:
    """For docs/scaling-bench.md: service, cost and reaction of each autoscaler, by trace."""
    compared = comparison(results, optima)["traces"]
    order = [
        label
        for label in (OURS, DEFAULT, SINGLE, TUNED, FIXED)
        if any(label in autoscalers for autoscalers in results.values())
    ]
    lines = [
        f"| trace | violated s: {' / '.join(order)} | longest wait s | worker-seconds, *optimum* | ours / single "
        "| ours / best of the trace | *optimum* / single | first, full capacity s: ours; single | lost, twice, "
        "killed: ours |",
        "|---|---|---|---|--:|--:|--:|---|---|",
    ]
    for trace, autoscalers in results.items():
        values = [autoscalers[label][1] for label in order if label in autoscalers]
        ours, single, ratio = autoscalers[OURS][1], autoscalers[SINGLE][1], compared[trace]
        cells = (
            trace,
            " / ".join(_cell(each.violated_s) for each in values),
            " / ".join(f"{each.wait_max:.0f}" for each in values),
            f"{' / '.join(f'{each.worker_seconds:.0f}' for each in values)}, *{optima[trace]:.0f}*",
            f"{ratio['cost_ratio_single']:.2f}",
            f"{ratio['cost_ratio_per_trace']:.2f}",
            f"*{ratio['optimum_ratio_single']:.2f}*",
            "; ".join(f"{_cell(each.first_capacity_s)}, {_cell(each.full_capacity_s)}" for each in (ours, single)),
            f"{ours.lost}, {ours.twice}, {ours.killed}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison(results: Results, optima: Optima) -> dict[str, Any]:
    """At equal service: for one trace, KEDA's cheapest configuration among those that violate no more than ours; if
    none does, the one that violates least. `optimum_ratio_…` is what the optimum would get for `cost_ratio_…`.
    """
    traces: dict[str, Any] = {}
    for trace, autoscalers in results.items():
        ours, single = autoscalers[OURS][1], autoscalers[SINGLE][1]
        best_label = _best(autoscalers)
        traces[trace] = {
            "cost_ratio_single": _ratio(ours, single),
            "cost_ratio_per_trace": _ratio(ours, autoscalers[best_label][1]),
            "optimum_ratio_single": optima[trace] / single.worker_seconds,
            "cost_ratio_optimum": ours.worker_seconds / optima[trace],
            "keda_cost_ratio_optimum": single.worker_seconds / optima[trace],
            "best_of_trace": autoscalers[best_label][0],
            "first_capacity_s": ours.first_capacity_s,
            "keda_first_capacity_s": single.first_capacity_s,
            "full_capacity_s": ours.full_capacity_s,
            "keda_full_capacity_s": single.full_capacity_s,
            "lost": ours.lost,
            "twice": ours.twice,
            "violated_s": ours.violated_s,
            "keda_violated_s": single.violated_s,
        }
        traces[trace] = {k: round(v, 2) if isinstance(v, float) else v for k, v in traces[trace].items()}
    if not traces:
        return {"traces": {}}

    def each(label: str) -> list[Figures]:
        return [autoscalers[label][1] for autoscalers in results.values() if label in autoscalers]

    def average(key: str) -> float:
        return round(mean(trace[key] for trace in traces.values()), 3)

    return {
        "traces": traces,
        "mean_cost_ratio_single": average("cost_ratio_single"),
        "worst_cost_ratio_single": max(trace["cost_ratio_single"] for trace in traces.values()),
        "mean_cost_ratio_per_trace": average("cost_ratio_per_trace"),
        "mean_optimum_ratio_single": average("optimum_ratio_single"),
        "mean_cost_ratio_optimum": average("cost_ratio_optimum"),
        "keda_mean_cost_ratio_optimum": average("keda_cost_ratio_optimum"),
        "violated_s": sum(figures.violated_s for figures in each(OURS)),
        "keda_default_violated_s": sum(figures.violated_s for figures in each(DEFAULT)),
        "keda_single_violated_s": sum(figures.violated_s for figures in each(SINGLE)),
    }


def _best(autoscalers: Mapping[str, tuple[str, Figures]]) -> str:
    theirs = {label: figures for label, (_, figures) in autoscalers.items() if label != OURS}
    allowed = max(autoscalers[OURS][1].violated_s, min(figures.violated_s for figures in theirs.values()))
    fair = [label for label, figures in theirs.items() if figures.violated_s <= allowed]
    return min(fair, key=lambda label: theirs[label].worker_seconds)


def _ratio(ours: Figures, theirs: Figures) -> float:
    return ours.worker_seconds / max(theirs.worker_seconds, 1e-9)
