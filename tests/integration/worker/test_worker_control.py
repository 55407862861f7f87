"""What applications, Flower and operators of Celery say to a worker over the broker."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import median
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest

from tests.integration.worker.harness import Producer, Redis, Relay, Worker, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, publish

Start = Callable[..., Worker]


def start_on(start_worker: Start, lane: Lane, **options: Any) -> Worker:
    environment = {**lane.environment(), **options.pop("environment", {})}
    return start_worker(lane.url, queues=lane.queue, environment=environment, **options).ready()


def ask(producer: Producer, command: str, **arguments: Any) -> Any:
    """The only worker's answer; asked again until it listens."""
    control = producer.app.control

    def answers() -> Any:
        return control.broadcast(command, arguments=arguments, reply=True, timeout=1, limit=1)

    (answer,) = eventually(answers, f"an answer to {command}").pop().values()
    return answer


REFUSED: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "pool_grow": {"n": 1},
    "pool_shrink": {"n": 1},
    "pool_restart": {},
    "autoscale": {"max": 9, "min": 1},
    "rate_limit": {"task_name": "green_app.noop", "rate_limit": "1/h"},
    "time_limit": {"task_name": "green_app.noop", "hard": 1},
    "add_consumer": {"queue": "theirs"},
    "cancel_consumer": {"queue": "feeds"},
    "enable_events": {},
    "disable_events": {},
}


def test_whoever_writes_to_the_broker_may_read_and_revoke_and_not_change_the_worker(
    any_lane: Lane, start_worker: Start
) -> None:
    producer = any_lane.producer()
    worker = start_on(start_worker, any_lane, threads=7)
    for command, arguments in REFUSED.items():
        answer = ask(producer, command, **arguments)
        assert "refused" in answer["error"], (command, answer)
        assert "GreenWorkerPool" in answer["error"]
    assert ask(producer, "ping") == {"ok": "pong"}
    assert ask(producer, "stats")["pool"]["max-concurrency"] == 7
    assert [queue["name"] for queue in ask(producer, "active_queues")] == [any_lane.queue]
    assert "revoked" in ask(producer, "revoke", task_id="theirs")["ok"]
    assert ask(producer, "revoked") == ["theirs"]
    producer.noop.delay(1)
    eventually(lambda: worker.journal.done() == 1, "it works as before")


@pytest.mark.slow
def test_full_and_disabled_do_what_they_say(any_lane: Lane, start_worker: Start) -> None:
    producer = any_lane.producer()
    full = start_on(start_worker, any_lane, environment={"GREENWORKER_REMOTE_CONTROL": "Full"})
    answer = ask(producer, "time_limit", task_name="green_app.noop", hard=1, soft=1)
    assert answer == {"ok": "time limits set successfully"}
    assert "greenThreads" in ask(producer, "pool_grow", n=1)["error"], "the operator would undo it"
    full.stop()
    start_on(start_worker, any_lane, environment={"GREENWORKER_REMOTE_CONTROL": "Disabled"})
    assert not producer.app.control.ping(timeout=2)


@pytest.mark.parametrize(
    ("conf", "fetched"), [({"worker_prefetch_multiplier": 3}, 15), ({}, 10)], ids=["the app's", "the resource's"]
)
def test_the_apps_prefetch_multiplier_wins_over_the_resources(
    any_lane: Lane, start_worker: Start, conf: dict[str, Any], fetched: int
) -> None:
    producer = any_lane.producer()
    for number in range(30):
        producer.sleep.delay(number, 20)
    worker = start_on(
        start_worker, any_lane, threads=5,
        environment={"GREENWORKER_PREFETCH_MULTIPLIER": "2", "APP_CONF": repr(conf)},
    )  # fmt: skip
    eventually(lambda: worker.metric("greenworker_threads_busy") == 5, "five run")
    eventually(lambda: any_lane.ready() == 30 - fetched, f"{fetched} are fetched", 10)


