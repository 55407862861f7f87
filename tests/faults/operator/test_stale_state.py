"""What the API server does not say, says late, twice or in another order, refuses, or does without answering, changes
nothing in the end.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.operator.crashes import run, tell
from tests.faults.operator.life import SHORT_ROUTES
from tests.faults.operator.stage import Stage
from tests.faults.operator.troubles import troubled

pytestmark = pytest.mark.timeout(600)  # seconds; against a hang: lives on a busy machine are slow

SEED = int(os.environ.get("SEED", "20261128"))


def test_after_stale_and_missed_state_everything_is_as_without_it(stage: Stage, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    plans = [troubled(chance, SHORT_ROUTES[0], standby=True), troubled(chance, SHORT_ROUTES[1])]
    verdict = run(stage, tmp_path, plans, at_once=12)
    tell(verdict, SEED, "stale state")
    assert not verdict.failures, verdict.failures
    assert len(verdict.troubled) >= 4, "kinds of trouble"
    assert sum(verdict.troubled.values()) >= 20, "requests and events that met one"
    assert verdict.takeovers >= 1, "a standby that took over"
