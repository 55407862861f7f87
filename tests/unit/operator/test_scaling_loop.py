"""What a round of the scaling loop asks, and when: the cost must not grow with the number of pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenfleet.engine.scaling_loop import turn
from tests.unit.operator.objects import body
from tests.unit.operator.test_blindness import TICK, Cluster, World, play


def test_one_query_for_each_source_and_one_for_all_workers_however_many_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_rabbitmq(name: str) -> dict[str, Any]:
        return body(name, queues=[name], scaling={"prometheus": {"source": "rabbitmq"}})

    others = [body(f"other-{number}", queues=[f"q-{number}"]) for number in range(50)]
    others += [from_rabbitmq(f"rabbit-{number}") for number in range(50)]

    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        del cluster
        await pass_time(TICK)
        assert len(world.asked) == 3, "workers, the default source, rabbitmq"
        await pass_time(2 * TICK)
        assert len(world.asked) == 9

    play(scenario, monkeypatch, replicas=0, others=others)


@pytest.mark.parametrize("servers", [1, 2, 3, 8])
def test_servers_are_asked_one_after_another_within_a_tick(servers: int) -> None:
    names = [f"server-{number}" for number in range(servers)]
    turns = [turn(name, names, 2.0) for name in names]
    assert turns[0] == 0, "one server alone waits for nobody"
    assert len(set(turns)) == servers
    assert max(turns) < 2.0


def test_a_server_that_the_configuration_does_not_name_has_no_turn_to_wait_for() -> None:
    assert turn("typo", ["default"], 2.0) == 0
