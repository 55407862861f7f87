"""What people and tools do with a pool: wait, scale, get, explain, and an HPA's view."""

from __future__ import annotations

import json

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Object, eventually, kubectl, only_exporters
from tests.unit.operator.objects import body, crd_schema


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    made = make_world("kubectl", runs=only_exporters)
    made.operator().start()
    return made


def run(world: World, *arguments: str, stdin: str | None = None) -> str:
    done = kubectl(world.namespace.api, "-n", world.namespace.name, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kubectl_wait_waits_for_ready(world: World) -> None:
    world.namespace.apply_pool("waited", replicas={"min": 1, "max": 1})
    run(world, "wait", "--for=condition=Ready", "gwp/waited", "--timeout=60s")
    world.namespace.delete_pool("waited", wait=False)


def test_kubectl_scale_sets_the_workers_of_a_manual_pool_and_nothing_else_does(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("manual", scaling={"mode": "Manual"}, manualReplicas=2)
    eventually(lambda: shop.replicas("manual") == 2, "two workers by hand")
    run(world, "scale", "gwp/manual", "--replicas=4")
    assert shop.pool("manual")["spec"]["manualReplicas"] == 4
    eventually(lambda: shop.replicas("manual") == 4, "four workers by hand")
    run(world, "scale", "gwp/manual", "--replicas=0")
    eventually(lambda: shop.replicas("manual") == 0, "no workers by hand")
    shop.delete_pool("manual", wait=False)


@pytest.mark.parametrize("mode", ["Auto", "DryRun"])
def test_kubectl_scale_of_a_pool_that_is_not_manual_is_refused_and_says_what_to_do(world: World, mode: str) -> None:
    shop = world.namespace
    shop.apply_pool("refused", scaling={"mode": mode}, replicas={"min": 1, "max": 3})
    done = kubectl(shop.api, "-n", shop.name, "scale", "gwp/refused", "--replicas=3")
    assert done.returncode != 0
    assert "scaled" not in done.stdout
    for part in ("spec.manualReplicas", "becomes 3", f"scaling.mode {mode} does not read", "set replicas.min"):
        assert part in done.stderr
    assert shop.pool("refused")["spec"]["manualReplicas"] == 1
    shop.delete_pool("refused", wait=False)


def test_a_pool_goes_into_manual_mode_and_back_in_one_change(world: World) -> None:
    """Both at once, created with both, and the way back by a manifest that names neither: what GitOps does."""
    shop = world.namespace
    shop.apply_pool("turned", manualReplicas=2)  # made so: what counts for nothing is an Event, not a refusal
    shop.apply_pool("turned", scaling={"mode": "Manual"}, manualReplicas=3)
    run(world, "scale", "gwp/turned", "--replicas=4")
    shop.apply_pool("turned", scaling={"mode": "Manual"})
    assert shop.pool("turned")["spec"]["manualReplicas"] == 4, "kubectl's, and the manifest names none"
    shop.apply_pool("turned", replicas={"min": 1, "max": 3})
    assert shop.pool("turned")["spec"]["scaling"]["mode"] == "Auto"
    shop.apply_pool("turned", replicas={"min": 1, "max": 4})
    run(world, "patch", "gwp/turned", "--type=merge", "-p", '{"spec":{"scaling":{"mode":"Manual"},"manualReplicas":0}}')
    run(
        world, "patch", "gwp/turned", "--type=merge", "-p", '{"spec":{"scaling":{"mode":"Auto"},"manualReplicas":null}}'
    )
    shop.delete_pool("turned", wait=False)


def test_the_scale_subresource_shows_an_hpa_what_it_needs(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("scaled", scaling={"mode": "Manual"}, manualReplicas=2, prefork={"replicas": {"min": 1}})
    path = f"{shop.path('greenworkerpools', 'scaled')}/scale"
    eventually(lambda: shop.api.get(path)["status"].get("replicas") == 2, "the Eventlet workers only")
    scale = shop.api.get(path)
    assert scale["spec"]["replicas"] == 2
    selected = shop.api.items(shop.path("pods"), labelSelector=scale["status"]["selector"])
    assert len(selected) == 2
    assert {pod["metadata"]["labels"]["greenfleet.io/role"] for pod in selected} == {"eventlet"}
    shop.delete_pool("scaled", wait=False)


def test_the_columns_of_kubectl_get(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("listed", replicas={"min": 0, "max": 7})
    shop.await_condition("listed", "Ready", "True")
    eventually(lambda: shop.pool("listed")["status"].get("backlog") == 0, "its load is known", 40)
    header, line = run(world, "get", "gwp", "listed").splitlines()
    wanted = "NAME READY WORKERS DESIRED THREADS BACKLOG MIN MAX LIMITED REASON AGE METRICS"
    assert header.split() == wanted.split()
    assert line.split()[:10] == ["listed", "True", "0", "0", "100", "0", "0", "7", "False", "ScaledToZero"]
    wide = run(world, "get", "gwp", "listed", "-o", "wide")
    assert "QUEUES" in wide
    assert "OLDEST" in wide
    assert '["listed"]' in wide
    assert "listed" in run(world, "get", "all")
    shop.delete_pool("listed", wait=False)


@pytest.mark.parametrize(
    "group",
    [
        "",
        ".broker",
        ".greenThreads",
        ".replicas",
        ".scaling",
        ".scaling.schedules",
        ".prefork",
        ".taskTimeLimits",
        ".worker",
        ".worker.securityContext",
    ],
)
def test_explain_reads_like_documentation(group: str, world: World) -> None:
    """Every field of a group is there, with all of its description: what it is, in which unit, and its default."""
    text = " ".join(run(world, "explain", f"gwp.spec{group}").split())
    schema = crd_schema("spec")
    for name in filter(None, group.split(".")):
        schema = schema["properties"][name]
    fields = (schema.get("items") or schema)["properties"]
    assert len(fields) >= 2
    for name, field in fields.items():
        assert f"{name} <" in text
        assert " ".join(field["description"].split()) in text


def test_a_server_side_dry_run_shows_the_defaults(world: World) -> None:
    minimal = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": "dry"},
        "spec": {
            "app": "proj",
            "image": "proj:1",
            "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
            "queues": ["dry"],
        },
    }
    text = run(world, "apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(minimal))
    spec: Object = json.loads(text)["spec"]
    assert spec["greenThreads"]["max"] == 1000
    assert spec["scaling"]["cooldown"] == "5m"
    assert spec["worker"]["remoteControl"] == "ReadOnly"


IMAGES = {"runAsUser": "Image", "runAsGroup": "Image", "fsGroup": "None"}


@pytest.mark.parametrize("more", [[], ["--server-side", "--force-conflicts"]], ids=["client-side", "server-side"])
def test_the_images_own_user_arrives_by_every_apply_on_a_new_pool_and_on_an_old_one(
    world: World, more: list[str]
) -> None:
    """`null` does not: client-side apply leaves out what it says is null."""
    shop = world.namespace
    spec = {**body("users")["spec"], "queues": ["users"], "replicas": {"min": 1, "max": 1}}
    manifest: Object = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": "users"},
        "spec": spec,
    }

    def apply(security: Object) -> Object:
        one = {**manifest, "spec": {**spec, "worker": {"securityContext": security} if security else {}}}
        run(world, "apply", *more, "-f", "-", stdin=json.dumps(one))
        found: Object = shop.pool("users")["spec"]["worker"].get("securityContext", {})
        return {name: found[name] for name in IMAGES if name in found}

    assert apply(IMAGES) == IMAGES, "a new pool"
    eventually(lambda: len(shop.pods("users")) == 1, "its worker")
    [pod] = shop.pods("users")
    assert not IMAGES.keys() & pod["spec"]["securityContext"].keys()
    assert apply({}) == {}
    assert apply({"runAsUser": "Image"}) == {"runAsUser": "Image"}, "a pool that has said nothing of it"
    shop.delete_pool("users")


def test_a_status_is_written_once_and_then_left_alone_while_nothing_changes(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("quiet", scaling={"mode": "Manual"}, manualReplicas=0)
    shop.await_condition("quiet", "Ready", "True")
    operator = world.operators[0]
    series = "greenfleet_loop_duration_seconds_count"
    shop.await_condition("quiet", "MetricsAvailable", "True")
    before = shop.pool("quiet")["metadata"]["resourceVersion"]
    ticks = operator.metric(series) or 0
    eventually(lambda: (operator.metric(series) or 0) > ticks + 6, "the loop looked at it six more times")
    assert shop.pool("quiet")["metadata"]["resourceVersion"] == before
    shop.delete_pool("quiet", wait=False)


def test_a_change_of_the_status_by_hand_is_put_right(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("status", scaling={"mode": "Manual"}, manualReplicas=0)
    shop.await_condition("status", "Ready", "True")
    shop.api.merge(f"{shop.path('greenworkerpools', 'status')}/status", {"status": {"replicas": 99}})
    eventually(lambda: shop.pool("status")["status"]["replicas"] == 0, "the operator's word counts")
    shop.delete_pool("status", wait=False)