def test_task_events_reach_celerys_own_receiver(any_lane: Lane, start_worker: Start) -> None:
    """As Flower and `celery events` see it: every task, and how it ended; worker heartbeats where they are on."""
    producer = any_lane.producer()
    seen: Counter[str] = Counter()

    def note(event: dict[str, Any]) -> None:
        state.event(event)
        seen[event["type"]] += 1

    state = producer.app.events.State()
    connection = producer.app.connection_for_read()
    receiver = producer.app.events.Receiver(connection, handlers={"*": note})
    # One capture, as `celery events` does: each new one subscribes anew, and pub/sub keeps nothing for who is away.
    thread = Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False}, daemon=True)
    thread.start()
    try:
        worker = start_on(start_worker, any_lane, threads=20, lean=False, arguments=["-E"])
        eventually(lambda: seen["worker-heartbeat"], "the receiver gets the heartbeat", 20)
        for number in range(50):
            producer.noop.delay(number)
        producer.fail.delay(50)
        eventually(lambda: seen["task-succeeded"] >= 50 and seen["task-failed"] >= 1, "all have arrived")
    finally:
        receiver.should_stop = True
        thread.join(10)
        connection.release()
    assert worker.journal.done() == 50
    assert (seen["task-received"], seen["task-started"]) == (51, 51)
    states = Counter(task.state for task in state.tasks.values())
    assert states == {"SUCCESS": 50, "FAILURE": 1}
    assert {task.name for task in state.tasks.values()} == {"green_app.noop", "green_app.fail"}


def test_a_broker_that_confirms_task_events_late_ends_no_worker(rabbit_lane: Lane, start_worker: Start) -> None:
    """Their connection is also read for its heartbeats, once a second, which is then another green thread's read."""
    relay = Relay(rabbit_lane.server.port)
    worker = start_worker(
        rabbit_lane.url.replace(str(rabbit_lane.server.port), str(relay.port)), queues=rabbit_lane.queue, threads=20,
        environment=rabbit_lane.environment(), arguments=["-E"],
    ).ready()  # fmt: skip
    relay.delay_seconds = 0.3
    producer = rabbit_lane.producer()
    began = monotonic()
    sent = 0
    while monotonic() - began < 5 and not worker.gone():
        producer.sleep.delay(sent, 0.1)
        sent += 1
        sleep(0.1)
    eventually(lambda: worker.journal.done() == sent or worker.gone(), "all are done", more=worker.tail)
    assert not worker.gone(), worker.tail()
    relay.close()


@pytest.mark.slow
def test_every_task_is_done_with_task_events_at_the_price_that_is_printed(any_lane: Lane, start_worker: Start) -> None:
    """Three rounds in turn; `pytest -s` shows the medians. What counts are the ratios of one run."""
    count, labels = 3000, ("without", "with -E")
    measured: dict[str, list[tuple[float, float]]] = {label: [] for label in labels}
    for part in range(6):
        arguments = ["-E"] if part % 2 else []
        worker = start_on(start_worker, any_lane, threads=100, arguments=arguments)
        measured[labels[part % 2]].append(measure(worker, any_lane, part * (count + 50), count))
        worker.stop()
    for index, name in enumerate(("seconds", "CPU ms a task")):
        without, with_events = (median(each[index] for each in measured[label]) for label in labels)
        print(f"{any_lane.kind}: {name} {without:.2f}, {with_events:.2f}, ratio {with_events / without:.2f}")  # noqa: T201


def measure(worker: Worker, lane: Lane, first: int, count: int) -> tuple[float, float]:
    """Seconds for *count* tasks after 50 others, and milliseconds of the worker's CPU for each."""
    done = worker.journal.done()
    publish(lane, "noop", first, first + 50)
    eventually(lambda: worker.journal.done() == done + 50, "warm")
    before, began = worker.metric("process_cpu_seconds_total"), monotonic()
    publish(lane, "noop", first + 50, first + 50 + count)
    eventually(lambda: worker.journal.done() == done + 50 + count, "all are done", 120)
    seconds = monotonic() - began
    worker.reaches("greenworker_threads_busy", 0)
    return seconds, (worker.metric("process_cpu_seconds_total") - before) * 1000 / count


