"""The children of a pool against a real API server, its garbage collector and its Deployment controller."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator

import pytest

from greenfleet.manifests import names
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Object, Refused, RunningPod, eventually, only_exporters


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    made = make_world("children", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture(autouse=True)
def pools_end_with_their_test(world: World) -> Iterator[None]:
    """Also those of a test that fails: it would take the last one along, for which nothing may be left."""
    yield
    shop = world.namespace
    for pool in shop.api.items(shop.path("greenworkerpools")):
        shop.delete_pool(pool["metadata"]["name"], wait=False)


def exporters(world: World) -> list[Object]:
    return world.namespace.api.items(world.namespace.path("deployments"), labelSelector="greenfleet.io/role=exporter")


def owners_of_exporter(world: World, secret: str = "broker") -> list[str]:
    found = world.namespace.find("deployments", names.exporter_name(f"{secret}/url"))
    return sorted(owner["name"] for owner in found["metadata"].get("ownerReferences", [])) if found else []


def test_the_children_appear_and_are_owned(world: World) -> None:
    shop = world.namespace
    created = shop.apply_pool("feeds", prefork={})
    found = [
        eventually(lambda kind=kind, name=name: shop.find(kind, name), f"{kind} {name}")
        for kind, name in (
            ("deployments", "feeds-eventlet"),
            ("deployments", "feeds-prefork"),
            ("configmaps", "feeds-greenfleet"),
            ("poddisruptionbudgets", "feeds-eventlet"),
            ("poddisruptionbudgets", "feeds-prefork"),
        )
    ]
    for child in found:
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (
            "GreenWorkerPool",
            created["metadata"]["uid"],
            True,
        )
        assert child["metadata"]["labels"].keys() >= {"app.kubernetes.io/part-of", "app.kubernetes.io/version"}
        assert "finalizers" not in child["metadata"], "the garbage collector alone cleans up"
    [exporter] = eventually(lambda: exporters(world), "the exporter")
    assert [owner["name"] for owner in exporter["metadata"]["ownerReferences"]] == ["feeds"]
    eventually(
        lambda: shop.await_condition("feeds", "Ready", "True")["reason"] == "ScaledToZero", "its load is known", 40
    )
    assert shop.pool("feeds")["status"]["observedGeneration"] == 1
    assert "finalizers" not in shop.pool("feeds")["metadata"]


def test_a_pool_that_has_its_broker_not_checked_is_warned_once_and_its_neighbours_stay_checked(world: World) -> None:
    shop = world.namespace
    shop.secret("unchecked", url=world.redis.url)
    broker = {"urlFrom": {"secretKeyRef": {"name": "unchecked", "key": "url"}}}

    def skips() -> bool:
        return "INSECURE_SKIP_VERIFY" in str(shop.find("deployments", names.exporter_name("unchecked/url")))

    shop.apply_pool("trusting", broker={**broker, "insecureSkipVerify": True})
    note = eventually(lambda: shop.events("trusting", "TlsNotVerified"), "the Event", 30)[0]
    assert note["type"] == "Warning"
    assert "broker.caSecretRef" in note["note"]
    eventually(skips, "the exporter does not check either")
    shop.apply_pool("careful", queues=["careful"], broker=broker)
    eventually(lambda: not skips(), "the exporter that both share checks again", more=world.operators[0].tail)
    assert len(shop.events("trusting", "TlsNotVerified")) == 1


def test_a_pool_that_joins_a_broker_is_measured_without_a_restart_of_the_exporter_and_without_a_gap(
    world: World,
) -> None:
    shop = world.namespace
    world.redis.client().rpush("early", "x")
    world.redis.client().rpush("late.prefork", "x", "x")
    shop.secret("joined", url=world.redis.url)
    broker = {"urlFrom": {"secretKeyRef": {"name": "joined", "key": "url"}}}
    name = names.exporter_name("joined/url")
    shop.apply_pool("early", queues=["early"], broker=broker)
    shop.await_condition("early", "Ready", "True")

    def running() -> list[RunningPod]:
        return [pod for pod in world.kubelet.pods.values() if pod.name.startswith(name) and pod.process]

    [before] = eventually(running, "the exporter's pod")

    def depth(queue: str) -> float | None:
        url = f"http://127.0.0.1:{before.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = re.search(
                rf'^greenfleet_queue_messages_ready\{{.*queue="{queue}"\}} (\d+)', answer.read().decode(), re.MULTILINE
            )
        return float(found[1]) if found else None

    assert depth("early") == 1
    seen = set()

    def joined() -> bool:
        seen.add(depth("early"))
        return depth("late.prefork") == 2

    shop.apply_pool("late", queues=["late"], broker=broker, prefork={})
    eventually(joined, "the new pool's queue has a sample", 15)
    assert seen == {1}, "its neighbour had one all the time"
    assert [pod.name for pod in running()] == [before.name], "the same pod"
    config = shop.find("configmaps", name)
    assert config is not None
    assert sorted(owner["name"] for owner in config["metadata"]["ownerReferences"]) == ["early", "late"]


def test_drift_is_repaired(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("drift")
    path = shop.path("deployments", "drift-eventlet")
    eventually(lambda: shop.deployment("drift"), "the Deployment")
    container = {"name": "worker", "image": "registry.example/evil:1"}
    shop.api.ask(
        "PATCH",
        path,
        {"spec": {"template": {"spec": {"containers": [container]}}}},
        content_type="application/strategic-merge-patch+json",
    )

    def image() -> str:
        return str(shop.api.get(path)["spec"]["template"]["spec"]["containers"][0]["image"])

    eventually(lambda: image() == "registry.example/hub:1", "the image is back", 15)
    shop.api.delete(path)
    eventually(lambda: shop.deployment("drift"), "the Deployment is back", 15)


def test_a_change_of_the_image_reaches_the_workers_and_a_change_of_bounds_does_not_roll_them_out(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("change")
    eventually(lambda: shop.deployment("change"), "the Deployment")

    def template() -> Object:
        found: Object = (shop.deployment("change") or {})["spec"]["template"]
        return found

    before = template()
    shop.apply_pool("change", greenThreads={"max": 77}, scaling={"maxWait": "5s"})
    eventually(lambda: (shop.pool("change").get("status") or {}).get("observedGeneration") == 2, "generation 2 is seen")
    eventually(lambda: shop.condition("change", "Reconciling").get("status") == "False", "it is settled")
    assert template() == before
    shop.apply_pool("change", image="registry.example/hub:2")
    eventually(lambda: template()["spec"]["containers"][0]["image"] == "registry.example/hub:2", "the new image")


def test_a_companion_that_is_no_longer_wanted_is_removed(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("companion", prefork={})
    eventually(lambda: shop.deployment("companion", "prefork"), "the companion")
    eventually(lambda: shop.condition("companion", "Ready").get("status") == "True", "the operator has seen it")
    shop.apply_pool("companion")
    eventually(lambda: shop.deployment("companion", "prefork") is None, "the companion is gone", 20)
    eventually(lambda: shop.find("poddisruptionbudgets", "companion-prefork") is None, "its budget is gone")
    assert shop.deployment("companion") is not None


def test_an_exporter_that_no_pool_uses_any_more_goes_even_while_its_pool_stays(world: World) -> None:
    shop = world.namespace
    for secret in ("broker-1", "broker-2"):
        shop.secret(secret, url=world.redis.url)
    shop.apply_pool("moves", broker={"urlFrom": {"secretKeyRef": {"name": "broker-1", "key": "url"}}})
    eventually(lambda: "moves" in owners_of_exporter(world, "broker-1"), "the first exporter")
    shop.apply_pool("moves", broker={"urlFrom": {"secretKeyRef": {"name": "broker-2", "key": "url"}}})
    eventually(lambda: owners_of_exporter(world, "broker-2") == ["moves"], "the new exporter")
    old = names.exporter_name("broker-1/url")
    eventually(lambda: not shop.find("deployments", old), "the old exporter is gone")
    # The collector of a young cluster takes up to half a minute to learn of the resource.
    eventually(lambda: not shop.find("configmaps", old), "and its ConfigMap", 60)


def test_deleting_with_orphans_leaves_the_workers_running_and_a_new_pool_adopts_them(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("kept", replicas={"min": 1, "max": 2})
    eventually(lambda: shop.replicas("kept") == 1 and shop.pods("kept"), "one worker")
    [pod] = shop.pods("kept")
    shop.api.delete(shop.path("greenworkerpools", "kept"), propagationPolicy="Orphan")
    # The collector of a young cluster takes up to half a minute to learn of the resource.
    eventually(lambda: not shop.find("greenworkerpools", "kept"), "the pool is gone", 60)
    assert shop.deployment("kept") is not None
    again = shop.apply_pool("kept", replicas={"min": 1, "max": 2})

    def owner() -> str:
        found = shop.deployment("kept")
        assert found is not None, "the workers' Deployment went with the pool"
        references = found["metadata"].get("ownerReferences") or [{}]
        return str(references[0].get("uid", ""))

    eventually(lambda: owner() == again["metadata"]["uid"], "the new pool owns the Deployment")
    assert [one["metadata"]["uid"] for one in shop.pods("kept")] == [pod["metadata"]["uid"]]


def test_replicas_are_handed_over_without_a_reset_to_one(world: World) -> None:
    shop = world.namespace
    path = shop.path("deployments", "handed-eventlet")
    seen: list[int] = []
    shop.apply_pool("handed", replicas={"min": 3, "max": 5})

    def owners() -> set[str]:
        found = shop.api.find(path)
        if found is None:
            return set()
        seen.append(found["spec"]["replicas"])
        return {
            entry["manager"]
            for entry in found["metadata"]["managedFields"]
            if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        }

    eventually(lambda: "greenfleet-autoscaler" in owners(), "the autoscaler has taken replicas")
    # A change of the spec makes the reconciler apply again, now without replicas.
    for image in ("registry.example/hub:2", "registry.example/hub:3"):
        shop.apply_pool("handed", replicas={"min": 3, "max": 5}, image=image)

        def settled(image: str = image) -> bool:
            container = shop.api.get(path)["spec"]["template"]["spec"]["containers"][0]
            return owners() == {"greenfleet-autoscaler"} and container["image"] == image

        eventually(settled, f"the autoscaler alone owns replicas with {image}")
    assert set(seen) == {3}


def test_the_pods_are_admitted_under_pod_security_restricted(world: World) -> None:
    """The namespace enforces it, so that pods that break it do not exist; here that they would not."""
    shop = world.namespace
    privileged = {"name": "c", "image": "x", "securityContext": {"privileged": True}}
    with pytest.raises(Refused, match="restricted"):
        shop.api.create(shop.path("pods"), {"metadata": {"name": "bad"}, "spec": {"containers": [privileged]}})
    shop.apply_pool("admitted", replicas={"min": 1, "max": 1}, prefork={"replicas": {"min": 1}})
    eventually(lambda: len(shop.pods("admitted")) == 2, "a worker of each kind")


def test_fields_of_the_pods_reach_a_real_cluster_with_a_quota(make_world: WorldMaker) -> None:
    """OpenShift's null, a quota on requests, a patch: as the API server keeps and defaults them, not as we think it
    does.
    """
    world = make_world("fields", runs=only_exporters)
    shop = world.namespace
    quota = {"metadata": {"name": "team"}, "spec": {"hard": {"requests.cpu": "2", "requests.memory": "4Gi"}}}
    shop.api.create(f"/api/v1/namespaces/{shop.name}/resourcequotas", quota)
    world.operator(pods={"allowPodTemplatePatch": True}).start()
    nobody = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    patch = {"spec": {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["legacy"]}]}}
    tolerations = [{"key": "team", "operator": "Equal", "value": "shop", "effect": "NoSchedule"}]
    worker = {"securityContext": nobody, "podTemplatePatch": patch, "tolerations": tolerations}
    shop.apply_pool("fields", worker=worker, replicas={"min": 1, "max": 1})
    eventually(lambda: len(shop.pods("fields")) == 1, "the quota admits a worker that says nothing of resources")
    pod = shop.pods("fields")[0]["spec"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
    assert pod["hostAliases"] == patch["spec"]["hostAliases"]
    assert [container["name"] for container in pod["initContainers"]] == ["greenfleet-agent"]
    [exporter] = exporters(world)
    template = exporter["spec"]["template"]["spec"]
    assert [one["key"] for one in template["tolerations"]] == ["team"]
    assert "runAsUser" not in template["securityContext"]
    refused = {**worker, "podTemplatePatch": {"spec": {"containers": [{"name": "worker", "command": ["sh"]}]}}}
    shop.apply_pool("fields", worker=refused, replicas={"min": 1, "max": 1})
    eventually(lambda: shop.condition("fields", "Stalled")["reason"] == "InvalidPatch", "the patch is refused by name")
    shop.delete_pool("fields", wait=False)


def test_a_quota_on_limits_admits_a_pool_whose_workers_have_them_and_tells_one_without_what_to_set(
    make_world: WorldMaker,
) -> None:
    world = make_world("limits", runs=only_exporters)
    shop = world.namespace
    quota = {"metadata": {"name": "team"}, "spec": {"hard": {"limits.cpu": "4", "limits.memory": "4Gi"}}}
    shop.api.create(f"/api/v1/namespaces/{shop.name}/resourcequotas", quota)
    world.operator().start()
    resources = {"limits": {"cpu": "100m", "memory": "64Mi"}}
    always_one = {"replicas": {"min": 1, "max": 1}}
    shop.apply_pool("bare", queues=["bare"], **always_one)
    eventually(lambda: shop.condition("bare", "Stalled").get("reason") == "PodsRefused", "the quota refuses it", 30)
    said = shop.condition("bare", "Stalled")["message"]
    for part in ("must specify limits.cpu", "set them in worker.resources"):
        assert part in said
    shop.delete_pool("bare")
    no_boost = {"startupBoost": {"cpu": 0}}  # what is raised, the quota counts
    fleets = {
        "worker": {"resources": resources, **no_boost},
        "prefork": {"resources": resources, "replicas": {"min": 1}},
    }
    shop.apply_pool("limited", **always_one, **fleets)
    eventually(
        lambda: len(shop.pods("limited")) == 2,
        "a worker and a companion",
        more=lambda: str(shop.condition("limited", "Stalled")),
    )
    eventually(lambda: exporters(world)[0]["status"].get("replicas") == 1, "the exporter's pod")
    for pod in shop.pods("limited"):
        assert pod["status"]["qosClass"] == "Burstable", "limits of a Guaranteed pod cannot be raised while it starts"

    def used() -> str:
        return str(shop.api.get(f"/api/v1/namespaces/{shop.name}/resourcequotas/team")["status"]["used"]["limits.cpu"])

    eventually(lambda: used() == "300m", "the agents add nothing", more=used)
    shop.delete_pool("limited", wait=False)


def test_deleting_the_pool_lets_the_collector_remove_everything(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("a", queues=["a"])
    shop.apply_pool("b", queues=["b"])
    eventually(lambda: shop.deployment("a") and shop.deployment("b"), "both fleets")

    eventually(
        lambda: owners_of_exporter(world) == ["a", "b"],
        "one exporter for both",
        more=lambda: str(owners_of_exporter(world)),
    )
    shop.delete_pool("a")
    eventually(lambda: owners_of_exporter(world) == ["b"], "the exporter stays for the other pool")
    assert shop.deployment("b") is not None
    shop.delete_pool("b")
    for kind in ("deployments", "configmaps", "poddisruptionbudgets", "replicasets", "pods"):
        eventually(
            lambda kind=kind: (
                not shop.api.items(shop.path(kind), labelSelector="app.kubernetes.io/managed-by=greenfleet")
                if kind not in ("replicasets", "pods")
                else not shop.api.items(shop.path(kind), labelSelector="greenfleet.io/role")
            ),
            f"no {kind} is left",
            60,
        )
