"""Real brokers and real workers as processes of this test run: loopback, free ports, temporary directories.

Only processes started here are ever signalled, by their own id.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import IO, Any

import redis
from celery import Celery
from kombu import Queue
from prometheus_client.parser import text_string_to_metric_families

from tests.polling import pause
from tests.ports import free_port

HERE = Path(__file__).parent
APPS = HERE / "apps"
PYTHON = os.environ.get("WORKER_PYTHON") or sys.executable
"""The interpreter of the workers: another Python or Celery than the one that runs the tests."""
PACKAGES = "redis-server rabbitmq-server"


def eventually(
    condition: Callable[[], Any],
    what: str,
    seconds: float = 30.0,
    every: float | None = None,
    more: Callable[[], str] = str,
) -> Any:
    """The first true value of *condition*, looked at *every* so many seconds, or less often the longer it takes; an
    AssertionError that says *what* did not happen after *seconds*, and *more* as it is then: a log, for instance.
    """
    began = monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {value!r}) {more()}")
        sleep(every or pause(waited))


def program(name: str, *more: str) -> str:
    found = shutil.which(name) or next((path for path in more if Path(path).exists()), None)
    if found is None:
        raise RuntimeError(f"{name} is missing: apt-get install -y --no-install-recommends {PACKAGES}")
    return found


def answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex(("127.0.0.1", port)) == 0


PROBE_SECONDS = 3.0
"""The time-out of the pods' probes: `greenfleet.manifests.pods.http_probe`."""