@pytest.mark.slow
def test_the_last_events_are_sent_when_the_worker_leaves(any_lane: Lane, start_worker: Start) -> None:
    producer = any_lane.producer()
    worker = start_on(start_worker, any_lane, lean=False, arguments=["-E"])
    seen: list[str] = []
    with producer.app.connection_for_read() as connection:
        receiver = producer.app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
        with receiver.consumer_context() as (own, *_):

            def arrived(kind: str) -> bool:
                with suppress(TimeoutError):
                    own.drain_events(timeout=0.2)
                return kind in seen

            arrived("")  # Redis' client subscribes when it reads for the first time
            producer.sleep.delay(1, 1)
            eventually(lambda: arrived("task-started"), "it runs")
            worker.signal(signal.SIGTERM)
            eventually(lambda: arrived("task-succeeded"), "the end of the task is seen")
    assert worker.wait(20) == 0


def test_the_pool_sends_the_eventlet_pools_signal_for_each_task(any_lane: Lane, start_worker: Start) -> None:
    producer = any_lane.producer()
    worker = start_on(start_worker, any_lane, environment={"LISTENS": "1"})
    producer.noop.delay(1)
    producer.noop.delay(2)
    eventually(lambda: worker.journal.done() == 2, "both are done")
    assert worker.journal.counts("applied") == {"green_app.noop": 2}


@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_a_task_may_wait_for_others(rabbit_server: Any, redis_broker: Any, start_worker: Start, backend: str) -> None:
    from celery import Celery

    lane = RabbitLane(rabbit_server, "quorum")
    where = redis_broker.url.replace("/0", "/3") if backend == "redis" else "rpc://"
    conf = {"task_ignore_result": False, "result_backend": where, "task_default_queue": lane.queue}
    start_worker(
        lane.url, queues=lane.queue, threads=60, environment={**lane.environment(), "APP_CONF": repr(conf)}
    ).ready()
    app = Celery("asks", broker=lane.url, backend=where, set_as_current=False)
    producer = lane.producer()
    app.amqp.queues.add(producer.queue)
    single = [app.send_task("green_app.wait_for", (number,), queue=producer.queue) for number in range(15)]
    groups = [app.send_task("green_app.wait_for_group", (4,), queue=producer.queue) for _ in range(5)]
    assert [result.get(timeout=30) for result in single] == list(range(1, 16))
    assert [result.get(timeout=30) for result in groups] == [10] * 5


