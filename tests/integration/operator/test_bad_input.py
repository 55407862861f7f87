"""Bad input: refused at `kubectl apply` with field, value, reason and fix, or `Stalled` with the same; it harms no other pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Namespace, Refused, eventually, fresh_name, only_exporters

SECRET = {"name": "broker", "key": "url"}
CRON = {"cron": "0 8 * * *", "duration": "1h", "minReplicas": 1}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    # cross-field rules
    "threads min above max": (
        {"greenThreads": {"min": 50, "max": 20}},
        ["spec.greenThreads.min", "greenThreads.min is 50", "greenThreads.max (20)", "lower min or raise max"],
    ),
    "replicas min above max": (
        {"replicas": {"min": 5, "max": 2}},
        ["spec.replicas.min", "replicas.min is 5", "lower min or raise max"],
    ),
    "prefork min above max": (
        {"prefork": {"replicas": {"min": 5, "max": 2}}},
        ["spec.prefork.replicas.min", "prefork.replicas.min is 5"],
    ),
    "start outside the bounds": (
        {"greenThreads": {"min": 10, "max": 20, "start": 100}},
        ["spec.greenThreads.start", "greenThreads.start is 100", "choose a value between them"],
    ),
    "total below the least fleet": (
        {"greenThreads": {"min": 100, "total": 150}, "replicas": {"min": 2, "max": 4}},
        ["greenThreads.total is 150", "(200)", "raise total"],
    ),
    "total below one worker": (
        {"greenThreads": {"min": 100, "total": 50}},
        ["greenThreads.total is 50", "not one worker could run"],
    ),
    "floor without a number": (
        {"scaling": {"whenBlind": {"policy": "floor"}}},
        ["scaling.whenBlind.policy is floor", "say how many"],
    ),
    # unknown and missing fields
    "unknown field": ({"threads": 5}, ["threads", "unknown field"]),
    "unknown nested field": ({"scaling": {"maxwait": "5s"}}, ["maxwait", "unknown field"]),
    "a whole PodSpec": ({"worker": {"hostNetwork": True}}, ["hostNetwork", "unknown field"]),
    "a privileged worker": (
        {"worker": {"securityContext": {"privileged": True}}},
        ["privileged", "unknown field"],
    ),
    "a volume that reaches into the node": (
        {"worker": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}},
        ["hostPath", "unknown field"],
    ),
    "a projected token": (
        {"worker": {"volumes": [{"name": "t", "projected": {"sources": []}}]}},
        ["projected", "unknown field"],
    ),
    "a Secret of another namespace": (
        {"broker": {"secretRef": {**SECRET, "namespace": "kube-system"}}},
        ["namespace", "unknown field"],
    ),
    "no app": ({"app": None}, ["spec.app", "Required value"]),
    "no broker": ({"broker": None}, ["spec.broker", "Required value"]),
    "no queues": ({"queues": None}, ["spec.queues", "Required value"]),
    "no key of the Secret": ({"broker": {"secretRef": {"name": "broker"}}}, ["spec.broker.secretRef.key", "Required"]),
    # queue names
    "no queue at all": ({"queues": []}, ["spec.queues", "at least 1"]),
    "an empty queue": ({"queues": [""]}, ["spec.queues[0]"]),
    "a quote in a queue": ({"queues": ['fe"eds']}, ["spec.queues[0]", 'fe\\"eds']),
    "a single quote in a queue": ({"queues": ["fe'eds"]}, ["spec.queues[0]", "fe'eds"]),
    "a newline in a queue": ({"queues": ["feeds\nx"]}, ["spec.queues[0]"]),
    "a newline at the end of a queue": ({"queues": ["feeds\n"]}, ["spec.queues[0]"]),
    "unicode in a queue": ({"queues": ["fëeds"]}, ["spec.queues[0]", "fëeds"]),
    "an emoji in a queue": ({"queues": ["🐇"]}, ["spec.queues[0]"]),
    "a null byte in a queue": ({"queues": ["fe\u0000eds"]}, ["spec.queues[0]"]),
    "a comma in a queue": ({"queues": ["a,b"]}, ["spec.queues[0]", "a,b"]),
    "PromQL in a queue": ({"queues": ['x"} or up{a="']}, ["spec.queues[0]"]),
    "a shell in a queue": ({"queues": ["$(reboot)"]}, ["spec.queues[0]", "$(reboot)"]),
    "an option as a queue": ({"queues": ["--pidfile=/x"]}, ["spec.queues[0]"]),
    "an enormous queue name": ({"queues": ["q" * 181]}, ["spec.queues[0]", "180"]),
    "too many queues": ({"queues": [f"q{number}" for number in range(21)]}, ["spec.queues", "20"]),
    "the same queue twice": ({"queues": ["a", "a"]}, ["queues"]),
    # other names
    "a shell in the app": ({"app": "proj; reboot"}, ["spec.app", "proj; reboot"]),
    "an option as the app": ({"app": "--broker=redis://evil"}, ["spec.app"]),
    "a space in the image": ({"image": "proj:1 --privileged"}, ["spec.image"]),
    "an empty image": ({"image": ""}, ["spec.image"]),
    "an enormous image": ({"image": "a" * 513}, ["spec.image", "512"]),
    "a path as a Secret": ({"broker": {"secretRef": {"name": "../x", "key": "url"}}}, ["spec.broker.secretRef.name"]),
    "a path as a key": ({"broker": {"secretRef": {"name": "b", "key": "../url"}}}, ["spec.broker.secretRef.key"]),
    "a Lua injection in the key prefix": (
        {"broker": {"secretRef": SECRET, "keyPrefix": "a'b"}},
        ["spec.broker.keyPrefix"],
    ),
    "an address as a Prometheus server": (
        {"scaling": {"prometheus": {"server": "http://169.254.169.254"}}},
        ["spec.scaling.prometheus.server"],
    ),
    "an enormous query": ({"scaling": {"prometheus": {"query": "x" * 2001}}}, ["spec.scaling.prometheus.query", "2000"]),
    "a shell as the interpreter": ({"worker": {"python": "sh -c reboot"}}, ["spec.worker.python"]),
    "a task glob with a space": ({"prefork": {"tasks": ["a b"]}}, ["spec.prefork.tasks[0]"]),
    # wrong types
    "a string as a number": ({"replicas": {"max": "many"}}, ["spec.replicas.max", "must be of type integer"]),
    "a number as a string": ({"app": 5}, ["app"]),
    "a fraction of a worker": ({"replicas": {"max": 2.5}}, ["spec.replicas.max", "must be of type integer"]),
    "a map as a list": ({"queues": {"a": "b"}}, ["queues"]),
    "a string as a list": ({"queues": "feeds"}, ["queues"]),
    "a string as a boolean": ({"scaling": {"pause": {"in": "yes"}}}, ["in"]),
    "an unknown mode": ({"scaling": {"mode": "turbo"}}, ["spec.scaling.mode", "turbo", '"manual"']),
    "an unknown agent": ({"agent": "remote"}, ["spec.agent", "remote", '"installed"']),
    "an unknown policy": ({"scaling": {"whenBlind": {"policy": "panic"}}}, ["spec.scaling.whenBlind.policy", "panic"]),
    # durations and amounts
    "a number as a duration": ({"scaling": {"maxWait": 30}}, ["maxWait"]),
    "a duration without a unit": ({"scaling": {"maxWait": "30"}}, ["spec.scaling.maxWait", "30"]),
    "a negative duration": ({"drain": {"timeout": "-5s"}}, ["spec.drain.timeout", "-5s"]),
    "an enormous duration": ({"drain": {"timeout": "99999999999h"}}, ["spec.drain.timeout"]),
    "a wrong memory size": ({"recycle": {"maxMemory": "lots"}}, ["spec.recycle.maxMemory", "lots"]),
    "negative threads": ({"greenThreads": {"min": -1}}, ["spec.greenThreads.min", "-1"]),
    "no threads": ({"greenThreads": {"max": 0}}, ["spec.greenThreads.max"]),
    "enormous threads": ({"greenThreads": {"max": 1_000_000}}, ["spec.greenThreads.max", "10000"]),
    "threads beyond an integer": ({"greenThreads": {"max": 10**30}}, ["greenThreads"]),
    "negative replicas": ({"replicas": {"min": -1}}, ["spec.replicas.min", "-1"]),
    "enormous replicas": ({"replicas": {"max": 1_000_000}}, ["spec.replicas.max", "1000"]),
    "no worker ever": ({"replicas": {"max": 0}}, ["spec.replicas.max"]),
    "negative manual replicas": ({"manualReplicas": -1}, ["spec.manualReplicas"]),
    "a negative CPU limit": ({"worker": {"resources": {"limits": {"cpu": -1}}}}, ["spec.worker.resources.limits"]),
    "a wrong CPU limit": ({"worker": {"resources": {"limits": {"cpu": "fast"}}}}, ["spec.worker.resources.limits"]),
    "a priority step above 255": (
        {"broker": {"secretRef": SECRET, "prioritySteps": [256]}},
        ["spec.broker.prioritySteps[0]"],
    ),
    "a schedule without five fields": (
        {"scaling": {"schedules": [{**CRON, "cron": "every day at noon please"}, {**CRON, "cron": "@daily"}]}},
        ["spec.scaling.schedules[1].cron"],
    ),
    # the worker's overlay
    "root": ({"worker": {"securityContext": {"runAsUser": 0}}}, ["spec.worker.securityContext.runAsUser"]),
    "a reserved variable": (
        {"worker": {"env": [{"name": "GREENWORKER_POOL", "value": "other/pool"}]}},
        ["spec.worker.env[0].name", "worker.env sets GREENWORKER_POOL", "use broker"],
    ),
    "the broker as a variable": (
        {"worker": {"env": [{"name": "CELERY_BROKER_URL", "value": "redis://:hunter2@evil"}]}},
        ["spec.worker.env[0].name", "worker.env sets CELERY_BROKER_URL"],
    ),
    "a variable name with a newline": ({"worker": {"env": [{"name": "A\nB"}]}}, ["spec.worker.env[0].name"]),
    "a relative mount": (
        {"worker": {"volumeMounts": [{"name": "v", "mountPath": "etc"}]}},
        ["spec.worker.volumeMounts[0].mountPath"],
    ),
    "an annotation of the operator's": (
        {"worker": {"annotations": {"greenfleet.io/threads": "9999"}}},
        ["spec.worker.annotations", "operator's own", "remove it"],
    ),
    "a label of the operator's": (
        {"worker": {"labels": {"greenfleet.io/pool": "other"}}},
        ["spec.worker.labels", "Greenfleet sets itself", "use a name of your own"],
    ),
    "a label that is none": ({"worker": {"labels": {"team": "a b"}}}, ["spec.worker.labels", "a b"]),
    "a label of 64 characters": ({"worker": {"labels": {"team": "a" * 64}}}, ["spec.worker.labels", "63"]),
    "an affinity that is none": ({"worker": {"affinity": {"nonsense": True}}}, ["affinity.nonsense", "unknown field"]),
    "a toleration of the wrong type": (
        {"worker": {"tolerations": [{"key": 5}]}},
        ["spec.worker.tolerations[0].key", "must be of type string"],
    ),
    "a spread without its key": (
        {"worker": {"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]}},
        ["spec.worker.topologySpreadConstraints[0].topologyKey", "Required value"],
    ),
    # the network
    "a network without a way out": ({"network": {"egress": []}}, ["spec.network.egress", "at least 1"]),
    "a host as an address": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "redis.shop.svc"}}]}]}},
        ["spec.network.egress[0].to[0].ipBlock.cidr", "redis.shop.svc"],
    ),
    "an address and a selector": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}},
        ["network.egress.to", "one entry for the addresses"],
    ),
    "nobody at the other end": (
        {"network": {"egress": [{"to": [{}]}]}},
        ["network.egress.to", "neither"],
    ),
    "a port that is none": ({"network": {"egress": [{"ports": [{"port": 65536}]}]}}, ["ports[0].port", "65535"]),
    "a range of ports that ends before it begins": (
        {"network": {"egress": [{"ports": [{"port": 9000, "endPort": 8000}]}]}},
        ["network.egress.ports.endPort is 8000", "raise endPort"],
    ),
    "two hundred and one variables": (
        {"worker": {"env": [{"name": f"V{number}"} for number in range(201)]}},
        ["spec.worker.env", "200"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> World:
    made = make_world("bad", runs=only_exporters)
    made.operator().start()
    return made


@pytest.fixture(scope="module")
def quiet(make_world: WorldMaker) -> Namespace:
    """A namespace without an operator: only the API server speaks."""
    return make_world("refused", runs=lambda pod: False).namespace


def refusal(namespace: Namespace, name: str, spec: dict[str, Any]) -> str:
    minimal = {"app": "proj", "image": "proj:1", "broker": {"secretRef": SECRET}, "queues": ["feeds"]}
    body = {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {"name": name},
        "spec": {key: value for key, value in {**minimal, **spec}.items() if value is not None},
    }
    with pytest.raises(Refused) as refused:  # as `kubectl apply` sends it
        namespace.api.ask("POST", namespace.path("greenworkerpools"), body, fieldValidation="Strict")
    assert refused.value.status < 500, refused.value
    return refused.value.message


def test_the_table_of_bad_input_is_long() -> None:
    assert len(REFUSED) + len(STALLED) >= 100


@pytest.mark.parametrize("case", REFUSED)
def test_the_api_server_refuses_it_and_names_the_field(case: str, quiet: Namespace) -> None:
    spec, parts = REFUSED[case]
    message = refusal(quiet, "pool", spec)
    for part in parts:
        assert part in message
    assert quiet.find("greenworkerpools", "pool") is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a" * 51, "metadata.name has 51 characters"),
        ("a" * 63, "choose a shorter name"),
        ("a" * 253, "metadata.name has 253 characters"),
        ("a" * 254, "must be no more than 253"),
        ("with.dot", "use hyphens"),
        ("UPPER", "lowercase"),
        ("-dash", "must start"),
    ],
)
def test_a_name_that_its_pods_could_not_have_is_refused(name: str, part: str, quiet: Namespace) -> None:
    assert part in refusal(quiet, name, {})


def test_the_longest_name_that_is_allowed_works(world: World) -> None:
    name = "a" * 50
    world.namespace.apply_pool(name, queues=["longest"], replicas={"min": 1, "max": 1}, prefork={})
    eventually(lambda: world.namespace.pods(name), "a pod of it")
    world.namespace.await_condition(name, "Stalled", "False")
    world.namespace.delete_pool(name, wait=False)


STALLED: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown Prometheus server": (
        {"scaling": {"prometheus": {"server": "elsewhere"}}},
        "UnknownPrometheusServer",
        ["scaling.prometheus.server is 'elsewhere'", "ask the administrator"],
    ),
    "unknown source": (
        {"scaling": {"prometheus": {"source": "guesswork"}}},
        "UnknownSource",
        ["scaling.prometheus.source is 'guesswork'", "use one of"],
    ),
    "own query": (
        {"scaling": {"prometheus": {"query": 'sum(up) or vector(0) # "'}}},
        "QueryNotAllowed",
        ["scaling.prometheus.query is set", "did not allow", "remove it"],
    ),
    "a cron that is none": (
        {"scaling": {"schedules": [{**CRON, "cron": "61 * * * *"}]}},
        "InvalidSchedule",
        ["scaling.schedules[0].cron is '61 * * * *'", "outside 0-59"],
    ),
    "a time zone that is none": (
        {"scaling": {"schedules": [{**CRON, "timezone": "Mars/Olympus"}]}},
        "InvalidSchedule",
        ["timezone is 'Mars/Olympus'", "Europe/Berlin"],
    ),
    "requests above limits": (
        {"worker": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}},
        "Refused",
        ["must be less than or equal to cpu limit", "correct the spec"],
    ),
    "a resource that does not exist": (
        {"worker": {"resources": {"limits": {"gpu": 1}}}},
        "Refused",
        ["gpu", "correct the spec"],
    ),
    "a mount without its volume": (
        {"worker": {"volumeMounts": [{"name": "missing", "mountPath": "/x"}]}},
        "Refused",
        ["missing", "correct the spec"],
    ),
    "a volume with two sources": (
        {"worker": {"volumes": [{"name": "v", "emptyDir": {}, "configMap": {"name": "x"}}]}},
        "Refused",
        ["may not specify more than 1 volume type", "correct the spec"],
    ),
    "a value and a source of it": (
        {"worker": {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}},
        "Refused",
        ["valueFrom", "correct the spec"],
    ),
    "a field of the pod that does not exist": (
        {"worker": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.secrets"}}}]}},
        "Refused",
        ["spec.secrets", "correct the spec"],
    ),
    "an address with too many bits": (
        {"network": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}},
        "Refused",
        ["10.0.0.0/33", "correct the spec"],
    ),
    "a toleration with a value that Exists has no use for": (
        {"worker": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        "Refused",
        ["tolerations", "correct the spec"],
    ),
    "a service account that does not exist": (
        {"worker": {"serviceAccountName": "crawler"}, "replicas": {"min": 1}},
        "PodsRefused",
        ["worker.serviceAccountName is 'crawler'", "no such ServiceAccount", "create it"],
    ),
    "a priority class that does not exist": (
        {"worker": {"priorityClassName": "urgent"}, "replicas": {"min": 1}},
        "PodsRefused",
        ["worker.priorityClassName is 'urgent'", "no such PriorityClass", "correct the name"],
    ),
    "a broker URL in a refused value": (
        {
            "worker": {
                "volumes": [{"name": "v", "emptyDir": {}}],
                "volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "redis://:hunter2@redis:6379/.."}],
            }
        },
        "Refused",
        ["***@"],
    ),
}


@pytest.fixture
def pool(world: World) -> Iterator[str]:
    name = fresh_name("pool")
    yield name
    world.namespace.delete_pool(name, wait=False)


@pytest.mark.parametrize("case", STALLED)
def test_what_only_the_operator_sees_is_stalled_in_four_parts(case: str, world: World, pool: str) -> None:
    spec, reason, parts = STALLED[case]
    shop = world.namespace
    shop.apply_pool(pool, **spec)
    said = shop.await_condition(pool, "Stalled", "True", reason)
    for part in parts:
        assert part in said["message"]
    assert shop.condition(pool, "Ready")["status"] == "False"
    assert "hunter2" not in str(shop.pool(pool)["status"])
    eventually(lambda: shop.events(pool, reason), "an Event says so too")
    assert "hunter2" not in str(shop.events(pool))
    assert "hunter2" not in world.operators[0].text()


def test_a_pool_that_is_mended_recovers(world: World, pool: str) -> None:
    shop = world.namespace
    shop.apply_pool(pool, scaling={"prometheus": {"server": "elsewhere"}})
    shop.await_condition(pool, "Stalled", "True", "UnknownPrometheusServer")
    shop.apply_pool(pool)
    shop.await_condition(pool, "Stalled", "False")
    shop.await_condition(pool, "Ready", "True")


def test_two_pools_on_one_queue_are_both_stalled_and_a_third_is_unharmed(world: World) -> None:
    shop = world.namespace
    shop.apply_pool("third", queues=["unshared"])
    shop.await_condition("third", "Ready", "True")
    shop.apply_pool("first", queues=["shared", "own"])
    shop.await_condition("first", "Stalled", "False")
    shop.apply_pool("second", queues=["shared"])
    for one, other in (("first", "second"), ("second", "first")):
        said = shop.await_condition(one, "Stalled", "True", "QueueConflict")
        for part in ("spec.queues has 'shared'", f"the pool {other}", "give each queue to one pool"):
            assert part in said["message"]
    assert shop.deployment("first") is not None, "workers that run are not taken away"
    after = {one["type"]: one["status"] for one in shop.pool("third")["status"]["conditions"]}
    assert (after["Ready"], after["Stalled"]) == ("True", "False")
    shop.delete_pool("second", wait=False)
    shop.await_condition("first", "Stalled", "False")
    for name in ("first", "third"):
        shop.delete_pool(name, wait=False)


def test_one_queue_name_on_two_brokers_is_two_queues(world: World) -> None:
    """What the operator cannot see is whether two Secrets name the same broker: it reads neither."""
    shop = world.namespace
    shop.secret("broker-of-its-own", url=world.redis.url)
    shop.apply_pool("here", queues=["both"])
    shop.apply_pool("there", queues=["both"], broker={"secretRef": {"name": "broker-of-its-own", "key": "url"}})
    for name in ("here", "there"):
        shop.await_condition(name, "Ready", "True")
        assert shop.condition(name, "Stalled")["status"] == "False"
    for name in ("here", "there"):
        shop.delete_pool(name, wait=False)


def test_a_quota_that_leaves_no_room_is_stalled_and_more_room_heals_the_pool(make_world: WorldMaker) -> None:
    world = make_world("quota", runs=only_exporters)
    shop = world.namespace
    quota = f"/api/v1/namespaces/{shop.name}/resourcequotas"
    shop.api.create(quota, {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
    world.operator().start()
    shop.apply_pool("crowded", replicas={"min": 2, "max": 2})
    said = shop.await_condition("crowded", "Stalled", "True", "PodsRefused")
    for part in ("quota", "worker.resources", "replicas.max"):
        assert part in said["message"]
    shop.api.merge(f"{quota}/small", {"spec": {"hard": {"pods": "9"}}})
    shop.await_condition("crowded", "Stalled", "False", seconds=60)


def test_a_missing_secret_is_stalled_and_its_arrival_heals_the_pool(world: World, pool: str) -> None:
    shop = world.namespace
    shop.apply_pool(pool, broker={"secretRef": {"name": f"{pool}-late", "key": "url"}})
    said = shop.await_condition(pool, "Stalled", "True", "ReferenceMissing")
    assert f"'{pool}-late'" in said["message"]
    assert "create it" in said["message"]
    shop.secret(f"{pool}-late", url=world.redis.url)
    shop.await_condition(pool, "Stalled", "False")
    shop.await_condition(pool, "Ready", "True")


def test_a_broker_url_is_in_no_log_event_status_or_metric(world: World, pool: str) -> None:
    shop = world.namespace
    shop.secret(f"{pool}-url", url="redis://user:hunter2@127.0.0.1:1/0")
    shop.apply_pool(pool, broker={"secretRef": {"name": f"{pool}-url", "key": "url"}}, replicas={"min": 1, "max": 1})
    shop.await_condition(pool, "Ready", "False", "ExporterNotReady")
    operator = world.operators[0]
    seen = [operator.text(), operator.get("/metrics"), str(shop.events(pool)), str(shop.pool(pool).get("status"))]
    seen += [str(shop.deployment(pool)), str(shop.find("configmaps", f"{pool}-greenfleet"))]
    seen.append(operator.get(f"/api/v1/pools/{shop.name}/{pool}/why"))
    for text in seen:
        assert "hunter2" not in text
