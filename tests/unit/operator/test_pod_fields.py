"""One set of fields for all pods: users, placement, requests, a wrapper, and the patch with what it may not touch."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from greenfleet.api import GreenWorkerPool
from greenfleet.manifests import children_of_pool, exporter_children
from greenfleet.manifests.patch import patch_problem
from greenfleet.manifests.pods import USUAL, PodDefaults
from greenfleet.status.spec_checks import patch_error, user_error
from tests.unit.operator.objects import Object, pool

IMAGE = "greenfleet/worker:1"


def templates(*pools: GreenWorkerPool, defaults: PodDefaults = USUAL) -> dict[str, Object]:
    """Pod templates by role, the exporter's too."""
    children = [*children_of_pool(pools[0], IMAGE, "IfNotPresent", defaults=defaults)]
    children += exporter_children(pools, IMAGE, "IfNotPresent", [], defaults=defaults)
    deployments = [child.manifest for child in children if child.is_deployment]
    return {one["metadata"]["labels"]["greenfleet.io/role"]: one["spec"]["template"] for one in deployments}


def users(template: Object) -> dict[str, int]:
    """What is set of user, group and group of volumes."""
    context = template["spec"]["securityContext"]
    return {name: context[name] for name in ("runAsUser", "runAsGroup", "fsGroup") if name in context}


FIXED = {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
OPENSHIFT = PodDefaults(user=None, group=None, fs_group=None)
NULL = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
IMAGES = {"runAsUser": "Image", "runAsGroup": "Image", "fsGroup": "None"}


@pytest.mark.parametrize(
    ("chosen", "defaults", "expected"),
    [
        ({}, USUAL, FIXED),
        (NULL, USUAL, {}),
        ({}, OPENSHIFT, {}),
        ({"runAsUser": 1000}, OPENSHIFT, {"runAsUser": 1000}),
        ({"runAsUser": 1000, "fsGroup": None}, USUAL, {"runAsUser": 1000, "runAsGroup": 65532}),
        (IMAGES, USUAL, {}),
        (IMAGES, OPENSHIFT, {}),
        ({"runAsUser": "Image"}, USUAL, {"fsGroup": 65532}),
        ({"runAsUser": None}, USUAL, {"fsGroup": 65532}),
        ({"runAsUser": None, "runAsGroup": 1000}, USUAL, {"fsGroup": 65532}),
        ({"runAsGroup": 1000}, OPENSHIFT, {}),
        ({}, PodDefaults(user=None), {"fsGroup": 65532}),
        ({"runAsUser": 1000}, PodDefaults(user=None), {"runAsUser": 1000, "runAsGroup": 65532, "fsGroup": 65532}),
        ({"runAsUser": 1000, "runAsGroup": "Image", "fsGroup": "None"}, USUAL, {"runAsUser": 1000}),
    ],
)
def test_no_user_is_set_where_the_image_or_openshift_decides(
    chosen: Object, defaults: PodDefaults, expected: Object
) -> None:
    found = templates(pool(worker={"securityContext": chosen}, prefork={}), defaults=defaults)
    assert found.keys() == {"eventlet", "prefork", "exporter"}
    for template in found.values():
        assert users(template) == expected
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("chosen", "defaults", "refused"),
    [
        ({"runAsUser": "Image", "runAsGroup": 1000}, USUAL, True),
        ({"runAsUser": None, "runAsGroup": 1000}, USUAL, True),
        ({"runAsGroup": 1000}, OPENSHIFT, True),
        ({"runAsGroup": 1000}, USUAL, False),
        ({"runAsUser": 1000, "runAsGroup": 1000}, OPENSHIFT, False),
        ({"runAsUser": "Image"}, USUAL, False),
        ({"runAsGroup": "Image"}, OPENSHIFT, False),
        ({}, PodDefaults(user=None), False),
    ],
)
def test_a_group_without_a_user_is_said_because_no_container_runtime_starts_such_a_pod(
    chosen: Object, defaults: PodDefaults, refused: bool
) -> None:
    found = user_error(pool(worker={"securityContext": chosen}), defaults)
    assert (found is not None) is refused
    if found is not None:
        assert found.reason == "InvalidSpec"
        for part in ("worker.securityContext.runAsGroup is 1000", "runAsUser", "group of the image", "remove"):
            assert part in found.message