def test_tasks_may_begin_to_wait_for_others_at_the_same_time(
    rabbit_server: Any, redis_broker: Any, start_worker: Start
) -> None:
    """Up to Celery 5.6 each of them connected to the Redis of the results, and one connection was read."""
    lane = RabbitLane(rabbit_server, "quorum")
    relay = Relay(redis_broker.port)
    where = redis_broker.url.replace("/0", "/3")
    conf = {"task_ignore_result": False, "result_backend": where.replace(str(redis_broker.port), str(relay.port))}
    start_worker(
        lane.url, queues=lane.queue, threads=60,
        environment={**lane.environment(), "APP_CONF": repr({**conf, "task_default_queue": lane.queue})},
    ).ready()  # fmt: skip
    producer = lane.producer(result_backend=where)
    relay.delay_seconds = 0.1
    single = [producer.app.send_task("green_app.wait_for", (number,), queue=producer.queue) for number in range(15)]
    assert [result.get(timeout=30) for result in single] == list(range(1, 16))
    relay.close()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_result_that_is_published_before_its_subscription_counts_is_read(
    rabbit_server: Any, own_redis: Redis, start_worker: Start, pool: str
) -> None:
    """Redis takes the commands of several connections in an order of its own, and publishes once: who has asked before
    the result was there, and subscribed after it was published, waited until the timeout.
    """
    lane, relay = RabbitLane(rabbit_server, "quorum"), Relay(own_redis.port)
    conf = {**stores_in(own_redis, lane), "result_backend": f"redis://127.0.0.1:{relay.port}/0"}
    more: dict[str, Any] = {"arguments": ["-c", "4"]} if pool == "prefork" else {"threads": 20}
    start_on(start_worker, lane, pool=pool, environment={"APP_CONF": repr(conf)}, **more)
    relay.late[b"SUBSCRIBE"] = 2.0
    producer = lane.producer(result_backend=own_redis.url)
    result = producer.app.send_task("green_app.wait_for_late", (7, 0.5), queue=producer.queue)
    assert result.get(timeout=20) == 7
    relay.close()


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_result_that_cannot_be_decoded_is_the_affair_of_who_waits_for_it(
    rabbit_server: Any, own_redis: Redis, start_worker: Start, pool: str
) -> None:
    """Another app has stored it with another serializer."""
    from celery import Celery

    lane = RabbitLane(rabbit_server, "quorum")
    more: dict[str, Any] = {"arguments": ["-c", "2"]} if pool == "prefork" else {"threads": 20}
    conf = stores_in(own_redis, lane)
    start_on(start_worker, lane, pool=pool, environment={"APP_CONF": repr(conf)}, **more)
    other = Celery("other", backend=own_redis.url, set_as_current=False)
    other.conf.update(result_serializer="pickle", result_accept_content=["pickle"])
    other.backend.store_result("odd", {"a": 1}, "SUCCESS")
    producer = lane.producer(result_backend=own_redis.url)
    send = producer.app.send_task
    for _ in range(4):  # in each of two processes
        odd = send("green_app.wait_for_id", ("odd",), queue=producer.queue)
        assert "DecodeError" in repr(odd.get(timeout=20, propagate=False))
    for number in range(3):
        assert send("green_app.wait_for_late", (number, 3.0), queue=producer.queue).get(timeout=25) == number


