"""The long form: one run after another on every broker until the time is over. The last line is the sum, as one JSON
object.

python -m tests.faults.long --hours 2 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from tests.faults.again import as_line
from tests.faults.run import BROKERS, about, conclude, run

LONGEST_SECONDS = 60.0
"""Of some of the long tasks."""

UNREACHABLE_SECONDS = 60.0
"""Of the broker."""


def main() -> int:
    """0 if the promise held in every run, and there were tasks and faults. A run that broke it keeps its directory."""
    parser = argparse.ArgumentParser(description="fault runs on every broker, one after another")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--per-second", type=float, default=25.0)
    chosen = parser.parse_args()
    until = monotonic() + chosen.hours * 3600
    total: Counter[str] = Counter()
    broken: list[int] = []
    for seed, broker in zip(itertools.count(chosen.seed), itertools.cycle(chosen.brokers.split(",")), strict=False):
        if monotonic() > until:
            break
        directory = Path(tempfile.mkdtemp(prefix="greenfleet-faults-"))
        started, start = datetime.now(UTC), monotonic()
        try:
            verdict = run(
                broker,
                directory / "run",
                seed=seed,
                rounds=chosen.rounds,
                per_second=chosen.per_second,
                own_clocks=True,
                longest_seconds=LONGEST_SECONDS,
                unreachable_seconds=UNREACHABLE_SECONDS,
                delayed=True,
            )
        except Exception:  # of the run itself: a server that did not start, say
            traceback.print_exc()
            broken.append(seed)
            continue
        line = about(started, start, chosen.rounds, chosen.per_second) | as_line(broker, seed, verdict)
        if conclude(line, directory, kept=bool(verdict.kept and verdict.confirmed and verdict.disruptions)):
            broken.append(seed)
        total.update(
            runs=1, tasks=verdict.confirmed, done=verdict.done, lost=len(verdict.lost), twice=len(verdict.twice),
            unexplained=len(verdict.unexplained), hung=len(verdict.hung), crashed=len(verdict.crashed),
            disruptions=sum(verdict.disruptions.values()), read=verdict.read, unread=len(verdict.unread),
            wrong=len(verdict.wrong),
        )  # fmt: skip
    print(json.dumps({**total, "broken_seeds": broken}), flush=True)
    return status(total, broken)


def status(total: Mapping[str, int], broken: Sequence[int]) -> int:
    """Of the whole: 1 if a run broke the promise, and if nothing was proven, for want of tasks or of faults."""
    return 1 if broken or not total.get("tasks") or not total.get("disruptions") else 0


if __name__ == "__main__":
    sys.exit(main())
