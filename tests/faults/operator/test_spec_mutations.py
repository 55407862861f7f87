"""No wrong spec is beyond repair by a right one, and none leaves anything behind.

`make faults-operator` is the long form. A failure prints the seed and the chain that repeats it.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.faults.operator.mutations import everything, right_spec, run
from tests.faults.operator.stage import Stage

pytestmark = pytest.mark.timeout(300)

SEED = int(os.environ.get("SEED", "20261128"))


def test_after_any_chain_of_wrong_specs_the_right_one_is_what_it_was_before(stage: Stage, tmp_path: Path) -> None:
    tally = run(stage, tmp_path, random.Random(SEED), count=150, pools=8)
    for failure in tally.failures:
        print(json.dumps({"kind": "mutations", "seed": SEED, **failure}))
    print(json.dumps({"kind": "mutations", "seed": SEED, **tally.as_json()}))
    assert not tally.failures, tally.failures
    assert tally.mutations - tally.refused >= 20, "accepted by the API server"
    assert tally.mutations >= 100


def test_the_mutations_reach_every_leaf_of_the_schema() -> None:
    paths = {one.path for one in everything(right_spec("p0"))}
    assert {("greenThreads", "max"), ("worker", "env", 0, "name"), ("queues", 0), ("scaling", "mode")} <= paths
    assert len(paths) > 150
