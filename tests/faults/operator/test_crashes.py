"""An operator that is killed at any write leaves what an operator that was not killed leaves.

`make faults-operator` is the long form. A failure prints the seed and the plan that repeats it.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.operator.crashes import run, sampled, tell
from tests.faults.operator.life import SHORT_ROUTES, Crash
from tests.faults.operator.stage import Stage

pytestmark = pytest.mark.timeout(600)  # seconds; against a hang: lives on a busy machine are slow

SEED = int(os.environ.get("SEED", "20261128"))

FOUND = {"delete with orphans": ([Crash(1, False)], [Crash(1, True)])}
"""Crashes that have found something before. An exporter whose pools were gone when its operator died stayed for
ever.
"""


def test_after_a_crash_at_any_write_everything_is_as_without_it(stage: Stage, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    plans = [sampled(chance, SHORT_ROUTES[0]), sampled(chance, SHORT_ROUTES[0], twice=0.0, standby=True)]
    for number in (0, 1):
        plan = sampled(chance, SHORT_ROUTES[1])
        plans.append(replace(plan, crashes={**plan.crashes, **{step: some[number] for step, some in FOUND.items()}}))
    verdict = run(stage, tmp_path, plans, at_once=12)
    tell(verdict, SEED, "crashes")
    assert not verdict.failures, verdict.failures
    assert verdict.crashes >= 20, "crashes that happened"
