"""The long form: every write of every step from before and from after, then random pairs of crashes, stale state, and
all mutations of a spec.

python -m tests.faults.operator.long --crash-points 500 --troubles 200 --mutations 1000 --seed 1

The last line is the sum, as one JSON object; each failure is a line with what repeats it. The status is 1 if something
was found, or if less was tried than was asked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.faults.operator import crashes, mutations
from tests.faults.operator.life import STEPS
from tests.faults.operator.nursery import Nursery
from tests.faults.operator.stage import Stage
from tests.faults.operator.troubles import troubled
from tests.integration.operator.harness import Object, Prometheus, control_plane, define_pools


def main() -> int:
    """0 if nothing was found, and everything was tried."""
    parser = argparse.ArgumentParser(description="faults between the operator and the API server")
    parser.add_argument(
        "--crash-points", type=int, default=500, help="distinct ones: step, number of the write, before or after"
    )
    parser.add_argument(
        "--troubles", type=int, default=200, help="steps in which stale or missed state met a request or an event"
    )
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=6, help="lives at a time")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="greenfleet-operator-faults-"))
    name = os.environ.get("GREENFLEET_TESTS_CLUSTER", "greenfleet-operator-faults")
    with control_plane(name) as api:
        define_pools(api)
        nursery, prometheus = Nursery(), Prometheus(directory / "prometheus")
        stage = Stage(api, prometheus, nursery)
        try:
            total = _crashes(stage, directory, chosen)
            total |= _troubles(stage, directory, chosen)
            total |= _mutations(stage, directory, chosen)
        finally:
            stage.close()
            nursery.close()
            prometheus.stop()
    failures = sum(part["failures"] for part in total.values())
    missing = not_tried(total, chosen)
    print(json.dumps({"seed": chosen.seed, **total, "failures": failures, "not_tried": missing}), flush=True)
    print(f"logs are in {directory}", file=sys.stderr)
    return 1 if failures or missing else 0


def not_tried(total: Object, chosen: argparse.Namespace) -> list[str]:
    """Where a run came to less than was asked of it."""
    asked = (
        ("crashes", "crash_points", chosen.crash_points),
        ("stale_state", "steps", chosen.troubles),
        ("mutations", "mutations", chosen.mutations),
    )
    return [
        f"{total[part][what]} of {count} {part}: {what}"
        for part, what, count in asked
        if count and total[part][what] < count
    ]


def _crashes(stage: Stage, directory: Path, chosen: argparse.Namespace) -> Object:
    """In batches, each with an undisturbed life of its own, until there were enough points."""
    chance = random.Random(chosen.seed)
    points: set[tuple[str, int, bool]] = set()
    found = {"lives": 0, "crashes": 0, "crash_points": 0, "failures": 0}
    systematic = crashes.all_points()
    for batch in itertools.count():
        if len(points) >= chosen.crash_points:
            break
        # One in four comes with a standby that takes over, or with a second crash on the way back.
        plans = list(itertools.islice(systematic, max(1, chosen.at_once - 2)))
        plans.append(crashes.sampled(chance, STEPS, twice=1.0, standby=batch % 2 == 0))
        verdict = crashes.run(stage, directory / f"crashes-{batch}", plans, at_once=chosen.at_once)
        crashes.tell(verdict, chosen.seed, f"crashes, batch {batch}")
        points |= {(step, number, after) for step, _, number, after in verdict.points}
        found["lives"] += verdict.lives
        found["crashes"] += verdict.crashes
        found["failures"] += len(verdict.failures)
        if not verdict.crashes:
            break
    return {"crashes": {**found, "crash_points": len(points)}}


def _troubles(stage: Stage, directory: Path, chosen: argparse.Namespace) -> Object:
    chance = random.Random(chosen.seed)
    found = {"lives": 0, "steps": 0, "events": 0, "takeovers": 0, "failures": 0}
    for batch in itertools.count():
        if found["steps"] >= chosen.troubles:
            break
        # Every other one has a standby.
        plans = [troubled(chance, STEPS, standby=number % 2 == 1) for number in range(max(1, chosen.at_once - 1))]
        verdict = crashes.run(stage, directory / f"troubles-{batch}", plans, at_once=chosen.at_once)
        crashes.tell(verdict, chosen.seed, f"stale state, batch {batch}")
        found["lives"] += verdict.lives
        found["steps"] += verdict.troubled_steps
        found["events"] += sum(verdict.troubled.values())
        found["takeovers"] += verdict.takeovers
        found["failures"] += len(verdict.failures)
        if not verdict.troubled_steps:
            break
    return {"stale_state": found}


def _mutations(stage: Stage, directory: Path, chosen: argparse.Namespace) -> Object:
    if not chosen.mutations:
        return {}
    tally = mutations.run(stage, directory / "mutations", random.Random(chosen.seed), count=chosen.mutations)
    for failure in tally.failures:
        print(json.dumps({"kind": "mutations", "seed": chosen.seed, **failure}), flush=True)
    return {"mutations": tally.as_json()}


if __name__ == "__main__":
    sys.exit(main())
