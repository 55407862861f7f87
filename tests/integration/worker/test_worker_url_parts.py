"""A broker and a result backend whose URL comes in parts, as Secrets of operators and charts have them: the worker and
the exporter against real servers, and a password that is rotated.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.worker.harness import Exporter, RabbitMQ, Redis, Worker, eventually
from tests.ports import free_port

Start = Callable[..., Worker]
Parts = dict[str, str]

ODD = "p@ss:w/o%41r?d#[;]&=+ \\'\"$é€\U0001f407"
NEW = "n/e@w:" + ODD
NO_URL = ""
"""As the operator sets CELERY_BROKER_URL beside parts."""


def variables(prefix: str = "GREENWORKER_BROKER", **parts: str) -> Parts:
    return {f"{prefix}_{name.upper()}": value for name, value in parts.items()}


def sayings(password: str) -> list[str]:
    """What must be in no log and no answer."""
    return [password, quote(password), quote(password, safe=""), json.dumps(password)[1:-1], repr(password)[1:-1]]


class Mounted(Exporter):
    """The exporter, whose Secret is a directory of files that are swapped as kubelet does it."""

    broker = "ns/host:0123456789"

    def where(self) -> Parts:
        return {"GREENWORKER_BROKER_DIRECTORY": str(self.mounted)}

    @property
    def mounted(self) -> Path:
        return self.directory / "mounted"

    def mount(self, **files: str) -> None:
        """A new version of all files at once: `..data` is a symbolic link that is replaced, and the files are links
        into it.
        """
        self.mounted.mkdir(parents=True, exist_ok=True)
        version = self.mounted / f"..{len(list(self.mounted.iterdir()))}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
            if not (self.mounted / name).is_symlink():
                (self.mounted / name).symlink_to(Path("..data") / name)
        link = self.mounted / "..data.new"
        link.symlink_to(version.name)
        link.replace(self.mounted / "..data")


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    made: list[Mounted] = []

    def start(environment: Parts, files: Parts, **options: Any) -> Mounted:
        made.append(Mounted("", tmp_path / "exporter", environment=environment, **options))
        made[-1].mount(**files)
        made[-1].start()
        return made[-1]

    yield start
    for process in made:
        process.stop()


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that asks everybody for one password, as charts set it up."""
    directory = tmp_path / "locked"
    directory.mkdir()
    server = Redis(directory, "--requirepass", ODD, password=ODD)
    yield server
    server.stop()


def test_a_password_alone_opens_redis_for_broker_results_and_exporter(
    locked_redis: Redis, start_worker: Start, client_app: Any, exporter: Callable[..., Mounted]
) -> None:
    broker = variables(transport="redis", host="127.0.0.1", port=str(locked_redis.port), password=ODD)
    results = variables(
        "GREENWORKER_RESULT_BACKEND",
        transport="redis", host="127.0.0.1", port=str(locked_redis.port), path="3", password=ODD + "\n",
    )  # fmt: skip
    watched = exporter({**broker, "GREENWORKER_BROKER_PASSWORD": "as it was when the pod started"}, {"password": ODD})
    watched.ready()
    tasks = client_app(f"redis://:{quote(ODD, safe='')}@127.0.0.1:{locked_redis.port}/0")
    sent = tasks.noop.apply_async((1,), ignore_result=False)
    eventually(lambda: watched.depth() == 1, "the exporter counts it")
    conf = {"APP_CONF": repr({"task_ignore_result": False})}  # Celery asks the message from 5.6 on
    worker = start_worker(NO_URL, environment={**broker, **results, **conf}).ready()
    eventually(lambda: watched.depth() == 0, "the worker takes it")
    eventually(lambda: locked_redis.client(3).get(f"celery-task-meta-{sent.id}"), "and its result is in that database")
    for said in sayings(ODD):
        assert said not in worker.log.read_text() + watched.log.read_text() + watched.get("/metrics")[1]