def test_tasks_wait_for_others_through_a_long_outage_of_the_redis_of_the_results(
    rabbit_server: Any, own_redis: Redis, start_worker: Start
) -> None:
    """Celery's reader of results ends after its retries (20 s, here 1 s): whoever waited got a time-out, and whoever
    waited later an error.
    """
    lane = RabbitLane(rabbit_server, "quorum")
    impatient = {"retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "interval_max": 0.5}}
    conf = stores_in(own_redis, lane)
    start_worker(
        lane.url, queues=lane.queue, threads=60,
        environment={
            **lane.environment(),
            "APP_CONF": repr({**conf, "result_backend_transport_options": impatient}),
        },
    ).ready()  # fmt: skip
    producer = lane.producer(result_backend=own_redis.url)
    send = producer.app.send_task
    waiting = [send("green_app.wait_for_late", (number, 9), queue=producer.queue) for number in (1, 2)]
    eventually(lambda: lane.ready() == 0, "they run")
    sleep(1.0)
    own_redis.stop()
    sleep(5.0)
    own_redis.start()
    later = send("green_app.wait_for", (3,), queue=producer.queue)
    for result, value in zip((later, *waiting), (4, 1, 2), strict=True):
        eventually(result.ready, "it ends", 30)  # asked for, not subscribed to
        assert result.result == value


def test_hundreds_of_tasks_store_their_results_at_once(
    rabbit_server: Any, own_redis: Redis, start_worker: Start
) -> None:
    """redis-py 8 refuses the 101st connection, and each task that it refused waited for a second."""
    lane = RabbitLane(rabbit_server, "classic")
    conf = stores_in(own_redis, lane)
    worker = start_on(start_worker, lane, threads=400, environment={"APP_CONF": repr(conf)})
    publish(lane, "late", 0, 400, 2.0)
    finished = "greenworker_tasks_finished_total"
    eventually(lambda: worker.metric(finished, task="green_app.late") == 400, "all are done", 60)
    assert "waits for Redis" not in worker.log.read_text()


def stores_in(redis: Redis, lane: RabbitLane) -> dict[str, Any]:
    """The configuration of an app whose tasks come from *lane* and whose results go to *redis*."""
    return {"task_ignore_result": False, "result_backend": redis.url, "task_default_queue": lane.queue}


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_results_and_chords_outlast_an_outage_of_their_redis(
    rabbit_server: Any, own_redis: Redis, start_worker: Start, pool: str
) -> None:
    """Celery tries to store a result, and to count a part of a chord, once."""
    from celery import chord

    lane = RabbitLane(rabbit_server, "quorum")
    conf = stores_in(own_redis, lane)
    more: dict[str, Any] = {"arguments": ["-c", "8"]} if pool == "prefork" else {"threads": 20}
    start_on(start_worker, lane, pool=pool, environment={"APP_CONF": repr(conf)}, **more)
    producer = lane.producer(result_backend=own_redis.url)
    parts = [producer.late.s(number, 3.0) for number in range(3)]
    results = [producer.app.send_task("green_app.late", (9, 3.0), queue=producer.queue, ignore_result=False)]
    results.append(chord(parts, app=producer.app)(producer.add.s()))
    eventually(lambda: lane.ready() == 0, "they run")
    own_redis.stop()
    sleep(6.0)
    own_redis.start()
    with uncollected():
        for value in (3, 9):  # what nobody refers to is withdrawn while Redis is there
            result = results.pop()
            eventually(result.ready, "it ends", 40)  # asked for, not subscribed to
            assert result.result == value
            del result


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected but at the end. Celery's AsyncResult asks Redis where it is collected; if that happens
    while redis-py 4 or 5 makes a connection, whose lock is not reentrant, this process waits for itself for ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.enable()


@pytest.mark.parametrize("how", ["drain", "hard limit"])
def test_a_task_that_is_ended_while_it_waits_with_its_result_runs_again(
    rabbit_server: Any, own_redis: Redis, start_worker: Start, how: str
) -> None:
    lane = RabbitLane(rabbit_server, "quorum")
    conf = stores_in(own_redis, lane)
    if how == "hard limit":
        conf["task_time_limit"] = 3
    environment = {**lane.environment(), "APP_CONF": repr(conf), "GREENWORKER_DRAIN_SECONDS": "2"}
    worker = start_worker(lane.url, queues=lane.queue, environment=environment).ready()
    own_redis.stop()
    lane.producer().add.delay([1, 2])
    eventually(lambda: worker.journal.counts("sum") == {"3": 1}, "it has run and waits")
    if how == "drain":
        began = monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert monotonic() - began < 10
        eventually(lambda: lane.ready() == 1, "its message is back")
    else:
        eventually(lambda: worker.journal.counts("sum")["3"] > 1, "it runs again", 20)
    own_redis.start()


def test_a_task_may_wait_for_others_while_the_broker_answers_late(rabbit_server: Any, start_worker: Start) -> None:
    """To connect takes longer than the second after which Celery begins to read results."""
    lane = RabbitLane(rabbit_server, "quorum")
    relay = Relay(rabbit_server.port)
    conf = {"task_ignore_result": False, "result_backend": "rpc://", "task_default_queue": lane.queue}
    start_worker(
        lane.url.replace(str(rabbit_server.port), str(relay.port)), queues=lane.queue, threads=60,
        environment={**lane.environment(), "APP_CONF": repr(conf)},
    ).ready()  # fmt: skip
    producer = lane.producer(result_backend="rpc://")
    relay.delay_seconds = 0.3
    single = [producer.app.send_task("green_app.wait_for", (number,), queue=producer.queue) for number in range(3)]
    group = producer.app.send_task("green_app.wait_for_group", (3,), queue=producer.queue)
    assert [result.get(timeout=30) for result in single] == [1, 2, 3]
    assert group.get(timeout=30) == 6
    relay.close()
