"""What is compared, on which traces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bench.evidence.store import Job
from greenfleet.autoscaling import PARTS
from greenfleet.simulator.autoscalers import WITHOUT, autoscaler_named
from greenfleet.simulator.generator import HOLDOUT_SEEDS, TUNING_SEEDS, generate
from greenfleet.simulator.run import simulate
from greenfleet.simulator.totals import Outcome, outcome
from greenfleet.simulator.traces import Trace, load

KNOWN = Path(__file__).parents[1] / "traces"
KNOWN_SEEDS = (1, 2)
SETS = ("tuning", "holdout", "known")
WHOLE = "greenfleet"
LEARNED = "greenfleet-learned"
"""The same with a pool that has run before: it knows what a fitted KEDA's user has measured."""
FORMULA = "formula"
FITTED = tuple(f"keda-fitted-{percent}-{window}" for percent in (15, 30, 50) for window in (0, 60))
FIXED = ("keda-200-100-0", "keda-200-400-0", "keda-500-400-0")


def parts() -> list[str]:
    """Greenfleet with one part switched off, for every part that has a name."""
    return [f"{WITHOUT}{part}" for part in PARTS]


def kedas(name: str) -> tuple[str, ...]:
    """From which the best single one of a set is taken: on the known traces all tasks are alike, so fixed numbers have
    a chance.
    """
    return FITTED if name != "known" else (*FITTED, *FIXED)


def autoscalers(name: str) -> list[str]:
    """All rows of a set."""
    return [WHOLE, LEARNED, FORMULA, *kedas(name), *parts()]


def traces(name: str) -> list[tuple[str, int]]:
    """Names and seeds. A generated trace has one seed of its own: another one would be another trace."""
    if name == "known":
        return [(path.stem, seed) for path in sorted(KNOWN.glob("*.json")) for seed in KNOWN_SEEDS]
    return [(str(seed), seed) for seed in (TUNING_SEEDS if name == "tuning" else HOLDOUT_SEEDS)]


@cache
def _trace(name: str, trace: str) -> Trace:
    return load(KNOWN / f"{trace}.json") if name == "known" else generate(int(trace))


def jobs(name: str, rows: Sequence[str], scrape_seconds: float, block: int = 20) -> list[Job]:
    """In blocks of traces, all rows of a block before the next, so that an unfinished evaluation compares like with
    like.
    """
    every = traces(name)
    blocks = [every[start : start + block] for start in range(0, len(every), block)]
    return [
        Job(autoscaler, name, trace, seed, scrape_seconds)
        for some in blocks
        for autoscaler in rows
        for trace, seed in some
    ]


def do(job: Job) -> Outcome:
    """Run it."""
    return outcome(simulate(_trace(job.set, job.trace), autoscaler_named(job.autoscaler), job.seed, job.scrape_seconds))
