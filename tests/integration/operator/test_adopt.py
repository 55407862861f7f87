"""A hand-written Deployment of real Celery workers is taken over while its tasks run; first as a dry run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from celery import Celery

from tests.integration.operator.conftest import World, WorldMaker
from tests.integration.operator.harness import RESTRICTED, Object, eventually

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    made = make_world("adopt")
    made.operator().start()
    return made


def by_hand(world: World, queue: str, journal: str) -> Object:
    """What somebody wrote before they knew of Greenfleet."""
    container = {
        "name": "celery",
        "image": "registry.example/hub:1",
        "command": ["python", "-m", "celery", "-A", "hub_app", "worker", "-P", "eventlet", "-c", "4"],
        "args": ["-Q", queue, "-n", "old@%h", "--without-gossip", "--without-mingle"],
        "env": [
            {"name": "CELERY_BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
            {"name": "JOURNAL", "value": journal},
        ],
        "securityContext": RESTRICTED,
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "feeds", "namespace": world.namespace.name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "feeds"}},
            "template": {
                "metadata": {"labels": {"app": "feeds"}},
                "spec": {"containers": [container], "securityContext": security},
            },
        },
    }


def environment(world: World) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(world.namespace.api.kubeconfig)}


def adopt(world: World, *arguments: str, deployment: str = "feeds") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "greenfleet", "adopt", deployment, "-n", world.namespace.name, *arguments],
        env=environment(world),
        text=True,
        capture_output=True,
        check=False,
        timeout=180,
    )


def test_a_hand_written_fleet_is_taken_over_and_every_task_is_done(world: World) -> None:
    shop = world.namespace
    queue, journal = f"{shop.name}-feeds", world.directory / "journal"
    journal.touch()
    producer = Celery("producer", broker=world.redis.url, set_as_current=False)

    def publish(numbers: range, seconds: float) -> None:
        for number in numbers:
            producer.send_task("hub_app.fetch", (number, seconds), queue=queue, ignore_result=True)

    def done() -> Counter[str]:
        return Counter(journal.read_text().split())

    shop.api.create(shop.path("deployments"), by_hand(world, queue, str(journal)))
    publish(range(4), 0.1)
    eventually(lambda: len(done()) == 4, "the old workers work", 40, world.kubelet.tail)

    shown = adopt(world)
    assert shown.returncode == 0, shown.stderr
    pool = yaml.safe_load(shown.stdout)
    assert (pool["kind"], pool["spec"]["app"], pool["spec"]["queues"]) == ("GreenWorkerPool", "hub_app", [queue])
    assert "Nothing was changed" in shown.stderr
    assert "+++ Deployment/feeds-eventlet" in shown.stderr
    assert shop.find("greenworkerpools", "feeds") is None
    assert shop.api.get(shop.path("deployments", "feeds"))["spec"]["replicas"] == 2

    other = adopt(world, "--name", "with.dot")
    assert other.returncode == 1
    assert "use hyphens" in other.stderr

    publish(range(100, 148), 1.0)  # twelve seconds of work for eight green threads
    carried_out = adopt(world, "--yes", "--timeout", "90")
    assert carried_out.returncode == 0, carried_out.stderr + world.kubelet.tail()
    old = shop.api.get(shop.path("deployments", "feeds"))
    assert old["spec"]["replicas"] == 0
    assert not shop.api.items(shop.path("pods"), labelSelector="app=feeds")
    assert shop.condition("feeds", "Ready")["status"] == "True"
    publish(range(200, 205), 0.1)
    expected = {str(number) for numbers in (range(4), range(100, 148), range(200, 205)) for number in numbers}
    eventually(lambda: set(done()) == expected, "every task is done", 60, lambda: str(expected - set(done())))

    before = shop.pool("feeds")["spec"]
    again = adopt(world, "--yes", "--timeout", "90")
    assert again.returncode == 0, again.stderr  # what is done already is no error
    assert shop.pool("feeds")["spec"] == before, "a Deployment at 0 says nothing of the pool's size"
    assert again.stdout == ""
    assert "nothing is changed" in again.stderr
    assert "--replicas=0" not in again.stderr
    for wishes in ((), ("--name", "news")):
        shown = adopt(world, *wishes)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert "the pool feeds has taken its place" in shown.stderr
    shop.api.merge(shop.path("deployments", "feeds"), {"spec": {"replicas": 1}})
    assert "say --name feeds" in adopt(world, "--yes", "--name", "news").stderr
    assert shop.find("greenworkerpools", "news") is None


def test_a_beat_stays_beside_the_pool_and_the_commands_that_are_said_make_it_a_single_one(world: World) -> None:
    """The commands are run as they are said."""
    shop = world.namespace
    beat = yaml.safe_load((REPOSITORY / "examples" / "beat.yaml").read_text())
    beat["metadata"]["namespace"] = shop.name
    beat["spec"].update(replicas=2, strategy={"type": "RollingUpdate"})
    shop.api.create(shop.path("deployments"), beat)
    said = adopt(world, "--yes", deployment="feeds-beat")
    assert (said.returncode, said.stdout) == (1, "")
    assert "stays beside the pool" in said.stderr
    commands = re.findall(r"kubectl -n \S+ (?:scale \S+ --replicas=1|patch \S+ -p '[^']*')", said.stderr)
    assert len(commands) == 2, said.stderr
    for command in commands:
        subprocess.run(shlex.split(command), env=environment(world), check=True, capture_output=True)
    spec = shop.api.get(shop.path("deployments", "feeds-beat"))["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert "which it is." in adopt(world, deployment="feeds-beat").stderr


@pytest.mark.slow
def test_an_autoscaler_of_the_old_fleet_is_in_the_way(world: World) -> None:
    shop = world.namespace
    shop.api.create(shop.path("deployments"), by_hand(world, f"{shop.name}-q", "/dev/null"))
    shop.api.create(
        f"/apis/autoscaling/v2/namespaces/{shop.name}/horizontalpodautoscalers",
        {
            "metadata": {"name": "keda-hpa-feeds"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "feeds"},
                "maxReplicas": 3,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                    }
                ],
            },
        },
    )
    refused = adopt(world, "--yes")
    assert refused.returncode == 1
    assert "keda-hpa-feeds scales the Deployment" in refused.stderr
    assert not refused.stdout, "an incomplete manifest must not end up in a pipe"
    assert shop.find("greenworkerpools", "feeds") is None
