"""How often ConfigMaps, which nobody watches, are applied again: soon where workers run, seldom where none do."""

from __future__ import annotations

from typing import Any, cast

import pytest

from greenfleet.controller.config_resync import (
    IDLE_INTERVAL_SECONDS,
    IDLE_PAUSE_SECONDS,
    WORKING_INTERVAL_SECONDS,
    ConfigResync,
)
from greenfleet.controller.registry import Record
from greenfleet.manifests.names import Role
from tests.unit.operator.objects import record
from tests.unit.operator.test_status_builder import decision

HOUR = 3600


def pool_of(name: str, replicas: int, applied_at: float = 0.0) -> Record:
    found = record(name)
    found.fleet(Role.EVENTLET).autoscaling.decision = decision(replicas=replicas)
    found.reconciliation.config_applied_at = applied_at
    return found


def visits(records: list[Record], seconds: int) -> list[str]:
    """Whose ConfigMap is applied again in so long, looked at every second."""
    resync = ConfigResync(cast("Any", None), cast("Any", None))
    found = [resync.next_due(records, float(now)) for now in range(1, seconds + 1)]
    return [one.key for one in found if one is not None]


def test_pools_with_workers_take_turns_each_once_a_round() -> None:
    pools = [pool_of(name, 1) for name in "abc"]
    rounds = HOUR // int(WORKING_INTERVAL_SECONDS)
    for pool in pools:
        assert visits(pools, HOUR).count(pool.key) == pytest.approx(rounds, rel=0.1)
        for one in pools:
            one.reconciliation.config_applied_at = 0.0


@pytest.mark.parametrize(
    ("pools", "visited"),
    [(1, HOUR // IDLE_INTERVAL_SECONDS), (1000, HOUR // IDLE_PAUSE_SECONDS)],
    ids=["one", "a thousand"],
)
def test_what_idle_pools_cost_is_bounded_however_many_there_are(pools: int, visited: float) -> None:
    assert len(visits([pool_of(f"p{number}", 0) for number in range(pools)], HOUR)) <= visited


def test_every_idle_pool_has_its_turn() -> None:
    pools = [pool_of(f"p{number}", 0) for number in range(20)]
    assert set(visits(pools, int(IDLE_INTERVAL_SECONDS + 20 * IDLE_PAUSE_SECONDS))) == {one.key for one in pools}


def test_a_pool_that_wakes_is_looked_at_at_once() -> None:
    idle = pool_of("idle", 0)
    resync = ConfigResync(cast("Any", None), cast("Any", None))
    assert resync.next_due([idle], WORKING_INTERVAL_SECONDS + 1) is None
    idle.fleet(Role.EVENTLET).autoscaling.decision = decision(replicas=1)
    assert resync.next_due([idle], WORKING_INTERVAL_SECONDS + 1) is idle
