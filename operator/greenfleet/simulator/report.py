"""Figures as a table for people and as one JSON object for machines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import Any

from .run import Run

COLUMNS = (
    ("violated s", "violated_seconds"),
    ("wait p50", "wait_p50"),
    ("p99", "wait_p99"),
    ("max", "wait_max"),
    ("latency p99", "latency_p99"),
    ("inflation", "runtime_inflation"),
    ("worker-s", "worker_seconds"),
    ("thread-s", "thread_seconds"),
    ("first", "first_capacity_seconds"),
    ("full", "full_capacity_seconds"),
    ("actions", "scale_actions"),
    ("requeued", "requeued"),
)


def averaged(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Figures by trace and autoscaler, the mean over the seeds."""
    grouped: dict[str, dict[str, list[dict[str, float | int | None]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        grouped[run.trace.name][run.autoscaler].append(run.figures.as_dict())
    return {
        trace: {autoscaler: _mean(figures) for autoscaler, figures in autoscalers.items()}
        for trace, autoscalers in grouped.items()
    }


def _mean(figures: list[dict[str, float | int | None]]) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for key in figures[0]:
        values = [value for one in figures if (value := one[key]) is not None]
        result[key] = round(mean(values), 2) if values else None
    return result


def table(averages: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """One line for each trace and autoscaler."""
    width = max(
        [len(autoscaler) for autoscalers in averages.values() for autoscaler in autoscalers] + [len("autoscaler")]
    )
    lines = [f"{'trace':16} {'autoscaler':{width}} " + " ".join(f"{title:>11}" for title, _ in COLUMNS)]
    for trace, autoscalers in averages.items():
        for autoscaler, figures in autoscalers.items():
            cells = " ".join(f"{_cell(figures[key]):>11}" for _, key in COLUMNS)
            lines.append(f"{trace:16} {autoscaler:{width}} {cells}")
    return "\n".join(lines)


TOTAL_COLUMNS = (
    ("traces", "traces"),
    ("violated s", "violated_seconds"),
    ("in traces", "violated_traces"),
    ("worse", "worse"),
    ("better", "better"),
    ("p50/maxWait", "wait_p50"),
    ("p99/maxWait", "wait_p99"),
    ("inflation", "runtime_inflation"),
    ("its p90", "runtime_inflation_p90"),
    ("requeued", "requeued"),
    ("worker-s", "worker_seconds"),
    ("cost ratio", "cost_ratio"),
    ("+-", "cost_error"),
)


def totals_table(totals: dict[str, dict[str, float]]) -> str:
    """One line for each autoscaler; ratio, `worse` and `better` are against Greenfleet, or the first autoscaler."""
    width = max([len(autoscaler) for autoscaler in totals] + [len("autoscaler")])
    lines = [f"{'autoscaler':{width}} " + " ".join(f"{title:>11}" for title, _ in TOTAL_COLUMNS)]
    for autoscaler, figures in totals.items():
        cells = (f"{figures[key]:>11.3f}" if key in FINE else f"{_cell(figures[key]):>11}" for _, key in TOTAL_COLUMNS)
        lines.append(f"{autoscaler:{width}} " + " ".join(cells))
    return "\n".join(lines)


FINE = {"cost_ratio", "cost_error"}


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) < 10 and value != int(value):
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def comparison(averages: dict[str, dict[str, dict[str, float | None]]], ours: str, theirs: list[str]) -> dict[str, Any]:
    """Ours against the best single configuration of theirs over all traces, and against the best one of each trace.

    Equal service: a configuration of theirs counts if it violates no more than ours does, over all traces or on that
    trace; if none does, the ones that violate least count.
    """
    single = _best(list(averages), averages, ours, theirs)
    ratios_single, ratios_each, traces = [], [], {}
    for trace, autoscalers in averages.items():
        each = _best([trace], averages, ours, theirs)
        cost = _of(autoscalers[ours], "worker_seconds")
        to_single = cost / _of(autoscalers[single], "worker_seconds")
        to_each = cost / _of(autoscalers[each], "worker_seconds")
        ratios_single.append(to_single)
        ratios_each.append(to_each)
        traces[trace] = {
            "cost_ratio_single": round(to_single, 2),
            "cost_ratio_per_trace": round(to_each, 2),
            "best_of_trace": each,
            "violated_s": autoscalers[ours]["violated_seconds"],
            "keda_violated_s": autoscalers[single]["violated_seconds"],
        }
    return {
        "single": single,
        "mean_cost_ratio_single": round(mean(ratios_single), 3),
        "worst_cost_ratio_single": round(max(ratios_single), 3),
        "mean_cost_ratio_per_trace": round(mean(ratios_each), 3),
        "violated_s": sum(_of(autoscalers[ours], "violated_seconds") for autoscalers in averages.values()),
        "keda_single_violated_s": sum(
            _of(autoscalers[single], "violated_seconds") for autoscalers in averages.values()
        ),
        "traces": traces,
    }


def _of(figures: dict[str, float | None], key: str) -> float:
    return figures[key] or 0.0


def _best(
    traces: list[str], averages: dict[str, dict[str, dict[str, float | None]]], ours: str, theirs: list[str]
) -> str:
    def total(autoscaler: str, key: str) -> float:
        return sum(_of(averages[trace][autoscaler], key) for trace in traces)

    least = min(total(autoscaler, "violated_seconds") for autoscaler in theirs)
    allowed = max(least, total(ours, "violated_seconds"))
    fair = [autoscaler for autoscaler in theirs if total(autoscaler, "violated_seconds") <= allowed]
    return min(fair, key=lambda autoscaler: total(autoscaler, "worker_seconds"))
