"""Promises of `worker.podTemplatePatch` that hold whatever somebody writes there."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from greenfleet.manifests import children_of_pool
from greenfleet.manifests.patch import patch_problem
from greenfleet.manifests.pods import PodDefaults
from tests.unit.operator.objects import Object, pool

ALLOWED = PodDefaults(allow_patch=True)
NAMES = st.sampled_from(["worker", "greenfleet-agent", "greenfleet-pod", "greenfleet-tmp", "other", "x"])
PATHS = st.sampled_from(["/x", "/tmp", "/greenfleet", "//greenfleet/", "/tmp/../greenfleet", "etc/greenfleet/pod/."])
VARIABLES = st.sampled_from(["A", "GREENWORKER_POOL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL"])
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "x", "worker", "/x"]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.sampled_from(["name", "x"]), below, max_size=2),
    max_leaves=4,
)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with some of the fields, now and then with something else in one's place; rarely no object at all."""
    mostly = {name: st.one_of(*[values] * 9, ANYTHING) for name, values in fields.items()}
    return st.one_of(*[st.fixed_dictionaries({}, optional=mostly)] * 9, ANYTHING)


def lists(entries: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(entries, min_size=1, max_size=3)


CONTAINERS = lists(
    objects(
        name=NAMES,
        env=lists(objects(name=VARIABLES, value=st.just("x"))),
        volumeMounts=lists(objects(name=NAMES, mountPath=PATHS)),
        volumeDevices=lists(objects(name=NAMES, devicePath=PATHS)),
        ports=lists(objects(containerPort=st.integers(1, 3))),
        terminationMessagePolicy=st.just("FallbackToLogsOnError"),
        lifecycle=st.just({}),
    )
)
PATCHES = objects(
    metadata=objects(labels=objects(x=st.just("y")), annotations=objects(x=st.just("y"))),
    spec=objects(
        containers=CONTAINERS,
        initContainers=CONTAINERS,
        volumes=lists(objects(name=NAMES, emptyDir=st.just({}))),
        hostAliases=lists(objects(ip=st.just("192.0.2.1"))),
        imagePullSecrets=lists(objects(name=NAMES)),
        dnsPolicy=st.just("None"),
    ),
)


def template(patch: Object) -> Object:
    children = children_of_pool(with_patch(patch), "agent:1", "Always", defaults=ALLOWED)
    found: Object = next(child for child in children if child.is_deployment).manifest["spec"]["template"]
    return found


def with_patch(patch: Object) -> Any:
    return pool(worker={"podTemplatePatch": patch} if patch else {})


def by_name(items: list[Object]) -> dict[str, Object]:
    assert len({item["name"] for item in items}) == len(items)
    return {item["name"]: item for item in items}


def own(items: list[Object], name: str) -> list[Object]:
    return [item for item in items if item[name].startswith(("greenfleet-", "GREENWORKER_", "CELERY_"))]


def own_mounts(pod: Object) -> list[tuple[str, Object]]:
    """Container and mount of each of Greenfleet's volumes; not of that at /tmp, where a mount of the user's may be."""
    return [
        (container["name"], mount)
        for kind in ("containers", "initContainers")
        for container in pod["spec"][kind]
        for mount in own(container.get("volumeMounts") or [], "name")
        if mount["name"] != "greenfleet-tmp"
    ]


@given(PATCHES.filter(lambda patch: isinstance(patch, dict) and len(patch) <= 2))
@example({"spec": {"containers": [{"name": "worker", "env": [{"value": "x"}]}]}})
@example({"spec": {"containers": [{"name": "x", "volumeMounts": [{"name": "greenfleet-agent", "mountPath": "/x"}]}]}})
def test_no_patch_raises_or_touches_what_is_greenfleets_own(patch: Object) -> None:
    problem = patch_problem(patch)
    before, after = template({}), template(patch)
    if problem is not None:
        assert problem.startswith("worker.podTemplatePatch.")
        assert "cannot be merged" not in problem, "its field is named"
        assert after == before
    for kind, name in (("containers", "worker"), ("initContainers", "greenfleet-agent")):
        ours, theirs = by_name(before["spec"][kind])[name], by_name(after["spec"][kind])[name]
        assert own(theirs.get("env", []), "name") == own(ours.get("env", []), "name")
        for field in ("command", "image", "resources", "terminationMessagePolicy", "livenessProbe"):
            assert theirs.get(field) == ours.get(field)
    assert own_mounts(after) == own_mounts(before)
    assert own(after["spec"]["volumes"], "name") == own(before["spec"]["volumes"], "name")
