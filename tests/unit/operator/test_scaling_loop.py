"""What a round of the scaling loop asks and writes: the cost must not grow with the number of pools, and dry-run writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenfleet.api import GreenWorkerPool
from greenfleet.k8s.client import ApiError, ForbiddenError, InvalidError, TransientError
from greenfleet.manifests.names import Role
from greenfleet.prometheus.poller import query_offset
from greenfleet.status.stalled import StalledReason
from tests.unit.operator.objects import body
from tests.unit.operator.test_metrics_missing import TICK, Cluster, World, play

PassTime = Callable[[float], Any]


def test_one_query_for_each_source_and_one_for_all_workers_however_many_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_rabbitmq(name: str) -> dict[str, Any]:
        return body(name, queues=[name], scaling={"prometheus": {"source": "rabbitmq"}})

    others = [body(f"other-{number}", queues=[f"q-{number}"]) for number in range(50)]
    others += [from_rabbitmq(f"rabbit-{number}") for number in range(50)]

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        del cluster
        await pass_time(TICK)
        assert len(world.asked) == 3, "workers, the default source, rabbitmq"
        await pass_time(2 * TICK)
        assert len(world.asked) == 9

    play(scenario, monkeypatch, replicas=0, others=others)


@pytest.mark.parametrize("servers", [1, 2, 3, 8])
def test_servers_are_asked_one_after_another_within_a_tick(servers: int) -> None:
    names = [f"server-{number}" for number in range(servers)]
    turns = [query_offset(name, names, 2.0) for name in names]
    assert turns[0] == 0, "one server alone waits for nobody"
    assert len(set(turns)) == servers
    assert max(turns) < 2.0


def test_a_server_that_the_configuration_does_not_name_has_no_turn_to_wait_for() -> None:
    assert query_offset("typo", ["default"], 2.0) == 0


@pytest.mark.parametrize("replicas", [0, 2])
def test_dry_run_decides_says_so_and_writes_nothing_but_the_status(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(3 * TICK)
        world.depth = 50_000.0
        await pass_time(5 * TICK)
        world.depth = 0.0
        await pass_time(200)
        assert cluster.applied == []
        assert cluster.patched == []
        assert cluster.condition("ScalingActive")["reason"] == "DryRun"

    metrics = play(scenario, monkeypatch, replicas=replicas, mode="DryRun")
    labels = {"pool": "shop/feeds", "role": "eventlet"}
    assert metrics.registry.get_sample_value("greenfleet_desired_workers", labels) is not None


@pytest.mark.parametrize(("pause", "depth", "replicas"), [("Out", 50_000.0, 1), ("In", 0.0, 2), ("All", 0.0, 2)])
def test_a_pause_in_one_direction_holds_that_direction(
    pause: str, depth: float, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(3 * TICK)
        world.depth = depth
        await pass_time(100)
        assert cluster.scaled == []
        assert cluster.condition("ScalingActive")["reason"] == "Paused"

    play(scenario, monkeypatch, replicas=replicas, pause=pause)


def test_a_pause_in_the_other_direction_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        world.depth = 50_000.0
        await pass_time(5 * TICK)
        assert cluster.scaled

    play(scenario, monkeypatch, replicas=1, pause="In")


def test_the_most_idle_pods_are_marked_to_leave_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        world.busy = (7.0, 0.0, 3.0)
        await pass_time(60)
        marked = [path.split("/")[-2] for path, told in cluster.patched if "pod-deletion-cost" in str(told)]
        assert cluster.scaled == [1]
        assert marked == ["feeds-1", "feeds-2"]

    play(scenario, monkeypatch, replicas=3)


def test_several_queues_are_one_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(2 * TICK)
        world.depth = 5.0  # in each of both
        await pass_time(TICK)
        assert cluster.scaled == [1], "ten are more than the threshold of nine; five are not"

    play(scenario, monkeypatch, replicas=0, activationThreshold=9)


def test_the_last_fifty_reasons_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    histories: list[list[Any]] = []

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        del cluster
        for number in range(120):
            world.queues = ("feeds", "mail") if number % 2 else ()  # known and missing, in turn
            await pass_time(TICK)
        histories.append([why.at for why in world.record.fleets[Role.EVENTLET].autoscaling.history])

    play(scenario, monkeypatch, replicas=1)
    [kept] = histories
    assert len(kept) == 50
    assert kept == sorted(kept)


def test_an_idle_pool_costs_no_request_and_says_its_start_value_when_it_wakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(100)
        assert world.record.is_scaled_to_zero
        assert cluster.applied == []
        written = cluster.statuses
        await pass_time(200)
        assert cluster.applied == []
        assert cluster.statuses == written
        world.depth = 5.0
        await pass_time(TICK)
        assert [manifest["kind"] for manifest in cluster.applied] == ["ConfigMap", "Deployment"]
        assert not world.record.is_scaled_to_zero

    play(scenario, monkeypatch, replicas=0)


def test_an_idle_pool_wakes_between_two_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [body(f"other-{number}", queues=[f"q-{number}"]) for number in range(3)]

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(3 * TICK)
        del world.asked[:]
        await world.poll_idle_pools()
        assert world.asked == ["greenfleet_queue_messages_ready > 0"], "one query, however many pools sleep"
        world.clock.now += TICK / 2
        world.depth = 5.0
        await world.poll_idle_pools()
        assert len(world.asked) == 4, "and when something waits, what every round asks"
        assert cluster.scaled == [1]
        await world.poll_idle_pools()
        assert len(world.asked) == 4, "it is working"

    play(scenario, monkeypatch, replicas=0)
    play(scenario, monkeypatch, replicas=0, others=others)


def test_nobody_glances_at_pools_that_work_or_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        world.depth = 4.0
        await pass_time(3 * TICK)
        del world.asked[:]
        await world.poll_idle_pools()
        assert world.asked == []
        assert cluster.scaled == []

    play(scenario, monkeypatch, replicas=0, activationThreshold=9)
    play(scenario, monkeypatch, replicas=1)


def test_a_glance_that_fails_says_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        await pass_time(3 * TICK)
        said, world.hangs_up = list(cluster.events), True
        await world.poll_idle_pools()
        assert cluster.scaled == []
        assert cluster.events == said
        world.hangs_up = False
        await pass_time(TICK)
        assert cluster.condition("ScalingActive")["status"] == "True"

    play(scenario, monkeypatch, replicas=0)


def test_the_age_of_the_oldest_message_is_a_metric_beside_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        del cluster
        world.counted = 0.0
        await pass_time(TICK)
        world.depth = 500.0  # in each of two queues; the workers start nothing
        await pass_time(30 * TICK)

    metrics = play(scenario, monkeypatch, replicas=1, maxWait="45s").registry
    labels = {"pool": "shop/feeds", "role": "eventlet"}
    assert metrics.get_sample_value("greenfleet_oldest_wait_seconds", labels) == 29 * TICK
    assert metrics.get_sample_value("greenfleet_max_wait_seconds", labels) == 45


def scales(stall: str, monkeypatch: pytest.MonkeyPatch, **state: Any) -> tuple[Cluster, World]:
    """A pool that the operator has just met after a restart, and for which 50,000 messages wait."""
    seen: list[tuple[Cluster, World]] = []

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        seen.append((cluster, world))
        reconciliation = world.record.reconciliation
        reconciliation.generation = reconciliation.config_uid = None
        said = {"reason": "UpToDate", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        condition = {"type": "Reconciling", "status": "False", "observedGeneration": 1, **said}
        world.record.body["status"] = {"conditions": [condition]}
        if stall:
            setattr(reconciliation, stall, StalledReason("Because", "field is value: reason: fix"))
        for name, value in state.items():
            setattr(cluster, name, value)
        world.depth = 50_000.0
        await pass_time(5 * TICK)

    play(scenario, monkeypatch, replicas=0)
    return seen[0]


def test_a_pool_of_which_an_object_is_refused_goes_on_being_scaled_and_says_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, _ = scales("refused", monkeypatch)
    assert cluster.world.replicas > 0
    assert cluster.condition("Stalled")["status"] == "True"


def test_a_pool_in_conflict_is_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, _ = scales("conflict", monkeypatch)
    assert cluster.scaled == []


def test_the_workers_of_a_predecessor_with_the_same_name_and_generation_are_not_taken_for_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, world = scales("", monkeypatch, owner="another")
    assert cluster.scaled == []
    assert world.record.reconciliation.generation is None
    cluster, world = scales("", monkeypatch)
    assert cluster.scaled
    assert world.record.reconciliation.generation == 1


def test_after_a_restart_a_pool_wakes_with_the_green_threads_that_are_decided_and_not_those_of_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, _ = scales("", monkeypatch)
    kinds = [one["kind"] for one in cluster.applied]
    assert kinds[:2] == ["ConfigMap", "Deployment"], "a new pod reads it as it starts"
    assert cluster.applied[0]["metadata"]["uid"] == "config"


def test_names_of_servers_that_nobody_configured_cost_one_look_at_all_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pool may name a server of its own invention: 1,000 of them were 1,000 looks at 1,000 pools in every tick."""
    others = [
        body(f"other-{number}", queues=[f"q-{number}"], scaling={"prometheus": {"server": f"typo-{number}"}})
        for number in range(50)
    ]

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        del cluster
        await pass_time(TICK)
        assert len(world.asked) == 2, "and nothing is asked of them"

    metrics = play(scenario, monkeypatch, replicas=0, others=others)
    assert metrics.registry.get_sample_value("greenfleet_loop_duration_seconds_count") == 2, (
        "the known server, and all others"
    )