def test_companion_and_exporter_run_where_the_workers_do_unless_they_say_otherwise() -> None:
    toleration = {"key": "team", "operator": "Equal", "value": "shop", "effect": "NoSchedule"}
    worker = {
        "nodeSelector": {"team": "shop"},
        "tolerations": [toleration],
        "priorityClassName": "batch",
        "annotations": {"sidecar.istio.io/inject": "false"},
        "labels": {"azure.workload.identity/use": "true"},
    }
    for template in templates(pool(worker=worker, prefork={})).values():
        spec, metadata = template["spec"], template["metadata"]
        assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"team": "shop"}, "batch")
        assert spec["tolerations"][0]["key"] == "team"
        assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
        assert metadata["labels"]["azure.workload.identity/use"] == "true"
    own = {"nodeSelector": {"team": "images"}, "tolerations": []}
    found = templates(pool(worker=worker, prefork=own, exporter={"nodeSelector": {}, "labels": {}}))
    assert found["prefork"]["spec"]["nodeSelector"] == {"team": "images"}
    assert "tolerations" not in found["prefork"]["spec"]
    assert "nodeSelector" not in found["exporter"]["spec"]
    assert "azure.workload.identity/use" not in found["exporter"]["metadata"]["labels"]


def test_the_first_pool_of_a_broker_by_name_decides_where_the_exporter_runs() -> None:
    one = pool("a", worker={"nodeSelector": {"team": "a"}})
    two = pool("b", worker={"nodeSelector": {"team": "b"}})
    for pools in ((one, two), (two, one)):
        assert templates(*pools)["exporter"]["spec"]["nodeSelector"] == {"team": "a"}


def test_the_exporter_is_the_same_in_whatever_order_its_pools_come() -> None:
    """The registry puts a pool that was changed behind the others."""

    def of(name: str, **broker: Any) -> GreenWorkerPool:
        return pool(name, broker={"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}, **broker})

    one = of("a", caSecretRef={"name": "old-ca"}, metricsPort=15691)
    two = of("b", caSecretRef={"name": "new-ca"}, metricsPort=15692)
    first, second = (exporter_children(pools, IMAGE, "IfNotPresent", []) for pools in ([one, two], [two, one]))
    assert first == second


@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        ({}, {"cpu": "50m", "memory": "128Mi"}),
        ({"requests": {"cpu": "200m"}}, {"cpu": "200m", "memory": "128Mi"}),
        ({"limits": {"cpu": "20m"}}, {"memory": "128Mi"}),
        ({"limits": {"cpu": "20m", "memory": "64Mi"}}, None),
    ],
)
def test_a_worker_always_has_requests_and_never_above_its_limits(resources: Object, requests: Object | None) -> None:
    container = templates(pool(worker={"resources": resources}))["eventlet"]["spec"]["containers"][0]
    assert container["resources"].get("requests") == requests


