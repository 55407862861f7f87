"""KEDA as well as its users can set it: the simulator tries a grid of configurations on the traces of this bench."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from greenfleet.simulator.autoscalers import autoscaler_named
from greenfleet.simulator.run import simulate
from greenfleet.simulator.traces import Trace

FILE = Path(__file__).parent / "tuned.json"
THREADS, TARGETS, WINDOWS = (40, 60, 100, 200), (20, 40, 60, 100, 160, 240), (0, 60)
SEEDS = (1, 2)
FIXED_THREADS = 100
MARGIN_SECONDS = 5.0
"""Short of maxWait: whoever tunes by hand leaves room for what the simulation does not know, such as slower starts."""

Costs = Mapping[str, Mapping[str, tuple[float, float]]]
"""Trace → autoscaler → (violated seconds, worker-seconds), both sums over the seeds."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the simulator recommends to KEDA's user."""

    single: str
    """For all traces together."""
    fixed: str
    """The same among those with 100 green threads, as a user sets them who does not measure."""
    traces: Mapping[str, str]
    """For each trace by itself; where that is the single one, the next best, so that the bench tries two."""


def grid() -> list[str]:
    """`keda-THREADS-TARGET-WINDOW`; all poll every second and scale up without limit."""
    return [f"keda-{threads}-{target}-{window}" for threads in THREADS for target in TARGETS for window in WINDOWS]


def tune(traces: Sequence[Trace]) -> Tuned:
    """Simulate the grid on all traces (about five minutes) and choose."""
    costs: dict[str, dict[str, tuple[float, float]]] = {}
    for trace in traces:
        for autoscaler in grid():
            strict = replace(trace, max_wait=trace.max_wait - MARGIN_SECONDS)
            runs = [simulate(strict, autoscaler_named(autoscaler), seed).figures for seed in SEEDS]
            sums = sum(run.violated_seconds for run in runs), sum(run.worker_seconds for run in runs)
            costs.setdefault(trace.name, {})[autoscaler] = sums
    return choose(costs)


def choose(costs: Costs) -> Tuned:
    """Least violated seconds first, then least worker-seconds."""

    def total(autoscaler: str) -> tuple[float, float]:
        violated, spent = zip(*(autoscalers[autoscaler] for autoscalers in costs.values()), strict=True)
        return sum(violated), sum(spent)

    single = min(next(iter(costs.values())), key=total)
    others = {
        trace: min(
            (autoscaler for autoscaler in autoscalers if autoscaler != single),
            key=lambda autoscaler, autoscalers=autoscalers: autoscalers[autoscaler],
        )  # type: ignore[misc]
        for trace, autoscalers in costs.items()
    }
    fixed = min(
        (autoscaler for autoscaler in next(iter(costs.values())) if autoscaler.startswith(f"keda-{FIXED_THREADS}-")),
        key=total,
    )
    return Tuned(single, fixed, others)


def save(tuned: Tuned) -> None:
    """Beside this module, for the runs on the cluster."""
    FILE.write_text(json.dumps(asdict(tuned), indent=1) + "\n", encoding="utf-8")


def load() -> Tuned:
    """What was chosen last."""
    return Tuned(**json.loads(FILE.read_text(encoding="utf-8")))
