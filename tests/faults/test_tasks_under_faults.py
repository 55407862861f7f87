"""The short form of the fault runs: a fleet of real workers on a real broker, every kind of disruption once, nothing
lost.

`make faults` is the long form. Each run prints one JSON line: the seed, the verdict, and the faults that this machine
does not have. The history is in pytest's directory of the test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.faults.again import as_line
from tests.faults.run import run

pytestmark = pytest.mark.timeout(400)

SEED = int(os.environ.get("SEED", "20261128"))


@pytest.mark.parametrize("broker", ["redis", "quorum", pytest.param("classic", marks=pytest.mark.slow)])
def test_nothing_is_lost_and_only_what_the_guarantees_allow_is_done_twice(broker: str, tmp_path: Path) -> None:
    verdict = run(broker, tmp_path / broker, seed=SEED, per_second=30.0)
    line = json.dumps(as_line(broker, SEED, verdict))
    print(line)
    assert verdict.kept, line
    assert len(verdict.disruptions) >= 10, "kinds of disruption"
    assert verdict.confirmed >= 1_000, "tasks that the broker took: 2,000 on both brokers"