@pytest.mark.parametrize(
    ("worker", "requests", "limits"),
    [
        ({}, {"cpu": "10m", "memory": "32Mi"}, {"memory": "128Mi"}),
        ({"limits": {"cpu": 1}}, {"cpu": "10m", "memory": "32Mi"}, {"cpu": 1, "memory": "128Mi"}),
        ({"limits": {"memory": "1Gi"}}, {"cpu": "10m", "memory": "32Mi"}, {"memory": "128Mi"}),
        (
            {"limits": {"cpu": "5m", "memory": "16Mi", "nvidia.com/gpu": 1}},
            {"cpu": "5m", "memory": "16Mi"},
            {"cpu": "5m", "memory": "16Mi"},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["eventlet", "prefork"])
def test_the_agent_has_each_limit_that_the_worker_has_and_none_above_it(
    role: str, worker: Object, requests: Object, limits: Object
) -> None:
    """A quota on limits asks for it in each container. Requests stay small: were they the limits, as a worker's often
    are, the pod would be Guaranteed, whose limits Kubernetes lets nobody raise while it starts.
    """
    no_boost = {"startupBoost": {"cpu": 0}}
    found = templates(
        pool(worker=no_boost, prefork={"resources": worker})
        if role == "prefork"
        else pool(worker={"resources": worker, **no_boost}, prefork={})
    )[role]
    [agent] = found["spec"]["initContainers"]
    assert agent["resources"] == {"requests": requests, "limits": limits}


@pytest.mark.parametrize(("cpu", "boost", "limited"), [("150m", 1, False), ("1", 1, True), (2, "1500m", True)])
def test_the_agent_leaves_room_for_the_boost(cpu: str | int, boost: str | int, limited: bool) -> None:
    """Kubelet keeps a pod whose containers all have a CPU limit at that limit while its init container runs."""
    worker = {"resources": {"limits": {"cpu": cpu}}, "startupBoost": {"cpu": boost}}
    [agent] = templates(pool(worker=worker))["eventlet"]["spec"]["initContainers"]
    assert ("cpu" in agent["resources"]["limits"]) is limited


@pytest.mark.parametrize(
    ("worker", "own", "requests", "limits"),
    [
        ({}, {}, {"cpu": "10m", "memory": "48Mi"}, {"memory": "192Mi"}),
        ({"cpu": 1, "memory": "64Mi"}, {}, {"cpu": "10m", "memory": "48Mi"}, {"cpu": 1, "memory": "192Mi"}),
        ({"cpu": "5m"}, {}, {"cpu": "10m", "memory": "48Mi"}, {"cpu": "10m", "memory": "192Mi"}),
        (
            {"cpu": "100m", "memory": "64Mi"},
            {"requests": {"cpu": "200m", "memory": "96Mi"}},
            {"cpu": "200m", "memory": "96Mi"},
            {"cpu": "200m", "memory": "96Mi"},
        ),
        ({"cpu": 1}, {"limits": {"cpu": "50m"}}, {"memory": "48Mi"}, {"cpu": "50m", "memory": "192Mi"}),
        ({"ephemeral-storage": "1Gi"}, {}, {"cpu": "10m", "memory": "48Mi"}, {"memory": "192Mi"}),
    ],
    ids=str,
)
def test_the_exporter_has_each_limit_that_the_worker_has_and_none_below_its_requests(
    worker: Object, own: Object, requests: Object, limits: Object
) -> None:
    found = templates(pool(worker={"resources": {"limits": worker}}, exporter={"resources": own}))["exporter"]
    assert found["spec"]["containers"][0]["resources"] == {"requests": requests, "limits": limits}


def test_a_companions_variable_takes_the_place_of_the_workers() -> None:
    def values(template: Object) -> dict[str, str]:
        return {one["name"]: one.get("value", "") for one in template["spec"]["containers"][0]["env"]}

    worker = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]}
    found = templates(pool(worker=worker, prefork={"env": [{"name": "B", "value": "2"}, {"name": "C", "value": "2"}]}))
    assert {name: values(found["prefork"])[name] for name in "ABC"} == {"A": "1", "B": "2", "C": "2"}
    assert values(found["eventlet"])["B"] == "1"
    assert "C" not in values(found["eventlet"])
    names = [one["name"] for one in found["prefork"]["spec"]["containers"][0]["env"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("agent", ["Inject", "Installed"])
def test_a_wrapper_starts_the_launcher(agent: str) -> None:
    plain = templates(pool(agent=agent))["eventlet"]["spec"]["containers"][0]["command"]
    wrapped = templates(pool(agent=agent, worker={"wrapper": ["newrelic-admin", "run-program"]}))
    assert wrapped["eventlet"]["spec"]["containers"][0]["command"] == ["newrelic-admin", "run-program", *plain]


PATCH = {
    "metadata": {"annotations": {"vault.example/inject": "true"}},
    "spec": {
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["legacy"]}],
        "volumes": [{"name": "secrets", "csi": {"driver": "secrets-store.csi.k8s.io"}}],
        "initContainers": [{"name": "migrate", "image": "proj:1", "command": ["true"]}],
        "containers": [
            {
                "name": "worker",
                "volumeMounts": [{"name": "secrets", "mountPath": "/secrets"}],
                "lifecycle": {"preStop": {}},
            },
            {"name": "proxy", "image": "proxy:1"},
        ],
    },
}


