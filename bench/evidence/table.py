"""The evidence as tables of Markdown: for each part, what it is worth on each set."""

from __future__ import annotations

from collections.abc import Sequence

from bench.evidence import rows
from bench.evidence.store import Store
from greenfleet.autoscaling import PARTS
from greenfleet.simulator.autoscalers import WITHOUT
from greenfleet.simulator.totals import Total, total

EARNED_RATIO = 1.02
"""A part is worth its lines if the same service costs two percent more without it."""
HEADER = (
    "| | runs | worker-seconds | violated s | worse / better in traces | wait p50 | wait p99 | run time | cut off |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def totals(store: Store, name: str, scrape_seconds: float, autoscalers: Sequence[str]) -> dict[str, Total]:
    """The rows that have runs, each against the whole autoscaler over the traces that both have finished."""
    found = {autoscaler: store.of(autoscaler, name, scrape_seconds) for autoscaler in autoscalers}
    reference = found.get(rows.WHOLE, {})
    return {autoscaler: total(runs, reference) for autoscaler, runs in found.items() if runs.keys() & reference.keys()}


def best_keda(found: dict[str, Total], name: str) -> str | None:
    """Fewest violated seconds (a tenth of a second for each trace more is as good), then fewest worker-seconds."""
    known = [autoscaler for autoscaler in rows.kedas(name) if autoscaler in found]
    if not known:
        return None
    least = min(found[autoscaler].violated_difference for autoscaler in known)
    fair = [
        autoscaler
        for autoscaler in known
        if found[autoscaler].violated_difference <= least + found[autoscaler].traces / 10
    ]
    return min(fair, key=lambda autoscaler: found[autoscaler].cost_ratio)


def earns(part: Total) -> bool:
    """Whether switching it off costs two percent, or a violated second."""
    return part.cost_ratio >= EARNED_RATIO or part.violated_difference > 0


def line(label: str, one: Total, *, whole: bool = False) -> str:
    """One row of a table; all ratios and differences are against the whole autoscaler on the same traces."""
    violated = f"{one.violated_seconds:,}" if whole else f"{one.violated_difference:+,}"
    ratio = f"{one.worker_seconds:,.0f}" if whole else f"×{one.cost_ratio:.3f} ± {one.cost_error:.3f}"
    return (
        f"| {label} | {one.traces} | {ratio} | {violated} | {one.worse} / {one.better} | {100 * one.wait_p50:.0f} % | "
        f"{100 * one.wait_p99:.0f} % | ×{one.runtime_inflation:.2f} / {one.runtime_inflation_p90:.1f} | "
        f"{one.requeued:,} |"
    )


def section(store: Store, name: str, scrape_seconds: float) -> str:
    """One set at one scrape interval; empty where nothing was run."""
    found = totals(store, name, scrape_seconds, rows.autoscalers(name))
    if rows.WHOLE not in found:
        return ""
    lines = [HEADER, line("**the whole autoscaler**", found[rows.WHOLE], whole=True)]
    if rows.LEARNED in found:
        lines.append(line("the whole autoscaler, and the pool has run before", found[rows.LEARNED]))
    if rows.FORMULA in found:
        lines.append(line("formula of 60 lines", found[rows.FORMULA]))
    if best := best_keda(found, name):
        lines.append(line(f"KEDA that asks the broker every second, best single (`{best}`)", found[best]))
    for part in PARTS:
        if (one := found.get(f"{WITHOUT}{part}")) is not None:
            mark = "" if earns(one) else " (earns nothing here)"
            lines.append(line(f"without `{part}`{mark}", one))
    return "\n".join(lines) + "\n"