@pytest.mark.parametrize(
    "refusal", [ForbiddenError("webhook", 403), InvalidError("immutable", 422), TransientError("", 500)]
)
def test_a_pod_and_a_config_map_that_refuse_to_be_written_keep_no_worker_from_coming(
    refusal: ApiError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        told: list[str] = []
        apply = cluster.apply

        async def merge_patch(path: str, patch: Any) -> Any:
            if "/feeds-0/" in path:
                raise refusal
            told.append(path)
            return patch

        async def apply_but_no_config(path: str, manifest: Any, manager: str, **options: Any) -> Any:
            if manifest["kind"] == "ConfigMap":
                raise refusal
            return await apply(path, manifest, manager, **options)

        monkeypatch.setattr(cluster, "merge_patch", merge_patch)
        monkeypatch.setattr(cluster, "apply", apply_but_no_config)
        world.busy = (100.0, 100.0)
        await pass_time(2 * TICK)
        world.depth = 500_000.0
        await pass_time(5 * TICK)
        assert any(replicas > 2 for replicas in cluster.scaled)
        assert any("/feeds-1/" in path for path in told), "the other worker gets its green threads"

    play(scenario, monkeypatch, replicas=2)


def test_what_the_configuration_has_no_place_for_is_looked_for_once_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 schedules, each in another time zone, took 6 ms to understand, in every tick."""

    async def scenario(world: World, cluster: Cluster, pass_time: PassTime) -> None:
        del cluster
        looked: list[str] = []

        def config_error(pool: GreenWorkerPool) -> StalledReason | None:
            looked.append(pool.key)
            return None

        monkeypatch.setattr(world.status, "_config_error", config_error)
        await pass_time(10 * TICK)
        for _ in range(3):
            await world.sync_status()
        assert looked == ["shop/feeds"]

    play(scenario, monkeypatch, replicas=1)
