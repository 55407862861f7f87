"""What the oracle of hostile tenants rejects, by forged results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.operator.hostile import KINDS, TICK_SECONDS, WANTED, Result, broken

ATTACK = KINDS["foreign series"]("shop", "evil")
SAID = {"status": "True", "reason": "NamespaceMismatch"}
GOOD = Result("foreign series", 1.6, WANTED, 70.0, SAID)


def test_an_attack_that_costs_nobody_anything_and_is_told_is_accepted() -> None:
    assert not broken(GOOD, ATTACK)


def test_a_machine_that_is_slow_in_peace_may_be_slow_under_attack_but_not_much_slower() -> None:
    assert not broken(replace(GOOD, hostile_seconds=6.0, calm_seconds=5.0), ATTACK)
    assert broken(replace(GOOD, hostile_seconds=6.0, calm_seconds=3.0), ATTACK)


@pytest.mark.parametrize(
    "changes",
    [
        {"fewest": 1},
        {"fewest": 0},
        {"hostile_seconds": 2 * TICK_SECONDS + 0.1},
        {"peak_mib": 513.0},
        {"said": {}},
        {"said": {"status": "True", "reason": "Complete"}},
    ],
)
def test_a_neighbour_that_pays_for_it_or_a_pool_that_does_not_say_it_is_rejected(changes: dict[str, Any]) -> None:
    """Series that cut three wanted workers to one are no fewer than any."""
    assert len(broken(replace(GOOD, **changes), ATTACK)) == 1


def test_a_query_without_an_answer_says_nothing_of_slow_queries() -> None:
    """A metric that is not there has no sample either, without any attack."""
    attack = KINDS["slow queries"]("shop", "evil")
    said = {"status": "False", "reason": "NoSample"}
    assert broken(replace(GOOD, said=said), attack)
    assert not broken(replace(GOOD, said={**said, "reason": "PrometheusUnreachable"}), attack)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pool_of_an_attack_that_owes_a_condition_is_asked(kind: str) -> None:
    attack = KINDS[kind]("shop", "evil")
    expected = {"slow queries": 12, "costly specs": 15}.get(kind, 1)
    assert len(attack.guilty) == expected
    assert set(attack.guilty) <= {"evil", *attack.specs}
