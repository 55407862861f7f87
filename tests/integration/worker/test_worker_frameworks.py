"""The examples for Django and Flask as they lie in `examples/`, and what psycopg does in green threads: the injected
agent, a real broker, a real PostgreSQL, and what such a project has in its image (`requirements/examples.lock`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from time import monotonic
from typing import Any

import pytest
import yaml

from charts.gates.parts import REPOSITORY, python_tool
from greenfleet.api import parse_pool
from tests.integration.worker.harness import RabbitMQ, Redis, Worker, eventually
from tests.integration.worker.postgres import Postgres

Start = Callable[..., Worker]

CONNECTIONS = 20
"""That the green threads of one worker share, in both examples."""
GREEN_THREADS = 40


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The agent's launcher, by the Python of an image that has nothing of ours."""
    agent = tmp_path_factory.mktemp("agent") / "greenfleet"
    subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(agent)], check=True)
    return [str(python_tool(REPOSITORY / "requirements" / "examples.lock")), str(agent / "bin" / "launch.py")]


class Project:
    """An example and its pool: a worker as the pool asks for it, and a producer with the same variables."""

    table: str
    new: str
    """Sends `count` orders, each of which takes the database `seconds` to ship."""

    def __init__(self, broker: str, launch: list[str], start: Start, here: Mapping[str, str]) -> None:
        """*here*: variables that are others on this machine, and those that the pool takes from Secrets."""
        self.broker, self.launch, self.start = broker, launch, start
        pool = yaml.safe_load((self.directory / "pool.yaml").read_text())
        parse_pool({**pool, "metadata": {**pool["metadata"], "namespace": "shop", "uid": "u"}})
        self.spec = pool["spec"]
        written = {variable["name"]: variable.get("value") for variable in self.spec["worker"]["env"]}
        missing = {name for name, value in written.items() if value is None} - set(here)
        assert not missing, "the pool takes from a Secret what no test sets"
        self.environment = {**written, **here, "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def directory(self) -> Path:
        return REPOSITORY / "examples" / self.__class__.__name__.lower()

    def worker(self, app: str = "", **more: str) -> Worker:
        return self.start(
            self.broker,
            app=app or self.spec["app"],
            queues=",".join(self.spec["queues"]),
            threads=GREEN_THREADS,
            command=self.launch,
            cwd=self.directory,
            environment={**self.environment, **more},
        )

    def run(self, *command: str) -> str:
        """By the image's Python in the project's directory, as its web server or a person would."""
        done = subprocess.run(
            [self.launch[0], *command],
            cwd=self.directory, text=True, capture_output=True, check=False, timeout=60,
            env={**os.environ, **self.environment, "CELERY_BROKER_URL": self.broker},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def send(self, count: int, seconds: float) -> None:
        self.run("-c", f"count, seconds = {count}, {seconds}\n{self.new}")


class Django(Project):
    table = "orders_order"
    new = """
import django
django.setup()
from orders.models import Order
from orders.tasks import ship
for order in [Order.objects.create() for _ in range(count)]:
    ship.delay(order.pk, seconds)
"""


class Flask(Project):
    table = "orders"
    new = """
from shop import create_app, database
from shop.tasks import ship
with create_app().app_context():
    connection = database.connect()
    new = [connection.execute("INSERT INTO orders DEFAULT VALUES RETURNING id").fetchone()[0] for _ in range(count)]
    connection.commit()
    for number in new:
        ship.delay(number, seconds)
"""


@pytest.fixture
def django(redis_broker: Redis, postgres: Postgres, launch: list[str], start_worker: Start) -> Django:
    here = {
        "DATABASE_HOST": "127.0.0.1",
        "DATABASE_PORT": str(postgres.port),
        "DATABASE_PASSWORD": "hunter2",
        "SECRET_KEY": "of this test",
    }
    project = Django(redis_broker.url, launch, start_worker, here)
    project.run("manage.py", "migrate", "--verbosity", "0")
    assert "No changes detected" in project.run("manage.py", "makemigrations", "--check", "--dry-run")
    postgres.query("TRUNCATE orders_order")
    return project


@pytest.fixture
def flask(rabbit_server: RabbitMQ, postgres: Postgres, launch: list[str], start_worker: Start) -> Flask:
    url = f"postgresql://{postgres.settings['user']}@127.0.0.1:{postgres.port}/{postgres.settings['dbname']}"
    project = Flask(rabbit_server.url, launch, start_worker, {"DATABASE_URL": url})
    postgres.query(f"DROP TABLE IF EXISTS orders; {(project.directory / 'schema.sql').read_text()}")
    return project


@pytest.fixture(params=["django", "flask"])
def project(request: pytest.FixtureRequest) -> Project:
    made: Project = request.getfixturevalue(request.param)
    return made


def shipped(postgres: Postgres, project: Project) -> int:
    [[count]] = postgres.query(f"SELECT count(*) FROM {project.table} WHERE shipped IS NOT NULL")
    return int(count)


def asleep(postgres: Postgres) -> int:
    """Queries that PostgreSQL carries out at this moment."""
    [[count]] = postgres.query(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    )
    return int(count)


def test_what_a_view_sends_is_done(project: Project, postgres: Postgres) -> None:
    worker = project.worker().ready()
    if isinstance(project, Django):
        project.run("-c", "import django; django.setup()\nfrom orders.tasks import place\nplace()")
    else:
        code = "from shop import create_app\nprint(create_app().test_client().post('/orders').status_code)"
        assert project.run("-c", code) == "202\n"
    eventually(lambda: shipped(postgres, project) == 1, "the order is shipped", more=worker.tail)
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    eventually(lambda: not connections(postgres), "and the worker leaves no connection behind")


def connections(postgres: Postgres) -> int:
    """Of clients other than this one."""
    [[count]] = postgres.query(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return int(count)


def test_the_green_threads_of_a_worker_share_its_connections_and_none_blocks_the_hub(
    project: Project, postgres: Postgres
) -> None:
    """More queries than connections, and more connections at work than one blocking query would leave."""
    worker = project.worker().ready()
    project.send(1, 0.0)
    eventually(lambda: shipped(postgres, project) == 1, "it is warm", more=worker.tail)
    began = monotonic()
    project.send(GREEN_THREADS, 2.0)
    eventually(lambda: asleep(postgres) == CONNECTIONS, "so many queries at once", every=0.01, more=worker.tail)
    assert worker.metric("greenworker_threads_busy") == GREEN_THREADS
    eventually(lambda: shipped(postgres, project) == 1 + GREEN_THREADS, "all are shipped", 100, more=worker.tail)
    in_sequence = 2.0 * GREEN_THREADS
    assert in_sequence / (monotonic() - began) > 4
    assert connections(postgres) <= CONNECTIONS
    assert "blocked" not in worker.tail(200)


def test_a_task_that_is_killed_gives_its_connection_back(project: Project, postgres: Postgres) -> None:
    """Else the pool would be empty after so many of them, and the worker would stand still."""
    worker = project.worker(GREENWORKER_HARD_LIMIT_SECONDS="3").ready()
    project.send(CONNECTIONS, 60.0)
    worker.reaches("greenworker_tasks_finished_total", CONNECTIONS)
    assert shipped(postgres, project) == 0
    project.send(CONNECTIONS, 0.2)
    eventually(lambda: shipped(postgres, project) == CONNECTIONS, "the next ones are shipped", 20, more=worker.tail)


@pytest.mark.parametrize("app", ["shop:create_app", "shop.celery:make_celery", "shop"])
def test_a_factory_is_refused_with_the_way_out_that_the_example_goes(flask: Flask, app: str) -> None:
    worker = flask.worker(app)
    assert worker.wait(30) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert (said["field"], said["value"]) == ("app", app)
    assert "app = make_app()" in said["fix"]


# what psycopg does without a framework


def run_queries(worker: Worker, send: Callable[[int], object], count: int, seconds: float) -> float:
    """How many times as fast they are as one after the other."""
    began = monotonic()
    for number in range(count):
        send(number)
    eventually(lambda: worker.journal.done() == count, "all are done", 60, more=worker.tail)
    return count * seconds / (monotonic() - began)


@pytest.mark.parametrize(
    ("driver", "more", "is_green", "remedy"),
    [
        ("psycopg", {}, True, ""),
        ("psycopg", {"PSYCOPG_WAIT_FUNC": "wait_c"}, False, "remove PSYCOPG_WAIT_FUNC"),
        ("psycopg2", {}, True, ""),
    ],
)
def test_psycopg_waits_in_green_threads_or_the_watchdog_names_the_remedy(  # noqa: PLR0917 - fixtures
    redis_broker: Redis, postgres: Postgres, launch: list[str], start_worker: Start, client_app: Any,
    driver: str, more: dict[str, str], is_green: bool, remedy: str,
) -> None:  # fmt: skip
    database = " ".join(f"{name}={value}" for name, value in postgres.settings.items())
    worker = start_worker(
        redis_broker.url,
        app="postgres_app",
        command=launch,
        environment={"DRIVER": driver, "DATABASE": database, **more},
    ).ready()
    app = client_app(redis_broker.url).app

    def send(number: int) -> None:
        app.send_task("postgres_app.query", [number, 1.0], queue="feeds")

    gain = run_queries(worker, send, 12, 1.0)
    if is_green:
        assert gain > 3
        assert "blocked" not in worker.log.read_text(), worker.tail()
        return
    assert gain <= 1
    eventually(lambda: remedy in worker.log.read_text(), "the remedy is named", 5, more=worker.tail)
    assert "by postgres_app.query at" in worker.log.read_text()
    assert worker.metric("greenworker_hub_blocked_seconds_total", task="postgres_app.query") > 6


def test_psycopg2_that_looks_a_name_up_in_c_has_a_remedy_of_its_own(
    redis_broker: Redis, launch: list[str], start_worker: Start, client_app: Any, tmp_path: Path
) -> None:
    """psycopg 3 asks as Python does, and so as Eventlet does. A name server that never answers: a mount namespace gives
    the worker a resolv.conf of its own.
    """
    name_server = socket(AF_INET, SOCK_DGRAM)
    name_server.bind(("127.53.53.54", 53))
    (tmp_path / "resolv.conf").write_text("nameserver 127.53.53.54\noptions timeout:1 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    mounts = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    environment = {"DRIVER": "psycopg2", "DATABASE": "host=database.example user=shop dbname=shop"}
    worker = start_worker(
        redis_broker.url, app="postgres_app", environment=environment,
        command=[*namespace, "sh", "-c", f'{mounts} && exec "$@"', "sh", *launch],
    ).ready()  # fmt: skip
    client_app(redis_broker.url).app.send_task("postgres_app.query", [1, 0.0], queue="feeds")
    eventually(lambda: "by postgres_app.query at" in worker.log.read_text(), "it is named", 40, more=worker.tail)
    assert "hostaddr" in worker.log.read_text(), worker.tail()