def test_a_user_of_redis_is_rotated_and_the_exporter_follows_without_a_restart(
    own_redis: Redis, start_worker: Start, client_app: Any, exporter: Callable[..., Mounted]
) -> None:
    user = "team/feeds@shop"
    admin = own_redis.client()

    def hand_over(password: str) -> None:
        admin.acl_setuser(user, enabled=True, reset=True, passwords=[f"+{password}"], commands=["+@all"], keys=["*"])
        admin.execute_command("ACL", "SETUSER", user, "&*")
        admin.client_kill_filter(_type="normal", skipme=True)

    hand_over(ODD)
    admin.rpush("feeds", "x")
    place = variables(transport="redis", host="127.0.0.1", port=str(own_redis.port), path="0")
    watched = exporter(
        {**place, **variables(username=user, password=ODD)}, {"username": user + "\n", "password": ODD}
    ).ready()
    assert isinstance(watched, Mounted)
    assert watched.depth() == 1

    hand_over(NEW)
    eventually(lambda: watched.up() == 0, "down: the Secret has not been rotated yet")
    assert watched.depth() is None
    admin.rpush("feeds", "x", "x")
    shown = [watched.get("/metrics")[1], watched.get("/readyz")[1]]
    watched.mount(username=user, password=NEW)
    eventually(lambda: watched.depth() == 3, "up again with the depth of now", 20)
    assert not watched.gone(), "the same process"

    admin.delete("feeds")
    worker = start_worker(NO_URL, environment={**place, **variables(username=user, password=NEW)}).ready()
    client_app(own_redis.url).noop.delay(1)
    eventually(lambda: worker.journal.done() == 1, "the worker logs in as that user")
    shown += [watched.get("/metrics")[1], watched.get("/readyz")[1], watched.log.read_text(), worker.log.read_text()]
    for said in sayings(ODD) + sayings(NEW):
        assert not any(said in text for text in shown)


