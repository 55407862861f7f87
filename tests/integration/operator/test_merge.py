"""Two who apply one pool, such as a Git repository and a platform team: the lists with keys are merged as in a
Deployment.
"""

from __future__ import annotations

import pytest

from tests.integration.operator.conftest import WorldMaker
from tests.integration.operator.harness import Namespace, Object

WINDOW = {"cron": "0 8 * * *", "duration": "1h", "minReplicas": 1}


@pytest.fixture(scope="module")
def shop(make_world: WorldMaker) -> Namespace:
    """A namespace without an operator."""
    return make_world("merge", runs=lambda pod: False).namespace


def applied(shop: Namespace, name: str, manager: str, force: str = "false", **spec: object) -> Object:
    metadata = {"name": name, "namespace": shop.name}
    body = {"apiVersion": "greenfleet.io/v1alpha1", "kind": "GreenWorkerPool", "metadata": metadata, "spec": spec}
    found: Object = shop.api.apply(shop.path("greenworkerpools", name), body, manager, force)["spec"]
    return found


@pytest.mark.parametrize(
    ("path", "one", "two"),
    [
        ("worker.env", {"name": "A", "value": "1"}, {"name": "B", "value": "2"}),
        ("worker.volumes", {"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}),
        ("scaling.schedules", {"name": "day", **WINDOW}, {"name": "night", **WINDOW, "cron": "0 20 * * *"}),
        ("imagePullSecrets", {"name": "a"}, {"name": "b"}),
        ("queues", "two", "three"),
    ],
)
def test_what_two_managers_apply_is_merged_and_each_takes_only_its_own_away(
    path: str, one: Object | str, two: Object | str, shop: Namespace
) -> None:
    name = path.replace(".", "-").lower()
    *groups, field = path.split(".")

    def partly(*entries: Object | str) -> Object:
        spec: Object = {field: list(entries)}
        for group in reversed(groups):
            spec = {group: spec}
        return spec

    def entries(spec: Object) -> list[object]:
        for group in groups:
            spec = spec[group]
        keys: list[object] = [entry["name"] if isinstance(entry, dict) else entry for entry in spec[field]]
        return keys

    key_one, key_two = (entry["name"] if isinstance(entry, dict) else entry for entry in (one, two))
    first = [name] if field == "queues" else []
    shop.apply_pool(name)
    if first:
        applied(shop, name, "user", **_minimal(shop, name), queues=[name])
    applied(shop, name, "git", **partly(one))
    assert entries(applied(shop, name, "platform", **partly(two))) == [*first, key_one, key_two]
    applied(shop, name, "git")
    assert entries(shop.pool(name)["spec"]) == [*first, key_two]
    shop.delete_pool(name, wait=False)


def test_one_entry_that_two_managers_want_differently_is_a_conflict_of_that_entry_alone(shop: Namespace) -> None:
    shop.apply_pool("contested", worker={"env": [{"name": "LEVEL", "value": "1"}]})
    other = {"env": [{"name": "LEVEL", "value": "2"}, {"name": "REGION", "value": "eu"}]}
    with pytest.raises(Exception, match=r'env\[name="LEVEL"\]\.value'):
        applied(shop, "contested", "platform", worker=other)
    merged = applied(shop, "contested", "platform", force="true", worker=other)["worker"]["env"]
    assert {entry["name"]: entry["value"] for entry in merged} == {"LEVEL": "2", "REGION": "eu"}
    shop.delete_pool("contested", wait=False)


def _minimal(shop: Namespace, name: str) -> Object:
    spec = shop.pool(name)["spec"]
    return {field: spec[field] for field in ("app", "image", "broker")}
