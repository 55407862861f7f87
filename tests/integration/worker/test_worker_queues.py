"""The queue exporter, against real brokers."""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

import pytest
from kombu.connection import Connection

from greenworker.exporter.exporter import FRESH_SECONDS, OLD_SECONDS, SCRAPE_WAIT_SECONDS
from tests.integration.worker.harness import (
    Exporter,
    RabbitMQ,
    Redis,
    Relay,
    Sentinel,
    Worker,
    eventually,
    slow_clients,
)
from tests.ports import free_port

Start = Callable[..., Worker]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Callable[..., Exporter]]:
    made: list[Exporter] = []

    def start(url: str, **options: Any) -> Exporter:
        made.append(Exporter(url, tmp_path / "exporter", **options))
        made[-1].start()
        return made[-1]

    yield start
    for process in made:
        process.stop()


def test_counts_every_priority_and_what_is_unacknowledged(
    redis_broker: Redis, start_worker: Start, client_app: Any, exporter: Callable[..., Exporter]
) -> None:
    tasks = client_app(redis_broker.url)
    for number in range(22):
        tasks.sleep.apply_async((number, 20), priority=number % 10)
    watched = exporter(redis_broker.url, queues="feeds,other").ready()
    assert watched.depth() == 22
    assert watched.depth("other") == 0
    start_worker(redis_broker.url, threads=7).ready()
    eventually(lambda: watched.depth() == 15, "seven are taken")
    eventually(lambda: watched.depth(name="greenfleet_queue_messages_unacked") == 7, "and unacknowledged", 15)
    assert watched.depth("other", "greenfleet_queue_messages_unacked") == 0


def test_a_scrape_shows_the_depth_of_its_moment(
    redis_broker: Redis, client_app: Any, exporter: Callable[..., Exporter]
) -> None:
    """However seldom the broker is asked besides."""
    tasks = client_app(redis_broker.url)
    watched = exporter(redis_broker.url, environment={"GREENWORKER_POLL_SECONDS": "60"}).ready()
    for number in range(1, 4):
        tasks.sleep.delay(number, 20)
        sleep(2 * FRESH_SECONDS)
        assert watched.depth() == number


def test_a_broker_that_is_down_is_not_asked_by_every_scrape(
    own_redis: Redis, exporter: Callable[..., Exporter]
) -> None:
    watched = exporter(own_redis.url, environment={"GREENWORKER_POLL_SECONDS": "60"}).ready()
    own_redis.stop()
    sleep(2 * FRESH_SECONDS)
    assert watched.up() == 0
    own_redis.start()
    sleep(2 * FRESH_SECONDS)
    assert watched.up() == 0, "it is asked again when the pause is over"


def test_a_broker_that_hangs_delays_a_scrape_and_does_not_make_it_fail(
    own_redis: Redis, exporter: Callable[..., Exporter]
) -> None:
    watched = exporter(own_redis.url, environment={"GREENWORKER_POLL_SECONDS": "60"}).ready()
    with own_redis.silent():
        sleep(2 * FRESH_SECONDS)
        assert watched.get("/metrics", seconds=4 * SCRAPE_WAIT_SECONDS)[0] == 200


def test_follows_a_sentinel_to_the_new_master(sentinel: Sentinel, exporter: Callable[..., Exporter]) -> None:
    sentinel.client().rpush("feeds", "x", "x")
    eventually(lambda: sentinel.replica.client().llen("feeds") == 2, "replicated")
    dead = f"sentinel://127.0.0.1:{free_port()}"
    watched = exporter(f"{dead};{sentinel.url}/0?master_name={sentinel.name}").ready()
    assert watched.depth() == 2
    alone = exporter(sentinel.url, name="alone").ready()
    assert alone.depth() == 2, "one master needs no name"
    sentinel.fail_over()
    sentinel.client().rpush("feeds", "x")
    eventually(lambda: watched.depth() == 3, "the new master's depth", 30)


