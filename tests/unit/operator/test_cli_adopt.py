"""`kubectl greenfleet adopt`: what becomes of a hand-written Deployment, and what is in the way. Nothing is dropped in
silence.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from greenfleet.api import parse_pool
from greenfleet.cli.adoption import Adoption, Wishes, difference, plan
from greenfleet.cli.celery_command import UnreadableCommandError, parse
from tests.unit.operator.objects import Object

REPOSITORY = Path(__file__).resolve().parents[3]
BROKER = {"name": "CELERY_BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}}
COMMAND = ["celery", "-A", "proj", "worker", "-P", "eventlet", "-c", "200", "-Q", "feeds,slow"]


def deployment(pod: Object | None = None, template: Object | None = None, **container: Any) -> Object:
    """A Deployment as somebody wrote it by hand."""
    worker = {"name": "worker", "image": "registry.example/proj:1.4", "command": COMMAND, "env": [BROKER], **container}
    labels = {"app": "feeds-worker", "team": "news"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "feeds", "namespace": "shop"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "feeds-worker"}},
            "template": {
                "metadata": {"labels": labels, **(template or {})},
                "spec": {"containers": [worker], **(pod or {})},
            },
        },
    }


def adopted(source: Object, **wishes: Any) -> Object:
    """The spec of the pool, which has to be valid."""
    found = plan(source, Wishes(**wishes))
    assert not found.obstacles
    parse_pool({**found.pool, "metadata": {**found.pool["metadata"], "uid": "u"}})
    spec: Object = found.pool["spec"]
    return spec


def test_a_plain_deployment_becomes_a_pool_that_says_the_same() -> None:
    found = plan(deployment(), Wishes())
    assert found.obstacles == []
    assert found.pool == {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {
            "name": "feeds",
            "namespace": "shop",
            "annotations": {"greenfleet.io/adopted-from": "feeds"},
        },
        "spec": {
            "app": "proj",
            "image": "registry.example/proj:1.4",
            "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
            "queues": ["feeds", "slow"],
            "replicas": {"min": 1, "max": 10},
            "greenThreads": {"start": 200, "max": 1000},
            "drain": {"timeout": "60s"},
            "worker": {"labels": {"team": "news"}},
        },
    }


def test_everything_that_has_a_counterpart_is_carried_over() -> None:
    pod = {
        "terminationGracePeriodSeconds": 300,
        "serviceAccountName": "crawler",
        "priorityClassName": "batch",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "crawlers", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
        "volumes": [{"name": "cache", "emptyDir": {}}],
    }
    container = {
        "command": [
            *COMMAND,
            "--prefetch-multiplier=4",
            "--soft-time-limit=30",
            "--time-limit=45",
            "--max-tasks-per-child=1000",
            "--max-memory-per-child=524288",
            "-l",
            "INFO",
            "-E",
        ],
        "env": [BROKER, {"name": "FEED_TIMEOUT", "value": "5"}],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "resources": {"limits": {"memory": "1Gi"}},
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "imagePullPolicy": "Always",
    }
    spec = adopted(deployment(pod, {"annotations": {"team": "news"}}, **container))
    assert spec["drain"] == {"timeout": "300s"}
    assert spec["taskTimeLimits"] == {"soft": "30s", "hard": "45s"}
    assert spec["recycle"] == {"maxTasks": 1000, "maxMemory": "524288Ki"}
    assert spec["imagePullPolicy"] == "Always"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    worker = spec["worker"]
    for name in ("serviceAccountName", "priorityClassName", "nodeSelector", "tolerations", "topologySpreadConstraints"):
        assert worker[name] == pod[name]
    assert worker["volumes"] == pod["volumes"]
    for name in ("envFrom", "resources", "volumeMounts"):
        assert worker[name] == container[name]
    assert worker["env"] == [{"name": "FEED_TIMEOUT", "value": "5"}]
    assert worker["securityContext"] == {"runAsUser": 1000, "fsGroup": 2000}
    assert worker["annotations"] == {"team": "news"}
    assert worker["extraArgs"] == ["-l", "INFO", "-E"]
    assert worker["prefetchMultiplier"] == 4


def test_few_green_threads_by_hand_lower_the_least_of_the_pool() -> None:
    few = [*COMMAND[:-4], "-c", "4", "-Q", "feeds"]
    assert adopted(deployment(command=few))["greenThreads"] == {"start": 4, "max": 1000, "min": 4}


@pytest.mark.parametrize(
    ("argv", "app", "queues", "python"),
    [
        (["celery", "--app=proj.celery", "worker", "--queues", "a,b"], "proj.celery", ["a", "b"], "python3"),
        (["python", "-m", "celery", "-A", "proj", "worker", "-Qa"], "proj", ["a"], "python"),
        (["/opt/venv/bin/celery", "-A", "proj", "worker"], "proj", ["celery"], "/opt/venv/bin/python"),
        (["sh", "-c", "exec celery -A proj worker -Q 'a'"], "proj", ["a"], "python3"),
        (["tini", "--", "celery", "-A", "proj", "worker"], "proj", ["celery"], "python3"),
        (["celery", "worker", "-A", "proj", "-l", "worker"], "proj", ["celery"], "python3"),
    ],
)
def test_a_command_is_read_however_it_is_written(argv: list[str], app: str, queues: list[str], python: str) -> None:
    found = parse(argv)
    assert (found.options["app"], found.queues, found.python) == (app, queues, python)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["gunicorn", "proj"],
        ["celery", "-A", "proj", "beat"],
        ["celery", "-A", "proj"],
        ["sh", "-c", "migrate && celery -A proj worker"],
        ["sh", "-c", "celery -A $APP worker"],
    ],
)
def test_a_command_that_is_no_plain_worker_is_not_guessed_at(argv: list[str]) -> None:
    with pytest.raises(UnreadableCommandError):
        parse(argv)


PASSWORD = {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "redis-password"}}}
FROM_SECRET = {"secretKeyRef": {"name": "redis", "key": "redis-password"}}
WRITTEN: dict[str, Object] = {
    "redis://:$(REDIS_PASSWORD)@redis-master:6379/0": {
        "transport": "redis",
        "host": {"value": "redis-master"},
        "port": {"value": 6379},
        "path": {"value": "0"},
        "password": FROM_SECRET,
    },
    "amqps://shop%40x:$(REDIS_PASSWORD)@$(HOST)/team%2Ffeeds": {
        "transport": "amqps",
        "host": {"value": "rabbit.shop.svc"},
        "path": {"value": "team/feeds"},
        "username": {"value": "shop@x"},
        "password": FROM_SECRET,
    },
    "amqp://$(REDIS_PASSWORD):$(REDIS_PASSWORD)@rabbit//": {
        "transport": "amqp",
        "host": {"value": "rabbit"},
        "username": FROM_SECRET,
        "password": FROM_SECRET,
    },
    "redis://redis": {"transport": "redis", "host": {"value": "redis"}},
}


@pytest.mark.parametrize("url", WRITTEN)
def test_a_url_with_a_password_of_a_secret_or_without_one_becomes_parts(url: str) -> None:
    host = {"name": "HOST", "value": "rabbit.shop.svc"}
    urls = [{"name": name, "value": url} for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")]
    source = deployment(env=[PASSWORD, host, *urls])
    spec = adopted(source)
    assert spec["broker"] == spec["resultBackend"] == WRITTEN[url]
    assert spec["worker"]["env"] == [PASSWORD, host], "the app may read them"
    assert ("percent-encoded" in "\n".join(plan(source, Wishes()).notes)) == ("PASSWORD" in url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@redis/0",
        "redis://:$(WRITTEN)@redis/0",
        "redis://:$(UNKNOWN)@redis/0",
        "redis://:a$(REDIS_PASSWORD)@redis/0",
        "redis://one:6379/0;redis://two:6379/0",
        "sentinel://:$(REDIS_PASSWORD)@one:26379/0?master_name=feeds",
    ],
)
def test_a_url_that_is_not_so_simple_is_not_taken_apart(url: str) -> None:
    written = {"name": "WRITTEN", "value": "hunter2"}
    source = deployment(env=[PASSWORD, written, {"name": "CELERY_BROKER_URL", "value": url}])
    [said] = plan(source, Wishes()).obstacles
    assert "from a Secret only" in said
    assert "hunter2" not in said


SIDECAR = {"name": "proxy", "image": "proxy:1"}
OBSTACLES: dict[str, tuple[Object, str, Object]] = {
    # what is in the way: the Deployment, a part of the sentence, and the wish that lifts it
    "prefork": (deployment(command=["celery", "-A", "proj", "worker"]), "the prefork pool", {"to_eventlet": True}),
    "gevent": (deployment(command=[*COMMAND, "-P", "gevent"]), "the gevent pool", {"to_eventlet": True}),
    "beat": (deployment(command=[*COMMAND, "-B"]), "the strategy Recreate", {"drop": frozenset({"beat"})}),
    "beat with a schedule": (
        deployment(command=[*COMMAND, "--beat", "-s", "/tmp/schedule"]),
        "embedded beat",
        {"drop": frozenset({"beat"})},
    ),
    "no secret": (deployment(env=[]), "from a Secret only", {"broker_secret": "broker/url"}),
    "literal broker": (
        deployment(env=[{"name": "CELERY_BROKER_URL", "value": "redis://:hunter2@redis/0"}]),
        "CELERY_BROKER_URL is 'redis://***@redis/0'",
        {"broker_secret": "broker/url"},
    ),
    "broker option": (
        deployment(command=[*COMMAND, "-b", "redis://:hunter2@redis/0"], env=[]),
        "-b redis://***@redis/0",
        {"broker_secret": "broker/url"},
    ),
    "literal results": (
        deployment(env=[BROKER, {"name": "CELERY_RESULT_BACKEND", "value": "redis://:hunter2@redis/1"}]),
        "--result-secret",
        {"result_secret": "results/url"},
    ),
    "an option as a variable": (
        deployment(
            env=[
                {"name": "CELERY_BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "b", "key": "url"}}},
                {"name": "CELERY_WORKER_EXCLUDE_QUEUES", "value": "slow"},
            ]
        ),
        "env CELERY_WORKER_EXCLUDE_QUEUES is read by Celery",
        {"drop": frozenset({"CELERY_WORKER_EXCLUDE_QUEUES"})},
    ),
    "all queues but": (deployment(command=[*COMMAND, "-X", "slow"]), "--queue", {"queues": ("feeds",)}),
    "host path": (
        deployment({"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}),
        "the volume root is a hostPath",
        {"drop": frozenset({"root"})},
    ),
    "init container": (
        deployment({"initContainers": [SIDECAR]}),
        "initContainers has proxy",
        {"drop": frozenset({"proxy"})},
    ),
    "host network": (deployment({"hostNetwork": True}), "hostNetwork", {"drop": frozenset({"hostNetwork"})}),
    "resource field": (
        deployment(env=[BROKER, {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]),
        "resourceFieldRef",
        {"drop": frozenset({"CPUS"})},
    ),
    "an entrypoint of the image's": (
        deployment(command=[]),
        "the image's own",
        {"container": "worker", "app": "proj", "queues": ("feeds",)},
    ),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_is_in_the_way_is_said_with_its_way_out(case: str) -> None:
    source, sentence, wish = OBSTACLES[case]
    found = plan(source, Wishes())
    [said] = found.obstacles
    assert sentence in said
    assert "hunter2" not in said
    assert adopted(source, **wish)


def test_a_url_that_the_app_reads_itself_comes_from_the_secret_too() -> None:
    """Else the password would stand in the manifest of the pool."""
    written = "redis://:hunter2@redis/0"
    variables = [{"name": name, "value": written} for name in ("BROKER_URL", "MY_OWN")]
    found = plan(deployment(env=variables), Wishes(broker_secret="broker/url"))
    reference = {"secretKeyRef": {"name": "broker", "key": "url"}}
    assert found.pool["spec"]["worker"]["env"] == [
        {"name": name, "valueFrom": reference} for name in ("BROKER_URL", "MY_OWN")
    ]
    assert "env MY_OWN takes its URL from the Secret of --broker-secret, too" in found.notes
    text = yaml.safe_dump(found.pool)
    assert "hunter2" not in text
    assert "&id" not in text, "who edits one of the two edits one"


@pytest.mark.parametrize("broker", [BROKER, {"name": "CELERY_BROKER_URL", "value": "amqp://u:p@rabbit//"}])
def test_a_url_of_something_else_stays(broker: Object) -> None:
    """A cache on Redis is not the broker."""
    cache = {"name": "REDIS_URL", "value": "redis://cache:6379/1"}
    found = plan(deployment(env=[broker, cache]), Wishes(broker_secret="broker/url"))
    assert found.pool["spec"]["worker"]["env"] == [cache]


def test_a_sidecar_is_in_the_way_until_it_is_left_out() -> None:
    source = deployment()
    source["spec"]["template"]["spec"]["containers"].append(SIDECAR)
    assert "containers has proxy" in plan(source, Wishes()).obstacles[0]
    assert adopted(source, drop=frozenset({"proxy"}))


BEAT = ["celery", "-A", "proj", "beat", "-s", "/tmp/schedule"]


def test_a_beat_beside_the_worker_goes_into_a_deployment_of_its_own() -> None:
    source = deployment()
    source["spec"]["template"]["spec"]["containers"].append({"name": "clock", "image": "proj:1", "command": BEAT})
    [said] = plan(source, Wishes()).obstacles
    assert "clock, and it runs celery beat" in said
    assert "one replica and the strategy Recreate (examples/beat.yaml), then say --drop clock" in said
    assert adopted(source, drop=frozenset({"clock"}))


@pytest.mark.parametrize(
    ("replicas", "strategy", "wanted"),
    [
        (1, {"type": "Recreate"}, {", which it is."}),
        (3, {"type": "Recreate"}, {"replicas is 3", "kubectl -n shop scale deployment/feeds --replicas=1"}),
        (1, None, {"strategy is RollingUpdate", "kubectl -n shop patch deployment/feeds -p"}),
        (2, {"type": "RollingUpdate"}, {"replicas is 2", "strategy is RollingUpdate"}),
    ],
)
def test_a_deployment_of_beat_stays_as_a_single_one_and_no_option_makes_a_pool_of_it(
    replicas: int, strategy: Object | None, wanted: set[str]
) -> None:
    source = deployment(command=BEAT)
    source["spec"].update(replicas=replicas, **({"strategy": strategy} if strategy else {}))
    for wishes in (Wishes(), Wishes(container="worker", app="proj", queues=("feeds",))):
        [said] = plan(source, wishes).obstacles
        assert "runs celery beat, which is not a worker and stays beside the pool" in said
        assert "Adopt the Deployment of the workers instead" in said
        for part in wanted:
            assert part in said
        assert ("replicas is" in said, "strategy is" in said) == (replicas > 1, strategy != {"type": "Recreate"})


def test_the_beat_of_the_examples_needs_no_change() -> None:
    source = yaml.safe_load((REPOSITORY / "examples" / "beat.yaml").read_text())
    source["metadata"]["namespace"] = "shop"
    [said] = plan(source, Wishes()).obstacles
    assert ", which it is." in said


def test_root_is_in_the_way_and_no_option_lifts_it() -> None:
    [said] = plan(deployment({"securityContext": {"runAsUser": 0}}), Wishes(drop=frozenset({"runAsUser"}))).obstacles
    assert "never run as root" in said


def test_the_old_deployments_selector_labels_are_not_given_to_the_new_pods() -> None:
    """Else each of the two would count the other's pods, and the wait for the old ones would never end."""
    assert "app" not in adopted(deployment())["worker"]["labels"]