@contextmanager
def slow_clients(port: int, count: int) -> Iterator[list[int]]:
    """So many clients of the metrics port that send a byte now and then, and come again when they are dropped: how
    often is in the list.
    """
    ended = Event()
    dropped = [0] * count

    def trickle(number: int) -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.settimeout(0.2)
                while not ended.is_set():
                    client.sendall(b"G")
                    with suppress(TimeoutError):
                        client.recv(1)
                        break
            dropped[number] += 1

    threads = [Thread(target=trickle, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield dropped
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)


class Redis:
    """A redis-server that can be stopped, killed and started again with what it had on disk."""

    def __init__(self, directory: Path, *more: str, password: str = "") -> None:
        """*password*: that its clients need; *more* makes it ask for one."""
        self.directory = directory
        self.more = more
        self.password = password or None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [
            program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning",
            *self.more,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=(self.directory / "redis.log").open("ab"))
        eventually(self.alive, "redis-server answers")

    def alive(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.exceptions.RedisError:
            return False

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=db, password=self.password, decode_responses=True)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None

    def kill(self) -> None:
        """As a power cut."""
        self.stop(signal.SIGKILL)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Connections stay open and swallow everything, as those to a node that is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


class Relay:
    """A TCP relay to a broker, as a Service is: it can send new connections elsewhere and swallow what the old ones
    say.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        """*address*: of this machine, where it listens."""
        self.target = port
        self.generation = 0
        self.deaf = False
        """Requests arrive, and their answers are lost."""
        self.answers = Event()
        self.answers.set()
        """Cleared: on connections that are open already, answers wait."""
        self.waiting = 0
        """How many wait."""
        self.delay_seconds = 0.0
        """Before what the server says is passed on."""
        self.late: dict[bytes, float] = {}
        """Requests with this word in them are passed on so many seconds late; other connections do not wait."""
        self.listener = socket.create_server((address, 0))
        self.port = int(self.listener.getsockname()[1])
        self.accepted = self.accepted_before = 0
        self.sockets: list[socket.socket] = []
        self.refusing = False
        self.silenced: set[socket.socket] = set()
        self.silence_ended: dict[socket.socket, float] = {}
        """When one side of a silenced connection gave it up."""
        Thread(target=self._accept, daemon=True).start()

    def refuse(self) -> None:
        """New connections are closed at once."""
        self.refusing = True

    def accept(self, port: int) -> None:
        """New connections go to *port*."""
        self.target, self.refusing = port, False

    def silence_one(self, rng: random.Random) -> tuple[socket.socket, socket.socket] | None:
        """One connection stays open and swallows everything, in both directions: its client's side and its server's."""
        pairs = [(self.sockets[i], self.sockets[i + 1]) for i in range(0, len(self.sockets) - 1, 2)]
        alive = [pair for pair in pairs if all(map(is_connected, pair)) and not self.silenced.intersection(pair)]
        if not alive:
            return None
        chosen = rng.choice(alive)
        self.silenced.update(chosen)
        return chosen

    def move(self, port: int) -> None:
        """New connections go to *port*; the old ones stay open, and nobody answers."""
        self.generation += 1
        self.target = port

    def delay(self) -> None:
        """On connections that are open now, answers wait until `answers` is set."""
        self.accepted_before = self.accepted
        self.answers.clear()

    def cut(self) -> None:
        """Break every connection; new ones work."""
        victims, self.sockets = self.sockets, []
        for each in victims:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self.sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                Thread(
                    target=self._copy, args=(source, sink, sink is client, self.generation, self.accepted), daemon=True
                ).start()

    def _copy(  # noqa: PLR0917 - of a thread
        self, source: socket.socket, sink: socket.socket, answers: bool, generation: int, number: int
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and number <= self.accepted_before and not self.answers.is_set():
                    self.waiting += 1
                    self.answers.wait(60)
                if answers and self.delay_seconds:
                    sleep(self.delay_seconds)
                if self.late and not answers:
                    sleep(sum(seconds for word, seconds in self.late.items() if word in data))
                swallowed = (answers and self.deaf) or source in self.silenced
                if generation == self.generation and not swallowed:
                    sink.sendall(data)
        if source in self.silenced:
            self.silence_ended.setdefault(source, monotonic())
        if generation == self.generation:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def is_connected(one: socket.socket) -> bool:
    """Whether neither side has closed it, as far as is known here."""
    try:
        one.getpeername()
    except OSError:
        return False
    return True


class Sentinel:
    """A master, a replica, and one Sentinel that fails over within a second or two."""

    name = "feeds-master"

    def __init__(self, directory: Path, password: str = "") -> None:
        """*password*: that all of them ask for."""
        for part in ("master", "replica"):
            (directory / part).mkdir()
        self.password = password or None
        asks = ["--requirepass", password, "--masterauth", password] if password else []
        self.master = Redis(directory / "master", *asks, password=password)
        self.replica = Redis(
            directory / "replica", "--replicaof", "127.0.0.1", str(self.master.port), *asks, password=password
        )
        self.port = free_port()
        self.url = f"sentinel://127.0.0.1:{self.port}"
        self.directory = directory
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {self.name} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {self.name} 1000\nsentinel failover-timeout {self.name} 5000\n"
            + (f"requirepass {password}\nsentinel auth-pass {self.name} {password}\n" if password else "")
        )
        self.process = subprocess.Popen(
            [program("redis-server"), str(configuration), "--sentinel"], stdout=(directory / "sentinel.log").open("ab")
        )
        eventually(lambda: self.current() == self.master.port, "the Sentinel knows its master")
        eventually(lambda: self.client().info("replication")["connected_slaves"] == 1, "the replica follows")
        eventually(lambda: self._sentinel().sentinel_master(self.name)["num-slaves"] == 1, "the Sentinel knows it", 30)

    def _sentinel(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)

    def current(self) -> int:
        """Port of the master."""
        try:
            found = self._sentinel().sentinel_get_master_addr_by_name(self.name)
        except redis.exceptions.RedisError:
            return 0
        return int(found[1]) if found else 0

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.current(), password=self.password, decode_responses=True)

    def fail_over(self) -> None:
        """Kill the master; return when the replica is the new one."""
        self.master.stop(signal.SIGKILL)
        eventually(lambda: self.current() == self.replica.port, "the replica is promoted", 40)

    def fail_over_and_mend(self) -> tuple[float, float]:
        """Kill whoever is the master; when the other one is the master, start it again and wait until it follows. When
        (monotonic seconds) the master was dead, and when the other one was promoted.
        """
        old, new = (self.master, self.replica) if self.current() == self.master.port else (self.replica, self.master)
        old.stop(signal.SIGKILL)
        died = monotonic()
        eventually(lambda: self.current() == new.port, "the replica is promoted", 40)
        promoted = monotonic()
        old.start()
        eventually(lambda: new.client().info("replication")["connected_slaves"] == 1, "the old master follows", 60)
        eventually(lambda: old.client().info("replication").get("master_link_status") == "up", "it has caught up", 60)
        return died, promoted

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.replica.stop(signal.SIGKILL)
        self.master.stop(signal.SIGKILL)


class RabbitMQ:
    """A RabbitMQ node with its own epmd port, cookie and directories. `settings` are lines for its rabbitmq.conf."""

    metrics_port = 0
    """Of its Prometheus plugin, where that is on."""

    def __init__(
        self, directory: Path, plugins: tuple[str, ...] = (), settings: str = "", beside: RabbitMQ | None = None
    ) -> None:
        """*beside*: a node whose cluster this one joins, and which has to outlive it."""
        self.directory = directory
        self.members: list[RabbitMQ] = [] if beside is None else beside.members
        self.port = free_port()
        self.epmd_port = beside.epmd_port if beside else free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.node = f"green{self.port}@localhost"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "HOME": str(beside.directory if beside else directory),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbit"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        # Else the node would start a daemon of its own, which outlives everything.
        self.epmd: subprocess.Popen[bytes] | None = None
        if beside is None:
            self.epmd = subprocess.Popen([program("epmd"), "-port", str(self.epmd_port), "-address", "127.0.0.1"])
        (directory / "plugins").write_text(f"[{','.join(plugins)}].\n")
        (directory / "rabbit.conf").write_text(f"log.file.level = warning\ndisk_free_limit.absolute = 1MB\n{settings}")
        self.start()
        if beside is not None:
            self.members.append(self)
            for command in (["stop_app"], ["join_cluster", beside.node], ["start_app"]):
                self.control(*command)
            eventually(self.alive, "it is back, in the cluster", 60)

    def start(self) -> None:
        home = "/usr/lib/rabbitmq/bin"
        self.process = subprocess.Popen(
            [program("rabbitmq-server-is-not-used", f"{home}/rabbitmq-server")],
            env=self.environment, stdout=(self.directory / "out").open("ab"), stderr=subprocess.STDOUT,
            start_new_session=True, cwd=self.directory,
        )  # fmt: skip
        eventually(self.alive, f"RabbitMQ answers; its log: {self.directory}", 90)

    def alive(self) -> bool:
        from kombu.connection import Connection

        if not answers(self.port):
            return False
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
                return True
        except OSError:
            return False

    def control(self, *command: str) -> None:
        """rabbitmqctl."""
        subprocess.run(
            [program("rabbitmqctl-is-not-used", "/usr/lib/rabbitmq/bin/rabbitmqctl"), *command],
            env=self.environment, check=True, capture_output=True, timeout=180,
        )  # fmt: skip

    def close_connections(self) -> None:
        """As an administrator, or a broker that restarts: every client has to connect again. RabbitMQ waits up to 30 s
        for one that does not answer.
        """
        subprocess.run(
            [program("rabbitmqctl-is-not-used", "/usr/lib/rabbitmq/bin/rabbitmqctl"), "close_all_connections", "test"],
            env=self.environment, check=True, capture_output=True, timeout=150,
        )  # fmt: skip

    def kill(self) -> None:
        """As a power cut; whatever the start script has started belongs to its session."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Connections stay open and swallow everything, as those to a node that is gone."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        if self.epmd is not None:
            for member in self.members:
                member.kill()
            self.epmd.terminate()
            self.epmd.wait(10)


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Worker:
    """A worker process: ours by default, stock Celery with *stock*."""

    broker_url: str
    directory: Path
    app: str = "green_app"
    queues: str = "feeds"
    threads: int = 20
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stock: bool = False
    lean: bool = True
    pool: str = "eventlet"
    name: str = "w"
    command: Sequence[str] | None = None
    cwd: Path = APPS
    piped: bool = False
    """Its output is a pipe, as a container's is, and not a file."""

    def __post_init__(self) -> None:
        self.port = free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.threads_file = self.directory / f"{self.name}-threads"
        self.start_file = self.directory / "start"
        self.termination_log = self.directory / f"{self.name}-termination"
        self.log = self.directory / f"{self.name}.log"
        self.journal = Journal(self.directory / "journal")
        self.start_file.write_text(str(self.threads))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Worker:
        common = [
            "-A", self.app, "worker", "-P", self.pool, "-Q", self.queues, "-n", f"{self.name}-{self.port}@%h",
        ]  # fmt: skip
        if self.lean:
            common += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        head = list(self.command or [PYTHON, "-m", "celery" if self.stock else "greenworker"])
        if self.stock:
            common += ["-c", str(self.threads), "-l", "INFO"]
        environment = {
            **os.environ,
            "CELERY_BROKER_URL": self.broker_url,
            "GREENWORKER_POOL": "test/feeds",
            "GREENWORKER_ROLE": "prefork" if self.pool == "prefork" else "eventlet",
            "GREENWORKER_WORKER": self.name,
            "GREENWORKER_METRICS_PORT": str(self.port),
            "GREENWORKER_THREADS_FILE": str(self.threads_file),
            "GREENWORKER_START_FILE": str(self.start_file),
            "GREENWORKER_DRAIN_SECONDS": "20",
            "GREENWORKER_TERMINATION_LOG": str(self.termination_log),
            "JOURNAL": str(self.journal.path),
            **self.environment,
        }
        with self._output() as output:
            self.process = subprocess.Popen(
                [*head, *common, *self.arguments],
                cwd=self.cwd, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self

    def _output(self) -> IO[bytes]:
        log = self.log.open("ab")
        if not self.piped:
            return log
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)  # ends with the worker
        assert reader.stdin is not None
        return reader.stdin

    def connected(self, seconds: float = 30.0) -> Worker:
        """Ready, for stock workers too: they say so at log level INFO."""
        if not self.stock:
            return self.ready(seconds)
        eventually(
            lambda: " ready." in self.log.read_text() or self.gone(), "stock worker ready", seconds, more=self.tail
        )
        assert not self.gone(), self.tail()
        return self

    def ready(self, seconds: float = 30.0) -> Worker:
        eventually(lambda: self.status("/readyz") == 200 or self.gone(), "worker ready", seconds, more=self.tail)
        assert not self.gone(), self.tail()
        return self

    def gone(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def get(self, path: str, seconds: float = 2.0) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=seconds) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self, path: str) -> int:
        return self.get(path)[0]

    def probes(self, rounds: int) -> list[int]:
        """The statuses of so many rounds of scrapes and probes, each with the time-out of the pods' own probes."""
        paths = ("/healthz", "/readyz", "/metrics")
        return [self.get(path, PROBE_SECONDS)[0] for _ in range(rounds) for path in paths]

    def samples(self) -> Samples:
        _, text = self.get("/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, /, **labels: str) -> float:
        """Sum over every series of *name* that has *labels*."""
        return sum(
            value
            for (found, pairs), value in self.samples().items()
            if found == name and labels.items() <= dict(pairs).items()
        )

    def reaches(self, name: str, value: float, /, **labels: str) -> None:
        """Waits until *name* is *value*: a task is counted a moment after its result, its ack or its line can be
        seen.
        """
        where = ",".join(f"{label}={text}" for label, text in labels.items())
        eventually(lambda: self.metric(name, **labels) == value, f"{name}{{{where}}} is {value:g}", 10)

    def resize(self, threads: int) -> None:
        """As kubelet does it: a new file, swapped in."""
        new = self.threads_file.with_suffix(".new")
        new.write_text(str(threads))
        new.rename(self.threads_file)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Exporter(Worker):
    """The queue exporter, asked as a worker is. The URL of its broker is in a file."""

    broker = "ns/broker/url"
    """How its samples name the broker."""

    @property
    def url_file(self) -> Path:
        return self.directory / "url"

    def where(self) -> dict[str, str]:
        """The variables that say where the URL is."""
        self.url_file.write_text(self.broker_url + "\n")
        return {"GREENWORKER_BROKER_URL_FILE": str(self.url_file)}

    def start(self) -> Worker:
        environment = {
            **os.environ,
            "GREENWORKER_BROKER": self.broker,
            **self.where(),
            "GREENWORKER_QUEUES": json.dumps([{"queue": name} for name in self.queues.split(",")]),
            "GREENWORKER_POLL_SECONDS": "0.2",
            "GREENWORKER_METRICS_PORT": str(self.port),
            **self.environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "greenworker.exporter"],
            env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        return self

    def depth(self, queue: str = "feeds", name: str = "greenfleet_queue_messages_ready") -> float | None:
        return self.samples().get((name, (("broker", self.broker), ("queue", queue))))

    def errors(self) -> dict[str, float]:
        """The kinds of error that keep it from the broker."""
        return {
            dict(labels)["reason"]: value
            for (name, labels), value in self.samples().items()
            if name == "greenfleet_queue_broker_error"
        }

    def up(self) -> float | None:
        return self.samples().get(("greenfleet_queue_up", (("broker", self.broker),)))


class Journal:
    """What tasks did: one line each, appended in one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def counts(self, event: str) -> Counter[str]:
        lines = (line.split() for line in self.path.read_text().splitlines())
        return Counter(words[1] for words in lines if len(words) > 1 and words[0] == event)

    def done(self) -> int:
        return len(self.counts("done"))

    def order(self, event: str) -> list[str]:
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [words[1] for words in lines if len(words) > 1 and words[0] == event]


class Producer:
    """A stock Celery client. Attributes are the test app's tasks, called by name."""

    def __init__(self, url: str, queue: Queue | str = "feeds", **conf: Any) -> None:
        self.app = Celery("producer", broker=url, set_as_current=False)
        self.app.conf.update(task_default_queue="feeds", task_ignore_result=True, **conf)
        self.queue = queue
        if isinstance(queue, Queue):
            self.app.amqp.queues.add(queue)

    def __getattr__(self, name: str) -> Task:
        return Task(self, f"green_app.{name}")

    def remote_control_answers(self) -> list[Any]:
        """The workers that answer a ping; an AssertionError if none does in time."""
        found: list[Any] = eventually(lambda: self.app.control.ping(timeout=1), "remote control answers")
        return found


@dataclass
class Task:
    """One task by name."""

    producer: Producer
    name: str

    def delay(self, *arguments: Any) -> Any:
        return self.apply_async(arguments)

    def apply_async(self, arguments: Sequence[Any] = (), **options: Any) -> Any:
        options.setdefault("queue", self.producer.queue)
        return self.producer.app.send_task(self.name, arguments, **options)

    def s(self, *arguments: Any) -> Any:
        """Its signature. It names the queue: a message cannot carry a queue's declaration."""
        queue = getattr(self.producer.queue, "name", self.producer.queue)
        return self.producer.app.signature(self.name, arguments, queue=queue)