@pytest.mark.slow
def test_gives_a_sentinel_that_asks_for_a_password_the_urls(tmp_path: Path, exporter: Callable[..., Exporter]) -> None:
    """As charts set it up: one password for all of them."""
    secret = "a@b"  # noqa: S105 - of a server on loopback that lives for seconds
    servers = Sentinel(tmp_path, password=secret)
    try:
        servers.client().rpush("feeds", "x", "x")
        wrong = exporter(servers.url.replace("//", "//:wrong@"), name="wrong")
        eventually(lambda: wrong.up() == 0, "another password is of no use")
        watched = exporter(servers.url.replace("//", f"//:{quote(secret)}@")).ready()
        assert watched.depth() == 2
        assert secret not in watched.log.read_text()
        assert quote(secret) not in watched.log.read_text()
    finally:
        servers.stop()


def test_uses_the_key_prefix(redis_broker: Redis, exporter: Callable[..., Exporter]) -> None:
    redis_broker.client().rpush("tenant:feeds", "x")
    redis_broker.client().rpush("tenant:feeds\x06\x165", "x", "x")
    entry = {"queue": "feeds", "keyPrefix": "tenant:", "prioritySteps": [0, 5]}
    watched = exporter(redis_broker.url, environment={"GREENWORKER_QUEUES": json.dumps([entry])}).ready()
    assert watched.depth() == 3


def test_says_down_and_shows_no_stale_depth(own_redis: Redis, exporter: Callable[..., Exporter]) -> None:
    own_redis.client().rpush("feeds", "x")
    watched = exporter(own_redis.url).ready()
    assert (watched.up(), watched.depth()) == (1, 1)
    own_redis.stop(signal.SIGKILL)
    eventually(lambda: watched.up() == 0, "down")
    assert watched.depth() is None
    assert not [name for name, _ in watched.samples() if name == "celery_queue_length"]
    assert watched.status("/readyz") == 503
    assert watched.status("/healthz") == 200
    own_redis.start()
    eventually(lambda: watched.depth() == 1, "up again", 20)


def test_follows_the_url_file_and_never_shows_credentials(
    redis_broker: Redis, exporter: Callable[..., Exporter]
) -> None:
    redis_broker.client().rpush("feeds", "x")
    watched = exporter(f"redis://user:topsecret@127.0.0.1:{free_port()}/0")
    eventually(lambda: watched.up() == 0 and "no answer" in watched.tail(), "down")
    watched.url_file.write_text(redis_broker.url)
    eventually(lambda: watched.depth() == 1, "the new URL is used", 20)
    assert "topsecret" not in watched.log.read_text()
    assert "topsecret" not in watched.get("/readyz")[1]


def test_survives_a_rotation_of_its_credentials_on_a_live_broker(
    own_redis: Redis, exporter: Callable[..., Exporter]
) -> None:
    def address(secret: str) -> str:
        return f"redis://feeder:{quote(secret, safe='')}@127.0.0.1:{own_redis.port}/0"

    def hand_over(secret: str) -> None:
        """The old password ends, and so does every connection that it opened, as operators of brokers do it."""
        admin.acl_setuser("feeder", enabled=True, reset=True, passwords=[f"+{secret}"], commands=["+@all"], keys=["*"])
        admin.client_kill_filter(_type="normal", skipme=True)

    old, new = "old/s3cret@one", "new:s3cret%two"
    admin = own_redis.client()
    hand_over(old)
    admin.rpush("feeds", "x")
    watched = exporter(address(old)).ready()
    assert (watched.up(), watched.depth()) == (1, 1)

    hand_over(new)
    eventually(lambda: watched.up() == 0, "down: the Secret has not been rotated yet")
    eventually(lambda: "invalid username-password" in watched.get("/readyz")[1], "and says why")
    eventually(lambda: watched.errors() == {"AuthenticationRefused": 1}, "in a word that everybody may read")
    assert watched.depth() is None
    admin.rpush("feeds", "x", "x")
    shown = [watched.get("/metrics")[1], watched.get("/readyz")[1]]

    watched.url_file.write_text(address(new))
    eventually(lambda: watched.depth() == 3, "up again with the depth of now", 20)
    assert watched.up() == 1
    assert watched.errors() == {}
    assert not watched.gone(), "the same process"
    shown += [watched.get("/metrics")[1], watched.get("/readyz")[1], watched.log.read_text()]
    for secret in (old, new, quote(old, safe=""), quote(new, safe=""), "s3cret"):
        assert not any(secret in text for text in shown)