def test_a_patch_adds_what_the_resource_has_no_words_for_and_leaves_the_rest() -> None:
    one = pool(worker={"podTemplatePatch": PATCH})
    before = templates(one)["eventlet"]
    after = templates(one, defaults=PodDefaults(allow_patch=True))["eventlet"]
    spec = after["spec"]
    assert [container["name"] for container in spec["containers"]] == ["worker", "proxy"]
    assert [container["name"] for container in spec["initContainers"]] == ["greenfleet-agent", "migrate"]
    assert after["metadata"]["annotations"] == {**before["metadata"]["annotations"], "vault.example/inject": "true"}
    worker, plain = spec["containers"][0], before["spec"]["containers"][0]
    assert worker["volumeMounts"] == [*plain["volumeMounts"], {"name": "secrets", "mountPath": "/secrets"}]
    assert worker.pop("lifecycle") == {"preStop": {}}
    assert {**worker, "volumeMounts": plain["volumeMounts"]} == plain
    assert spec["volumes"] == [*before["spec"]["volumes"], PATCH["spec"]["volumes"][0]]  # type: ignore[index]


def test_without_the_administrators_word_a_patch_changes_nothing_and_is_said() -> None:
    one = pool(worker={"podTemplatePatch": PATCH})
    assert templates(one) == templates(pool())
    stalled = patch_error(one, allowed=False)
    assert stalled is not None
    assert stalled.reason == "PatchNotAllowed"
    assert "pods.allowPodTemplatePatch" in stalled.message
    assert patch_error(one, allowed=True) is None


