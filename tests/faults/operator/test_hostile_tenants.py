"""A hostile tenant costs nobody else a decision, and the operator no more memory than it has; and its own pool says so.

`pytest -s` prints a JSON line for each kind of attack.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from tests.faults.operator.hostile import KINDS, WANTED, Neighbours, broken, too_late
from tests.faults.operator.stage import Stage

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def neighbours(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    made = Neighbours(stage, tmp_path_factory.mktemp("neighbours"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_tenant_delays_no_neighbours_decision_and_its_pool_says_what_it_does(
    neighbours: Neighbours, kind: str
) -> None:
    attack = KINDS[kind](neighbours.honest.name, neighbours.hostile.name)
    neighbours.peace()
    result = neighbours.under(attack)
    if too_late(result, attack):  # is it the attack, or the machine?
        neighbours.peace()
        calm_seconds, calm_workers = neighbours.decisions()
        assert calm_workers == WANTED, "in peace"
        result.calm_seconds = calm_seconds
        if too_late(result, attack):  # the machine may have stood still for a moment; an attack works each time
            neighbours.peace()
            result = replace(neighbours.under(attack), calm_seconds=calm_seconds)
    print(json.dumps(asdict(result)), flush=True)
    assert not broken(result, attack), neighbours.operator.log.read_text()[-4000:]