def test_says_in_a_word_that_redis_wants_a_password(tmp_path: Path, exporter: Callable[..., Exporter]) -> None:
    guarded = Redis(tmp_path, "--requirepass", "right", password="right")
    try:
        without = exporter(f"redis://127.0.0.1:{guarded.port}/0", name="without")
        wrong = exporter(f"redis://:wrong@127.0.0.1:{guarded.port}/0", name="wrong")
        eventually(lambda: without.errors() == {"AuthenticationRefused": 1}, "none is given")
        eventually(lambda: wrong.errors() == {"AuthenticationRefused": 1}, "a wrong one is given")
        assert (without.up(), wrong.up()) == (0, 0)
    finally:
        guarded.stop()


@pytest.mark.parametrize(
    ("login", "vhost", "kind"),
    [("guest:wrong", "/", "AuthenticationRefused"), ("guest:guest", "/shop", "VirtualHostRefused")],
)
def test_says_in_a_word_what_rabbitmq_refuses(
    rabbit_server: RabbitMQ, exporter: Callable[..., Exporter], login: str, vhost: str, kind: str
) -> None:
    watched = exporter(f"amqp://{login}@127.0.0.1:{rabbit_server.port}/{vhost}")
    eventually(lambda: watched.errors() == {kind: 1}, kind)
    assert watched.up() == 0


def test_says_which_queue_rabbitmq_does_not_have(rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]) -> None:
    missing, name = "greenfleet_queue_missing", f"mials-{free_port()}"
    watched = exporter(rabbit_server.url, queues=name).ready()
    assert (watched.depth(name), watched.depth(name, missing)) == (0, 1)
    with Connection(rabbit_server.url) as connection:
        connection.channel().queue_declare(name, durable=True, auto_delete=False)
        eventually(lambda: watched.depth(name, missing) is None, "somebody has created it")
        assert watched.depth(name) == 0


DEAD_LETTERS = "greenfleet_queue_dead_letters"
UNACKED = "greenfleet_queue_messages_unacked"


def test_rabbitmq_unacked_comes_from_its_prometheus_plugin(
    rabbit_server: RabbitMQ, start_worker: Start, client_app: Any, exporter: Callable[..., Exporter]
) -> None:
    queue = "unacked"
    tasks = client_app(rabbit_server.url, queue=queue)
    for number in range(9):
        tasks.sleep.delay(number, 60)
    worker = start_worker(rabbit_server.url, queues=queue, threads=4).ready()
    watched = exporter(
        rabbit_server.url,
        queues=f"{queue},idle",
        environment={"GREENWORKER_BROKER_METRICS_PORT": str(rabbit_server.metrics_port)},
    ).ready()
    eventually(lambda: watched.depth(queue, UNACKED) == 4, "four run", 20)
    assert watched.depth(queue) == 5
    worker.stop()
    eventually(lambda: watched.depth(queue, UNACKED) == 0, "and are given back", 20)


def test_a_plugin_that_does_not_answer_costs_only_its_own_number(
    rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]
) -> None:
    wrong = str(free_port())
    watched = exporter(rabbit_server.url, environment={"GREENWORKER_BROKER_METRICS_PORT": wrong}).ready()
    eventually(lambda: watched.depth() == 0, "the depth is known")
    assert watched.up() == 1
    assert watched.depth("feeds", UNACKED) is None
    assert watched.tail().count("Prometheus plugin") == 1


def test_rabbitmq_dead_letters_are_counted_for_each_queue(
    rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]
) -> None:
    names = [f"letters-{number}" for number in range(3)]
    with Connection(rabbit_server.url) as connection:
        channel = connection.channel()
        producer = connection.Producer(channel)
        for name in names:
            channel.queue_declare(name, durable=True, auto_delete=False)
            channel.queue_declare(f"{name}.dead", durable=True, auto_delete=False)
            producer.publish("x", routing_key=f"{name}.dead", confirm=True)
    watched = exporter(rabbit_server.url, queues=",".join(names)).ready()
    eventually(lambda: [watched.depth(name, DEAD_LETTERS) for name in names] == [1, 1, 1], "all have one")


