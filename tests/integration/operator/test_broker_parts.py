"""A broker whose URL comes in parts, against a real API server, Redis, exporters and workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from greenfleet.manifests import names
from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import Namespace, Object, RunningPod, eventually

ODD = "p@ss:w/o%41r?d#[;]&=+$(HOME)é"
NEW = "n/e@w" + ODD
USER = "team/feeds@shop"


@pytest.fixture(scope="module")
def world(make_world: WorldMaker) -> Iterator[World]:
    made = make_world("parts")
    made.operator().start()
    yield made
    made.redis.client().execute_command("ACL", "DELUSER", USER)


def hand_over(world: World, password: str) -> None:
    """One user with one password; whoever is logged in has to do it again."""
    rules = ("reset", "on", f">{password}", "~*", "&*", "+@all")
    world.redis.client().execute_command("ACL", "SETUSER", USER, *rules)
    world.redis.client().execute_command("CLIENT", "KILL", "USER", USER)


def parts(world: World, secret: str) -> Object:
    return {
        "transport": "redis",
        "host": {"secretKeyRef": {"name": secret, "key": "host"}},
        "port": {"value": world.redis.port},
        "username": {"value": USER},
        "password": {"secretKeyRef": {"name": secret, "key": "password"}},
    }


def exporters(world: World) -> list[Object]:
    return world.namespace.api.items(world.namespace.path("deployments"), labelSelector="greenfleet.io/role=exporter")


def running(world: World, name: str) -> list[RunningPod]:
    return [pod for pod in world.kubelet.pods.values() if pod.name.startswith(name) and pod.process]


class Shop:
    """A pool with its producer and the journal of its tasks."""

    def __init__(self, world: World, name: str, broker: Object) -> None:
        self.world = world
        self.name = name
        self.journal = world.directory / f"{name}-journal"
        self.journal.touch()
        self.sent = 0
        self.producer = Celery("producer", broker=world.redis.url, set_as_current=False)
        self.apply(broker)

    @property
    def namespace(self) -> Namespace:
        return self.world.namespace

    def apply(self, broker: Object) -> None:
        self.namespace.apply_pool(
            self.name,
            broker=broker,
            queues=[f"{self.namespace.name}-{self.name}"],
            replicas={"min": 1, "max": 1},
            agent="Installed",
            worker={"env": [{"name": "JOURNAL", "value": str(self.journal)}]},
        )

    def publish(self, count: int, seconds: float) -> None:
        queue = f"{self.namespace.name}-{self.name}"
        for number in range(self.sent, self.sent + count):
            self.producer.send_task("hub_app.fetch", (number, seconds), queue=queue, ignore_result=True)
        self.sent += count

    def all_done(self) -> bool:
        return {*map(int, self.journal.read_text().split())} == {*range(self.sent)}

    def exporter(self) -> str:
        """The Deployment of the exporter that this pool owns."""
        owned = [
            one["metadata"]["name"]
            for one in exporters(self.world)
            if self.name in [owner["name"] for owner in one["metadata"]["ownerReferences"]]
        ]
        return owned[0] if len(owned) == 1 else ""

    def close(self) -> None:
        self.producer.close()
        self.namespace.delete_pool(self.name, wait=False)


def test_worker_and_exporter_log_in_with_parts_and_the_exporter_follows_a_rotation(world: World) -> None:
    shop = world.namespace
    hand_over(world, ODD)
    shop.secret("rabbit-default-user", host="127.0.0.1\n", password=ODD)
    fleet = Shop(world, "feeds", parts(world, "rabbit-default-user"))
    fleet.publish(20, 0.01)
    shop.await_condition("feeds", "Ready", "True", "Running", seconds=120)
    eventually(fleet.all_done, "the tasks ran", 60, world.kubelet.tail)
    shop.await_condition("feeds", "MetricsAvailable", "True", seconds=60)
    [exporter] = running(world, fleet.exporter())

    hand_over(world, NEW)
    said = shop.await_condition("feeds", "Stalled", "True", "BrokerAuthenticationRefused", seconds=90)
    assert said["message"].startswith("broker.password is the key 'password' of the Secret 'rabbit-default-user'")
    assert "refuses" in shop.condition("feeds", "MetricsAvailable")["message"]
    shop.secret("rabbit-default-user", host="127.0.0.1", password=NEW)
    shop.api.merge(
        shop.path("deployments", "feeds-eventlet"),
        {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}},
    )
    fleet.publish(5, 0.01)
    eventually(fleet.all_done, "the new workers log in with the new password", 120, world.kubelet.tail)
    shop.await_condition("feeds", "MetricsAvailable", "True", seconds=60)
    assert running(world, fleet.exporter()) == [exporter], "the same process"
    assert exporter.process is not None
    assert exporter.process.poll() is None

    operator = world.operators[0]
    seen = [operator.text(), operator.get("/metrics"), world.kubelet.tail(), str(shop.pool("feeds").get("status"))]
    seen += [str(shop.events("feeds")), str(shop.deployment("feeds")), str(shop.find("deployments", fleet.exporter()))]
    seen += [(pod.directory / "log").read_text() for pod in world.kubelet.pods.values()]
    seen.append(operator.get(f"/api/v1/pools/{shop.name}/feeds/why"))
    for secret in ("p@ss", "n/e@w", "n%2Fe", "p%40ss", "w/o%41r"):
        assert not any(secret in text for text in seen)
    fleet.close()


def test_a_pool_that_changes_from_a_url_to_parts_loses_nothing_and_keeps_one_exporter(world: World) -> None:
    shop = world.namespace
    hand_over(world, ODD)
    shop.secret("login", host="127.0.0.1", password=ODD)
    shop.secret("whole", url=world.redis.url)
    fleet = Shop(world, "moves", {"urlFrom": {"secretKeyRef": {"name": "whole", "key": "url"}}})
    shop.await_condition("moves", "Ready", "True", "Running", seconds=120)
    old = names.exporter_name("whole/url")
    assert fleet.exporter() == old
    before = {pod["metadata"]["uid"] for pod in shop.pods("moves")}
    fleet.publish(200, 0.2)
    fleet.apply(parts(world, "login"))
    fleet.publish(100, 0.2)
    eventually(lambda: not shop.find("deployments", old), "the old exporter is gone", 60)
    eventually(fleet.all_done, "all tasks ran", 120, world.kubelet.tail)
    eventually(lambda: not before & {pod["metadata"]["uid"] for pod in shop.pods("moves")}, "the workers rolled", 120)
    shop.await_condition("moves", "Ready", "True", "Running", seconds=120)
    shop.await_condition("moves", "MetricsAvailable", "True", seconds=60)
    assert fleet.exporter() not in ("", old)
    fleet.close()


def test_pools_share_an_exporter_if_their_parts_are_the_same_to_the_letter(world: World) -> None:
    shop = world.namespace
    shop.secret("shared", host="127.0.0.1", password=ODD)
    broker = parts(world, "shared")
    shop.apply_pool("one", broker=broker)
    shop.apply_pool("two", broker={**broker, "keyPrefix": "two:"})
    shop.apply_pool("three", broker={**broker, "path": {"value": "0"}})

    def owners() -> list[list[str]]:
        found = [sorted(owner["name"] for owner in one["metadata"]["ownerReferences"]) for one in exporters(world)]
        return sorted(owned for owned in found if {"one", "two", "three"} & {*owned})

    eventually(lambda: owners() == [["one", "two"], ["three"]], "two exporters", 30, lambda: str(owners()))
    shop.apply_pool("four", broker=broker, queues=["one"])
    said = shop.await_condition("four", "Stalled", "True", "QueueConflict")
    assert "one" in said["message"]
    for pool in ("one", "two", "three", "four"):
        shop.delete_pool(pool, wait=False)


def test_a_key_that_is_missing_is_stalled_and_its_arrival_heals_the_pool(world: World) -> None:
    shop = world.namespace
    shop.secret("half", host="127.0.0.1")
    shop.apply_pool("half", broker=parts(world, "half"), agent="Installed")
    said = shop.await_condition("half", "Stalled", "True", "ReferenceMissing", seconds=60)
    for part in ("broker", "'half'", "'password'", "no such key"):
        assert part in said["message"]
    hand_over(world, ODD)
    shop.secret("half", host="127.0.0.1", password=ODD)
    shop.await_condition("half", "Stalled", "False", seconds=60)
    shop.await_condition("half", "Ready", "True", seconds=60)
    shop.delete_pool("half", wait=False)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"host": "evil/x:hunter2@127.0.0.1", "password": "p"}, "broker.host"),
        ({"host": "redis://:hunter2@127.0.0.1", "password": "p"}, "broker.host"),
        ({"host": "127.0.0.1", "password": "\n"}, "broker.password"),
    ],
)
def test_what_a_secret_holds_that_is_no_part_is_said_in_the_pool_without_its_text(
    world: World, values: dict[str, str], field: str
) -> None:
    shop = world.namespace
    shop.secret("odd", **values)
    shop.apply_pool("odd", broker=parts(world, "odd"), agent="Installed", replicas={"min": 1, "max": 1})
    said = shop.await_condition("odd", "Stalled", "True", "WorkerMisconfigured", seconds=120)
    assert said["message"].startswith(field)
    operator = world.operators[0]
    seen: list[Any] = [operator.text(), operator.get("/metrics"), shop.events("odd"), shop.pool("odd")["status"]]
    seen += [(pod.directory / "log").read_text() for pod in world.kubelet.pods.values()]
    assert "hunter2" not in json.dumps(seen)
    shop.delete_pool("odd")
