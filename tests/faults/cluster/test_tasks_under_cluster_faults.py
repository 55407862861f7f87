"""A ledger of tasks while Kubernetes and the operator disturb their workers, on the machine's own cluster.

`make faults-cluster` is the long form: all kinds (`nemesis.KINDS`). Each run prints one JSON line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.faults.cluster.nemesis import KINDS, SHORT_KINDS
from tests.faults.cluster.run import BROKERS, run
from tests.faults.cluster.stage import prepare

pytestmark = pytest.mark.timeout(2400)

SEED = int(os.environ.get("SEED", "20261129"))


def _proven(broker: str, kinds: tuple[str, ...], directory: Path) -> None:
    outcome = run(prepare(), broker, directory / broker, seed=SEED, kinds=kinds)
    line = json.dumps(outcome.as_line(broker, SEED))
    print(line)
    assert outcome.kept, line
    assert set(outcome.faults) == set(kinds), outcome.unproven
    assert outcome.verdict.confirmed >= 30 * len(kinds), "tasks that the broker took"


def test_what_kubernetes_does_to_workers_loses_no_task(tmp_path: Path) -> None:
    _proven("redis", SHORT_KINDS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_nothing_that_happens_to_a_cluster_loses_a_task(broker: str, tmp_path: Path) -> None:
    _proven(broker, KINDS, tmp_path)