def test_rabbitmq_unknown_queue_is_empty(rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]) -> None:
    with Connection(rabbit_server.url) as connection:
        channel = connection.channel()
        for kind in ("classic", "quorum"):
            channel.queue_declare(f"depth-{kind}", durable=True, auto_delete=False, arguments={"x-queue-type": kind})
            producer = connection.Producer(channel)
            for _ in range(3):
                producer.publish("x", routing_key=f"depth-{kind}", confirm=True)
    watched = exporter(rabbit_server.url, queues="nobody-knows-it,depth-classic,depth-quorum").ready()
    eventually(lambda: watched.depth("depth-quorum") == 3, "quorum")
    assert watched.depth("depth-classic") == 3
    assert watched.metric("celery_queue_length", queue_name="depth-quorum") == 3
    assert watched.metric("celery_active_consumer_count", queue_name="depth-quorum") == 0
    assert any(name == "celery_active_consumer_count" for name, _ in watched.samples())
    assert watched.depth("nobody-knows-it") == 0
    assert watched.depth("depth-classic", "greenfleet_queue_messages_unacked") is None, "AMQP does not tell"


def test_several_urls_are_one_broker(
    redis_broker: Redis, own_redis: Redis, client_app: Any, exporter: Callable[..., Exporter], tmp_path: Path
) -> None:
    """Producers may have gone to either; a replica has what its master has, and does not count again."""
    for server, count in ((redis_broker, 3), (own_redis, 4)):
        for number in range(count):
            client_app(server.url).noop.delay(number)
    (tmp_path / "replica").mkdir()
    replica = Redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_redis.port))
    eventually(lambda: replica.client().llen("feeds") == 4, "the replica has them")
    urls = [f"redis://127.0.0.1:{free_port()}/0", redis_broker.url, own_redis.url, replica.url]
    process = exporter("; \n".join([*urls, ""]))
    eventually(lambda: process.depth() == 7, "both, once")
    assert process.up() == 1
    own_redis.stop()
    eventually(lambda: process.depth() == 3, "the one that answers")
    assert process.up() == 1
    replica.client().execute_command("REPLICAOF", "NO", "ONE")
    eventually(lambda: process.depth() == 7, "and the one that was promoted")
    replica.stop()


def test_of_several_rabbitmqs_the_one_that_answers_is_asked(
    rabbit_server: RabbitMQ, client_app: Any, exporter: Callable[..., Exporter]
) -> None:
    """Nodes of one cluster: each knows all queues."""
    queue = "of-several"
    for number in range(3):
        client_app(rabbit_server.url, queue=queue).noop.delay(number)
    watched = exporter(f"amqp://guest:guest@127.0.0.1:{free_port()}//;{rabbit_server.url}", queues=queue)
    eventually(lambda: watched.depth(queue) == 3, "its depth", 60, more=watched.tail)
    assert watched.up() == 1


def test_reads_a_new_list_of_queues_without_a_restart_and_a_gap(
    redis_broker: Redis, exporter: Callable[..., Exporter], tmp_path: Path
) -> None:
    """1,500 queues: more than fit into one variable of the environment."""
    listed = tmp_path / "queues"

    def write(names: list[str]) -> None:
        new = listed.with_suffix(".new")
        new.write_text(json.dumps([{"queue": name, "keyPrefix": "", "prioritySteps": [0, 3, 6, 9]} for name in names]))
        new.rename(listed)

    many = [f"a-queue-with-a-name-of-some-length-{number}" for number in range(1500)]
    redis_broker.client().rpush("feeds", "x")
    redis_broker.client().rpush(many[-1], "x", "x")
    watched = exporter(redis_broker.url, environment={"GREENWORKER_QUEUES": "", "GREENWORKER_QUEUES_FILE": str(listed)})
    eventually(lambda: "no list of queues yet" in watched.get("/readyz")[1], "it waits")
    write(["feeds"])
    watched.ready()
    assert watched.depth() == 1
    write(["feeds", *many])
    seen = []
    while watched.depth(many[-1]) is None:
        seen.append(watched.depth())
        assert len(seen) < 500
    assert watched.depth(many[-1]) == 2
    assert set(seen) <= {1}, "the neighbour has a sample all the time"
    listed.write_text("[{")
    eventually(lambda: "not read anew" in watched.log.read_text(), "it says what is wrong with the list")
    assert watched.depth() == 1, "the last good list counts"
    write(many)
    eventually(lambda: watched.depth() is None, "who left is not shown any more")
    assert not watched.gone(), "the same process"


