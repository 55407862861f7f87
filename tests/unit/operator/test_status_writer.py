"""What the status writer says in Events: once when something becomes bad, once when it is good again, and nothing in
between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from greenfleet.autoscaling.model import DecisionReason
from greenfleet.controller.status_writer import EMPTY_INTERVAL_SECONDS, LOAD_INTERVAL_SECONDS
from greenfleet.status.worker_conditions import RISK_MEMORY_SECONDS
from tests.unit.operator.test_metrics_missing import LONG, TICK, Cluster, World, play


def test_tasks_at_risk_are_one_warning_however_long_they_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        world.busy = (5.0, 5.0)
        await pass_time(2 * TICK)
        assert cluster.condition("TasksAtRisk")["status"] == "False"
        world.risks = (("visibility_timeout", "proj.slow"), ("visibility_timeout", "proj.slower"))
        await pass_time(TICK)
        said = cluster.condition("TasksAtRisk")
        assert said["status"] == "True"
        await pass_time(LONG)
        assert cluster.warned == ["VisibilityTimeout"], "one Event, not one per tick, worker or task"
        assert "Tasks: proj.slow, proj.slower." in cluster.events_of("VisibilityTimeout")[0]
        assert cluster.condition("TasksAtRisk") == said, "nor does the condition move"

        world.risks = ()
        await pass_time(RISK_MEMORY_SECONDS / 2)
        world.risks = (("visibility_timeout", "proj.slow"), ("visibility_timeout", "proj.slower"))
        await pass_time(2 * TICK)
        assert cluster.warned == ["VisibilityTimeout"], "a scrape without it is not the end of it"

        world.risks = ()
        await pass_time(RISK_MEMORY_SECONDS + TICK)
        assert cluster.condition("TasksAtRisk")["status"] == "False"
        assert len(cluster.events_of("NothingFound")) == 1, "and one that it is over, which is no Warning"
        world.risks = (("prefetch", ""),)
        await pass_time(LONG)
        assert cluster.warned == ["VisibilityTimeout", "PrefetchHoards"], "what comes later is said anew"

    play(scenario, monkeypatch, replicas=2)


def test_a_load_that_moves_with_every_sample_is_written_once_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(30)
        world.busy, world.counted = (90.0, 90.0), world.counted + 40.0
        await pass_time(TICK)
        before, minutes = cluster.statuses, 10
        seen = set()
        for tick in range(round(minutes * LOAD_INTERVAL_SECONDS / TICK)):
            world.depth = (1.0, 40.0, 9.0)[tick % 3]
            world.counted += 40.0  # tasks end, too
            await pass_time(TICK)
            seen.add(cluster.pool["status"]["backlog"])
        assert len(seen) > 1, "the load is followed"
        assert cluster.statuses - before <= minutes + 1

    play(scenario, monkeypatch, replicas=2, mode="DryRun")


def test_an_empty_queue_is_written_soon_and_one_that_flickers_not_with_every_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        async def work(depth: float) -> None:
            """One tick in which as many tasks end as ever: the depth alone is news."""
            world.depth, world.counted = depth, world.counted + 40.0
            await pass_time(TICK)

        await pass_time(30)
        world.busy = (90.0, 90.0)
        for _ in range(round(5 * LOAD_INTERVAL_SECONDS / TICK)):
            await work(1.0)
        written = cluster.statuses
        while cluster.statuses == written:
            await work(2.0)  # another load: it is due once a minute
        assert cluster.pool["status"]["backlog"] > 0
        for _ in range(round(EMPTY_INTERVAL_SECONDS / TICK) + 1):
            await work(0.0)
        assert cluster.pool["status"]["backlog"] == 0

        before, minutes = cluster.statuses, 5
        for tick in range(round(minutes * 60 / TICK)):
            await work((1.0, 0.0)[tick % 2])
        assert cluster.statuses - before <= minutes * 60 / EMPTY_INTERVAL_SECONDS + 1

    play(scenario, monkeypatch, replicas=2, mode="DryRun")


def test_what_waits_is_written_at_once_with_a_scale_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(3 * TICK)
        assert cluster.pool["status"]["backlog"] == 0
        world.depth = 5_000.0  # in each of two queues
        await pass_time(2 * TICK)
        status = cluster.pool["status"]
        assert (status["backlog"], status["desiredReplicas"]) == (10_000, world.replicas)
        assert world.replicas > 0
        scaled = status["lastScale"]
        assert scaled["reason"] in set(DecisionReason)
        assert scaled["message"].startswith("eventlet workers 0 → ")

    play(scenario, monkeypatch, replicas=0)


def test_an_operator_that_starts_anew_does_not_warn_again_of_tasks_at_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        world.busy = (5.0, 5.0)
        world.risks = (("visibility_timeout", "proj.slow"),)
        await pass_time(2 * TICK)
        assert cluster.warned == ["VisibilityTimeout"]
        world.record.findings.risks.clear()
        world.record.fleets.clear()
        await world.sync_status()
        assert cluster.condition("TasksAtRisk")["status"] == "True", "no all-clear before the workers were asked"
        await pass_time(LONG)
        assert cluster.events_of("NothingFound") == []
        assert cluster.warned == ["VisibilityTimeout"]

    play(scenario, monkeypatch, replicas=2)


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
def test_an_operator_that_leads_again_says_what_is_news_since_another_one_led(
    monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    """A leads, B leads and says that it is over, A leads again: what A said last is not what was said last."""

    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        world.busy = (5.0, 5.0)
        world.risks = (("visibility_timeout", "proj.slow"),)
        await pass_time(2 * TICK)
        assert cluster.warned == ["VisibilityTimeout"]
        by_other = copy.deepcopy(cluster.pool)
        risk = next(one for one in by_other["status"]["conditions"] if one["type"] == "TasksAtRisk")
        risk |= {"status": "False", "reason": "NothingFound", "message": "No worker reports anything."}
        cluster.pool = by_other
        world.record.status_written(by_other)
        world.record.fleets.clear()
        world.record.findings.risks.clear()
        if not comes_back:
            world.risks = ()
        await pass_time(2 * TICK)
        assert cluster.warned == ["VisibilityTimeout"] * (2 if comes_back else 1)
        assert cluster.events_of("NothingFound") == [], "the other one has said it"

    play(scenario, monkeypatch, replicas=2)


def test_dead_letters_are_one_warning_until_the_exporter_says_that_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        assert cluster.condition("DeadLetters")["status"] == "False"
        world.dead = 2
        await pass_time(2 * TICK)
        assert "2 of queue feeds" in cluster.condition("DeadLetters")["message"]
        await pass_time(LONG)
        assert cluster.warned == ["TaskDeadLettered"], "one Event, not one per tick"
        assert "kubectl greenfleet dead-letters" in cluster.events_of("TaskDeadLettered")[0]
        world.dead = None
        await pass_time(LONG)
        assert cluster.condition("DeadLetters")["status"] == "True", "silence is no all-clear"
        world.dead = 0
        await pass_time(2 * TICK)
        assert cluster.condition("DeadLetters")["status"] == "False"
        assert len(cluster.events_of("NoDeadLetters")) == 1

    play(scenario, monkeypatch, replicas=2)


@pytest.mark.parametrize("prometheus", [{"source": "rabbitmq"}, {"query": "sum(up)"}])
def test_dead_letters_are_said_whatever_the_source_of_the_depths(
    prometheus: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: Callable[[float], Any]) -> None:
        await pass_time(2 * TICK)
        world.dead = 2
        await pass_time(2 * TICK)
        assert "2 of queue feeds" in cluster.condition("DeadLetters")["message"]
        assert len([query for query in world.asked if "greenfleet_queue_messages_ready" in query]) == 0

    play(scenario, monkeypatch, replicas=2, prometheus=prometheus)