@pytest.mark.skipif("GREENFLEET_TESTS_RABBITMQ_URL" in os.environ, reason="needs rabbitmqctl")
def test_a_user_and_a_virtual_host_of_rabbitmq_as_its_cluster_operator_gives_them(
    rabbit_server: RabbitMQ, start_worker: Start, client_app: Any, exporter: Callable[..., Mounted]
) -> None:
    user, vhost = "default_user_é@x", "team/fe eds?ü"
    rabbit_server.control("add_vhost", vhost)
    rabbit_server.control("add_user", user, ODD)
    rabbit_server.control("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
    place = {"transport": "amqp", "host": "127.0.0.1", "port": str(rabbit_server.port), "path": vhost}
    login = {"username": user, "password": ODD}
    secret = {"host": "127.0.0.1", "port": f"{rabbit_server.port}\n", **login}
    url = f"amqp://{quote(user, safe='')}:{quote(ODD, safe='')}@127.0.0.1:{rabbit_server.port}/{quote(vhost, safe='')}"
    tasks = client_app(url)
    tasks.noop.delay(1)
    watched = exporter(variables(**place, **login), secret).ready()
    assert isinstance(watched, Mounted)
    assert watched.depth() == 1
    worker = start_worker(NO_URL, environment=variables(**place, **login)).ready()
    eventually(lambda: worker.journal.done() == 1, "the task ran")
    eventually(lambda: watched.depth() == 0, "in that virtual host")

    rabbit_server.control("change_password", user, NEW)
    rabbit_server.control("close_all_connections", "--vhost", vhost, "test")
    eventually(lambda: watched.up() == 0, "down: the Secret has not been rotated yet", 30)
    worker.stop()
    tasks = client_app(url.replace(quote(ODD, safe=""), quote(NEW, safe="")))
    tasks.noop.delay(2)
    watched.mount(**{**secret, "password": NEW})
    eventually(lambda: watched.depth() == 1, "up again", 30)
    assert not watched.gone(), "the same process"
    for said in sayings(ODD) + sayings(NEW):
        assert said not in worker.log.read_text() + watched.log.read_text() + watched.get("/readyz")[1]


def test_dead_letters_are_listed_by_the_url_of_now(locked_redis: Redis, exporter: Callable[..., Mounted]) -> None:
    broker = variables(transport="redis", host="127.0.0.1", port=str(locked_redis.port), password="as it was")
    watched = exporter(broker, {"password": ODD}).ready()
    letter = {
        "queue": "feeds",
        "task": "proj.parse",
        "id": "7f3a",
        "reason": "worker_lost",
        "at": 1,
        "deliveries": 3,
        "payload": "",
    }
    locked_redis.client().rpush("greenworker.dead.feeds", json.dumps(letter))
    done = subprocess.run(
        [sys.executable, "-m", "greenworker.exporter.dead_letters", "list", "--queue=feeds"],
        env={
            **os.environ, **broker, "GREENWORKER_BROKER": "ns/host:0123456789",
            "GREENWORKER_BROKER_DIRECTORY": str(watched.mounted),
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [one["id"] for one in json.loads(done.stdout)] == ["7f3a"]


@pytest.mark.parametrize(
    ("part", "value"),
    [("host", "127.0.0.1/hunter2"), ("host", "u:hunter2@127.0.0.1"), ("path", "0?x=hunter2"), ("password", "")],
)
def test_a_part_that_does_not_fit_ends_the_worker_in_four_parts_and_keeps_the_exporter_down(
    redis_broker: Redis, start_worker: Start, exporter: Callable[..., Mounted], part: str, value: str
) -> None:
    broker = {
        **variables(transport="redis", host="127.0.0.1", port=str(redis_broker.port)),
        **variables(**{part: value}),
    }
    worker = start_worker(NO_URL, environment=broker)
    assert worker.wait(30) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert said["field"] == f"broker.{part}"
    assert said["reason"]
    assert said["fix"]
    watched = exporter(broker, {part: value})
    eventually(lambda: f"broker.{part}" in watched.get("/readyz")[1], "and the exporter says it too")
    assert watched.up() == 0
    shown = [worker.log.read_text(), worker.termination_log.read_text(), watched.log.read_text()]
    assert not any("hunter2" in text for text in [*shown, watched.get("/readyz")[1]])


def test_a_url_of_the_image_beside_parts_is_refused(redis_broker: Redis, start_worker: Start) -> None:
    environment = variables(transport="redis", host="127.0.0.1", port=str(redis_broker.port))
    worker = start_worker("redis://:hunter2@elsewhere.invalid", environment=environment)
    assert worker.wait(30) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert (said["field"], said["value"]) == ("worker.env", "GREENWORKER_BROKER_TRANSPORT")
    assert "hunter2" not in worker.log.read_text() + worker.termination_log.read_text()


def test_a_missing_right_blames_the_part_that_names_the_user(own_redis: Redis, start_worker: Start) -> None:
    own_redis.client().execute_command(
        "ACL", "SETUSER", "shop", "reset", "on", ">secret", "~*", "&*", "+@all", "-hsetnx"
    )
    login = variables(transport="redis", host="127.0.0.1", port=str(own_redis.port), username="shop", password="secret")
    worker = start_worker(NO_URL, environment=login)
    assert worker.wait(30) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert (said["field"], said["value"]) == ("broker.username", "user shop")


def test_a_broker_that_is_down_is_said_without_its_password(exporter: Callable[..., Mounted]) -> None:
    port = free_port()
    broker = variables(transport="redis", host="127.0.0.1", port=str(port), username="u", password=ODD)
    watched = exporter(broker, {"password": ODD})
    eventually(lambda: "no answer from the broker" in watched.log.read_text(), "it says so")
    for said in sayings(ODD):
        assert said not in watched.log.read_text() + watched.get("/readyz")[1]