WORKER: Object = {"name": "worker"}


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"metadata": {"labels": {"greenfleet.io/pool": "other"}}}, "greenfleet.io/pool"),
        ({"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}, "app.kubernetes.io/name"),
        ({"metadata": {"labels": None}}, "metadata.labels"),
        ({"metadata": {"annotations": {"greenfleet.io/threads": "9"}}}, "greenfleet.io/threads"),
        ({"metadata": {"annotations": {"greenfleet.io/threads": None}}}, "greenfleet.io/threads"),
        ({"metadata": {"name": "x"}}, "metadata.name"),
        ({"kind": "Pod"}, "kind"),
        ({"spec": None}, "spec"),
        ({"spec": {"$patch": "replace"}}, "$patch"),
        ({"spec": {"containers": None}}, "spec.containers"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers"),
        ({"spec": {"containers": [{**WORKER, "$patch": "delete"}]}}, "$patch"),
        ({"spec": {"initContainers": None}}, "spec.initContainers"),
        ({"spec": {"initContainers": [{"name": "greenfleet-agent", "image": "x"}]}}, "greenfleet-agent"),
        ({"spec": {"volumes": None}}, "spec.volumes"),
        ({"spec": {"volumes": [{"name": "greenfleet-pod", "emptyDir": {}}]}}, "greenfleet-pod"),
        ({"spec": {"terminationGracePeriodSeconds": 1}}, "terminationGracePeriodSeconds"),
        ({"spec": {"serviceAccountName": "admin"}}, "serviceAccountName"),
        ({"spec": {"serviceAccount": "admin"}}, "serviceAccount"),
        ({"spec": {"containers": [{**WORKER, "env": None}]}}, "env"),
        (
            {"spec": {"containers": [{**WORKER, "env": [{"name": "GREENWORKER_POOL", "value": "x"}]}]}},
            "GREENWORKER_POOL",
        ),
        (
            {"spec": {"containers": [{**WORKER, "volumeMounts": [{"name": "x", "mountPath": "/greenfleet/lib"}]}]}},
            "/greenfleet",
        ),
        *(
            ({"spec": {"containers": [{**WORKER, "env": [{"name": name, "value": "x"}]}]}}, name)
            for name in (
                "CELERY_BROKER_URL",
                "CELERY_BROKER_READ_URL",
                "CELERY_BROKER_WRITE_URL",
                "CELERY_RESULT_BACKEND",
                "CELERY_WORKER_POOL",
                "CELERY_WORKER_EXCLUDE_QUEUES",
            )
        ),
        *(
            ({"spec": {"containers": [{**WORKER, name: [{"name": "x", key: path}]}]}}, f"{name}[{path}]")
            for name, key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath"))
            for path in (
                "//greenfleet",
                "greenfleet/",
                "/tmp/../greenfleet",
                "/./greenfleet/lib",
                "/../greenfleet",
                "/etc//greenfleet/pod",
                "/dev/termination-log",
            )
        ),
        *(
            (
                {"spec": {kind: [{"name": container, "volumeMounts": [{"name": volume, "mountPath": "/x"}]}]}},
                f"spec.{kind}[{container}].volumeMounts[/x]",
            )
            for kind, container in (("containers", "worker"), ("containers", "proxy"), ("initContainers", "proxy"))
            for volume in ("greenfleet-agent", "greenfleet-pod", "greenfleet-tmp")
        ),
        *(
            ({"spec": {"containers": [{**WORKER, name: value}]}}, name)
            for name in (
                "command",
                "args",
                "image",
                "resources",
                "ports",
                "startupProbe",
                "readinessProbe",
                "livenessProbe",
                "resizePolicy",
                "terminationMessagePath",
                "terminationMessagePolicy",
            )
            for value in ({}, None)
        ),
    ],
    ids=str,
)
def test_a_patch_that_touches_what_is_greenfleets_own_is_refused_by_name(patch: Object, field: str) -> None:
    problem = patch_problem(patch)
    assert problem is not None
    assert field in problem
    allowed = PodDefaults(allow_patch=True)
    one = pool(worker={"podTemplatePatch": patch})
    assert templates(one, defaults=allowed) == templates(pool(), defaults=allowed)
    stalled = patch_error(one, allowed=True)
    assert stalled is not None
    assert stalled.reason == "InvalidPatch"


@pytest.mark.parametrize(
    "container",
    [
        {**WORKER, "env": [{"name": "CELERY_WORKER_NAME", "value": "x"}, {"name": "GREEN", "value": "x"}]},
        {**WORKER, "volumeMounts": [{"name": "x", "mountPath": path} for path in ("/greenfleets", "/x/greenfleet")]},
        {"name": "proxy", "volumeMounts": [{"name": "x", "mountPath": "/greenfleet"}]},
        {"name": "proxy", "terminationMessagePolicy": "FallbackToLogsOnError", "env": [{"name": "CELERY_BROKER_URL"}]},
    ],
    ids=str,
)
def test_a_patch_may_do_what_does_not_touch_the_worker(container: Object) -> None:
    assert patch_problem({"spec": {"containers": [container]}}) is None


SIDECAR: Object = {"name": "proxy", "image": "proxy:1"}


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ({"containers": [{"name": ["a"]}]}, ["spec.containers is set", "name"]),
        ({"containers": [SIDECAR, SIDECAR]}, ["spec.containers[proxy]", "twice", "keep one"]),
        ({"containers": [SIDECAR], "initContainers": [SIDECAR]}, ["spec.initContainers[proxy]", "another name"]),
        ({"initContainers": [WORKER]}, ["spec.initContainers[worker]", "another name"]),
        ({"containers": [{"name": "greenfleet-agent"}]}, ["spec.containers[greenfleet-agent]", "another name"]),
        ({"volumes": [{"name": 5}]}, ["spec.volumes is set", "name"]),
        ({"volumes": [{"name": "v"}, {"name": "v"}]}, ["spec.volumes[v]", "twice", "keep one"]),
        ({"hostAliases": [{"ip": {}}]}, ["spec.hostAliases is set", "ip"]),
        ({"topologySpreadConstraints": [{"topologyKey": 1}]}, ["spec.topologySpreadConstraints", "topologyKey"]),
        ({"ephemeralContainers": [SIDECAR]}, ["spec.ephemeralContainers", "remove it"]),
        *(
            ({kind: [{**container, name: entries}]}, [f"spec.{kind}[{container['name']}].{name}", key])
            for kind, container in (("containers", WORKER), ("containers", SIDECAR), ("initContainers", SIDECAR))
            for name, key, entries in (
                ("env", "name", [{"value": "x"}]),
                ("env", "name", ["FOO=bar"]),
                ("env", "name", {"FOO": "bar"}),
                ("env", "name", [{"name": None, "value": "x"}]),
                ("volumeMounts", "mountPath", [{"name": "x"}]),
                ("volumeMounts", "mountPath", [{"name": "x", "mountPath": ["/x"]}]),
                ("volumeDevices", "devicePath", [{"name": "x"}]),
                ("volumeDevices", "devicePath", 5),
            )
        ),
        ({"containers": [{**SIDECAR, "ports": [{"containerPort": "http"}]}]}, ["[proxy].ports", "containerPort"]),
    ],
    ids=str,
)
def test_a_patch_that_cannot_be_merged_is_refused_by_name(spec: Object, parts: list[str]) -> None:
    allowed = PodDefaults(allow_patch=True)
    one = pool(worker={"podTemplatePatch": {"spec": spec}})
    stalled = patch_error(one, allowed=True)
    assert stalled is not None
    assert stalled.reason == "InvalidPatch"
    for part in parts:
        assert part in stalled.message
    assert templates(one, defaults=allowed) == templates(pool(), defaults=allowed)


