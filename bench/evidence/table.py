"""The evidence as tables of Markdown: for each part, what it is worth on each set."""

from __future__ import annotations

from collections.abc import Sequence

from bench.evidence import rows
from bench.evidence.store import Store
from greenfleet.autoscaling import PARTS
from greenfleet.simulator.laws import WITHOUT
from greenfleet.simulator.totals import Total, total

EARNED_RATIO = 1.02
"""A part is worth its lines if the same service costs two percent more without it."""
HEADER = (
    "| | worker-seconds | violated s | worse / better in traces | wait p50 | wait p99 | run time | cut off |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|"
)


def common(store: Store, name: str, scrape_seconds: float, laws: Sequence[str]) -> dict[str, Total]:
    """The rows that have runs, over the traces that all of them have finished."""
    found = {law: store.of(law, name, scrape_seconds) for law in laws}
    found = {law: runs for law, runs in found.items() if runs}
    if rows.WHOLE not in found:
        return {}
    keys = set.intersection(*(set(runs) for runs in found.values()))
    same = {law: {key: runs[key] for key in keys} for law, runs in found.items()}
    return {law: total(runs, same[rows.WHOLE]) for law, runs in same.items()} if keys else {}


def best_keda(totals: dict[str, Total], name: str) -> str | None:
    """Fewest violated seconds (within one in a hundred of a trace), then fewest worker-seconds."""
    known = [law for law in rows.kedas(name) if law in totals]
    if not known:
        return None
    least = min(totals[law].violated_seconds for law in known)
    fair = [law for law in known if totals[law].violated_seconds <= least + totals[law].traces / 10]
    return min(fair, key=lambda law: totals[law].worker_seconds)


def earns(part: Total, whole: Total) -> bool:
    """Whether switching it off costs two percent, or a violated second."""
    return part.cost_ratio >= EARNED_RATIO or part.violated_seconds > whole.violated_seconds


def line(label: str, one: Total, whole: Total) -> str:
    """One row of a table; all ratios and differences are against the whole autoscaler on the same traces."""
    difference = one.violated_seconds - whole.violated_seconds
    violated = f"{one.violated_seconds:,}" if one is whole else f"{difference:+,}"
    ratio = f"{one.worker_seconds:,.0f}" if one is whole else f"×{one.cost_ratio:.3f} ± {one.cost_error:.3f}"
    return (
        f"| {label} | {ratio} | {violated} | {one.worse} / {one.better} | {100 * one.wait_p50:.0f} % | "
        f"{100 * one.wait_p99:.0f} % | ×{one.runtime_inflation:.2f} / {one.runtime_inflation_p90:.1f} | {one.requeued:,} |"
    )


def section(store: Store, name: str, scrape_seconds: float) -> str:
    """One set at one scrape interval; empty where nothing was run."""
    totals = common(store, name, scrape_seconds, rows.laws(name))
    if not totals:
        return ""
    whole = totals[rows.WHOLE]
    lines = [f"{whole.traces} runs.", "", HEADER, line("**the whole autoscaler**", whole, whole)]
    if rows.FORMULA in totals:
        lines.append(line("formula of 60 lines", totals[rows.FORMULA], whole))
    if best := best_keda(totals, name):
        lines.append(line(f"KEDA that asks the broker every second, best single (`{best}`)", totals[best], whole))
    for part in PARTS:
        if (one := totals.get(f"{WITHOUT}{part}")) is not None:
            mark = "" if earns(one, whole) else " (earns nothing here)"
            lines.append(line(f"without `{part}`{mark}", one, whole))
    return "\n".join(lines) + "\n"