ODD_NAMES = ["eu/feeds", "eu:feeds", "a b", 'say "hi", twice', "50%", "größe", "队列", "back\\slash", "q[0]"]


def test_odd_names_have_their_depth_and_what_is_unacknowledged_on_redis(
    redis_broker: Redis, start_worker: Start, client_app: Any, exporter: Callable[..., Exporter]
) -> None:
    names = [name for name in ODD_NAMES if "," not in name]  # `-Q` separates by it
    tasks = client_app(redis_broker.url)
    for name in names:
        for number in range(3):
            tasks.sleep.apply_async((number, 60), queue=name)
    start_worker(redis_broker.url, queues=",".join(names), threads=3 * len(names)).ready()
    for number in range(2):
        tasks.sleep.apply_async((number, 60), queue=ODD_NAMES[3])
    redis_broker.client().hset("unacked", "stock", json.dumps([{"body": "x"}, "", ODD_NAMES[3]]))
    watched = exporter(
        redis_broker.url, environment={"GREENWORKER_QUEUES": json.dumps([{"queue": name} for name in ODD_NAMES])}
    ).ready()
    for name in names:
        eventually(lambda name=name: watched.depth(name, UNACKED) == 3, f"three of {name} run", 15)
        assert watched.depth(name) == 0
    assert watched.depth(ODD_NAMES[3]) == 2
    assert watched.depth(ODD_NAMES[3], UNACKED) == 1


def test_odd_names_have_their_depth_and_what_is_unacknowledged_on_rabbitmq(
    rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]
) -> None:
    with Connection(rabbit_server.url) as connection:
        channel = connection.channel()
        for name in ODD_NAMES:
            channel.queue_declare(name, durable=True, auto_delete=False)
            producer = connection.Producer(channel)
            for _ in range(3):
                producer.publish("x", routing_key=name, confirm=True)
            channel.basic_get(name)
        watched = exporter(
            rabbit_server.url,
            environment={
                "GREENWORKER_QUEUES": json.dumps([{"queue": name} for name in ODD_NAMES]),
                "GREENWORKER_BROKER_METRICS_PORT": str(rabbit_server.metrics_port),
            },
        ).ready()
        for name in ODD_NAMES:
            eventually(lambda name=name: watched.depth(name, UNACKED) == 1, f"one of {name} is out", 20)
            assert watched.depth(name) == 2


def test_slow_clients_starve_neither_scrapes_nor_probes(redis_broker: Redis, exporter: Callable[..., Exporter]) -> None:
    watched = exporter(redis_broker.url).ready()
    with slow_clients(watched.port, 24):
        assert watched.probes(20) == [200] * 60


@pytest.mark.slow
def test_a_depth_is_not_shown_when_its_question_is_old(
    rabbit_server: RabbitMQ, exporter: Callable[..., Exporter]
) -> None:
    """A broker that answers each question after a while, and has many to answer."""
    names = [f"old-{number}" for number in range(8)]
    relay = Relay(rabbit_server.port)
    with Connection(rabbit_server.url) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_declare(name, durable=True, auto_delete=False)
        watched = exporter(
            rabbit_server.url.replace(str(rabbit_server.port), str(relay.port)), queues=",".join(names)
        ).ready()
        assert all(watched.depth(name) == 0 for name in names)
        relay.delay_seconds = 2.5
        producer = connection.Producer(channel)
        for name in names:
            producer.publish("x", routing_key=name, confirm=True)
        published = monotonic()
        shown: set[str] = set()
        while monotonic() < published + 30:
            began = monotonic()
            depths = [watched.depth(name) for name in names]
            if began > published + OLD_SECONDS + 1:
                assert set(depths) <= {None, 1}
                shown |= {name for name, depth in zip(names, depths, strict=True) if depth is not None}
            sleep(0.2)
        assert shown == set(names), "each is shown while it is young"
        assert watched.status("/healthz") == 200
    relay.close()