def test_entries_that_share_a_part_of_their_key_are_told_apart() -> None:
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]
    spread = [
        {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2},
        {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1},
    ]
    sidecar = {**SIDECAR, "ports": ports, "env": None}
    patch = {"spec": {"containers": [sidecar], "topologySpreadConstraints": spread}}
    assert patch_problem(patch) is None
    [_, found] = templates(pool(worker={"podTemplatePatch": patch}), defaults=PodDefaults(allow_patch=True))[
        "eventlet"
    ]["spec"]["containers"]
    assert found == sidecar


def test_a_patch_of_two_constraints_where_the_pod_has_one_of_them_loses_neither() -> None:
    own = {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}
    strict = {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2}
    lax = {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}
    worker: Object = {
        "topologySpreadConstraints": [own],
        "podTemplatePatch": {"spec": {"topologySpreadConstraints": [lax, strict]}},
    }
    found = templates(pool(worker=worker), defaults=PodDefaults(allow_patch=True))["eventlet"]
    spread = found["spec"]["topologySpreadConstraints"]
    assert [(one["whenUnsatisfiable"], one["maxSkew"]) for one in spread] == [
        ("DoNotSchedule", 2),
        ("ScheduleAnyway", 1),
    ]


def test_a_patch_that_is_too_deep_to_be_looked_through_is_refused_and_holds_nobody_up() -> None:
    patch: Object = {}
    for _ in range(10_000):
        patch = {"spec": patch}
    problem = patch_problem(patch)
    assert problem is not None
    assert "cannot be merged" in problem


def test_a_patch_changes_no_manifest_that_was_built_before() -> None:
    patch: dict[str, Any] = copy.deepcopy(PATCH)
    templates(pool(worker={"podTemplatePatch": patch}), defaults=PodDefaults(allow_patch=True))
    assert patch == PATCH