def test_what_becomes_different_is_said() -> None:
    source = deployment(
        command=["tini", "--", *COMMAND, "-n", "w@%h", "--autoscale=10,3", "--purge"],
        workingDir="/srv/app",
        livenessProbe={"exec": {"command": ["celery", "inspect", "ping"]}},
    )
    notes = "\n".join(plan(source, Wishes()).notes)
    for part in (
        "'tini --' is left out",
        "-n w@%h",
        "--autoscale=10,3",
        "--purge",
        "/srv/app becomes PYTHONPATH",
        "livenessProbe",
    ):
        assert part in notes
    assert {"name": "PYTHONPATH", "value": "/srv/app"} in adopted(source)["worker"]["env"]


def test_a_value_that_no_pool_accepts_is_an_obstacle_and_not_a_crash() -> None:
    found = plan(deployment(command=[*COMMAND[:-1], "fëeds"]), Wishes())
    assert "the pool would be invalid: spec.queues.0 is 'fëeds'" in found.obstacles[0]


def test_the_difference_shows_the_pods_before_and_after_without_passwords() -> None:
    source = deployment(env=[BROKER, {"name": "DATABASE", "value": "postgres://me:hunter2@db/shop"}])
    found: Adoption = plan(copy.deepcopy(source), Wishes())
    text = "\n".join(difference(source, found.pool))
    assert "--- Deployment/feeds" in text
    assert "+++ Deployment/feeds-eventlet" in text
    assert "-    - celery" in text.splitlines()
    assert "+    - /greenfleet/bin/launch.py" in text.splitlines()
    assert "hunter2" not in text
