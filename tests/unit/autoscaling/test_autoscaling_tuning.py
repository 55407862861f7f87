"""Parts that can be switched off, to see what each is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenfleet.autoscaling import PARTS, Tuning, decide, initial_state
from greenfleet.autoscaling.autoscaler import CONSTRAINTS
from greenfleet.autoscaling.model import DecisionReason
from tests.unit.autoscaling.builders import KNOWN, NOW, SPEC, sample


def test_a_part_that_does_not_exist_is_refused_with_the_names_that_do() -> None:
    with pytest.raises(ValueError, match=r"part 'dedline' does not exist: choose from rate, deadline"):
        Tuning(disabled=frozenset({"dedline"}))


def test_every_constraint_that_can_be_switched_off_is_a_known_part() -> None:
    assert {name for name, _ in CONSTRAINTS if name} <= PARTS.keys()


@pytest.mark.parametrize("part", PARTS)
def test_the_autoscaler_decides_without_any_one_part(part: str) -> None:
    tuning, state = Tuning(disabled=frozenset({part})), initial_state(KNOWN, NOW - 600)
    for tick in range(3):
        given = sample(500, now=NOW + 2 * tick, busy=20, started=40.0 * tick, finished=40.0 * tick)
        decision, state = decide(SPEC, state, given, NOW + 2 * tick, tuning)
    assert decision.replicas >= 1


def test_a_constraint_that_is_switched_off_does_not_adjust() -> None:
    state, idle = initial_state(KNOWN, NOW), sample(0, workers=4)
    held, _ = decide(SPEC, state, idle, NOW)
    free, _ = decide(SPEC, state, idle, NOW, Tuning(disabled=frozenset({"stabilization"})))
    assert (held.replicas, held.why.binding) == (4, DecisionReason.STABILIZATION)
    assert free.replicas < 4


def test_the_users_own_limits_hold_whatever_is_switched_off() -> None:
    nothing = Tuning(disabled=frozenset(PARTS))
    spec = replace(SPEC, replicas_min=2, replicas_max=3)
    for ready, workers in ((0, 1), (0, 3), (500_000, 3)):
        decision, _ = decide(spec, initial_state(KNOWN, NOW), sample(ready, workers=workers), NOW, nothing)
        assert 2 <= decision.replicas <= 3
