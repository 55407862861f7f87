"""Which pod template a fleet gets: an upgraded operator replaces no worker by itself."""

from __future__ import annotations

import copy
from typing import Any

from greenfleet.manifests.names import AGENT_ANNOTATION, Role
from greenfleet.manifests.worker import fleet_deployment, roles_of, with_agent
from greenfleet.status.pinning import GENERATION_ANNOTATION, TEMPLATE_ANNOTATION, Choice, choose
from tests.unit.operator.objects import Object, pool

OLD, NEW = "greenfleet/worker:1", "greenfleet/worker:2"


def chosen(live: Object | None, agent: str, generation: int, *, rendering: str = "", **spec: Any) -> Choice:
    """What an operator with this agent applies; `rendering` stands for a version that builds templates differently."""
    manifest = fleet_deployment(pool(**spec), Role.EVENTLET, agent, "IfNotPresent")
    if rendering:
        manifest["spec"]["template"]["metadata"]["annotations"]["rendering"] = rendering
    return choose(copy.deepcopy(live), manifest, generation)


def agent(choice: Choice) -> str:
    template = choice.manifest["spec"]["template"]
    assert template["spec"]["initContainers"][0]["image"] == template["metadata"]["annotations"][AGENT_ANNOTATION]
    return str(template["metadata"]["annotations"][AGENT_ANNOTATION])


def test_the_agents_image_is_all_that_differs_between_two_versions_of_it() -> None:
    for fleet in (pool(), pool(agent="Installed"), pool(prefork={"processes": 2})):
        for role in roles_of(fleet):
            old, new = (fleet_deployment(fleet, role, image, "IfNotPresent") for image in (OLD, NEW))
            before = copy.deepcopy(old)
            assert with_agent(old, NEW) == new
            assert old == before


def test_a_new_fleet_gets_the_operators_agent() -> None:
    first = chosen(None, OLD, 1)
    assert (agent(first), first.upgrade) == (OLD, False)
    assert first.manifest["metadata"]["annotations"][GENERATION_ANNOTATION] == "1"


def test_an_upgraded_operator_leaves_the_fleet_alone() -> None:
    live = chosen(None, OLD, 1).manifest
    again = chosen(live, NEW, 1)
    assert again.manifest == live
    assert not again.upgrade


def test_a_change_of_bounds_after_an_upgrade_replaces_no_worker() -> None:
    live = chosen(None, OLD, 1).manifest
    bounds = chosen(live, NEW, 2, greenThreads={"max": 77}, replicas={"max": 3}, scaling={"maxWait": "5s"})
    assert bounds.manifest["spec"]["template"] == live["spec"]["template"]
    assert bounds.manifest["metadata"]["annotations"][GENERATION_ANNOTATION] == "2"
    assert not bounds.upgrade


def test_a_change_that_replaces_the_workers_anyway_takes_the_new_agent_with_it() -> None:
    live = chosen(None, OLD, 1).manifest
    changed = chosen(live, NEW, 2, image="registry.example/proj:2")
    assert (agent(changed), changed.upgrade) == (NEW, False)


def test_without_an_upgrade_a_change_keeps_the_agent() -> None:
    live = chosen(None, OLD, 1).manifest
    changed = chosen(live, OLD, 2, image="registry.example/proj:2")
    assert (agent(changed), changed.upgrade) == (OLD, False)


def test_a_version_that_builds_the_template_differently_says_that_it_is_an_upgrade() -> None:
    live = chosen(None, OLD, 1).manifest
    differently = chosen(live, NEW, 1, rendering="of version 2")
    assert (agent(differently), differently.upgrade) == (NEW, True)
    # And once it is applied, nothing more happens.
    assert not chosen(differently.manifest, NEW, 1, rendering="of version 2").upgrade


def test_a_fleet_of_a_version_that_kept_no_digest_is_upgraded_in_its_turn() -> None:
    live = chosen(None, OLD, 1).manifest
    del live["metadata"]["annotations"][TEMPLATE_ANNOTATION]
    assert chosen(live, NEW, 1).upgrade


def test_drift_is_no_reason_to_take_another_agent() -> None:
    live = chosen(None, OLD, 1).manifest
    expected = copy.deepcopy(live)
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/evil:1"
    repaired = chosen(live, NEW, 1)
    assert repaired.manifest == expected
    assert not repaired.upgrade
