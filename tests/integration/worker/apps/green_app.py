"""The user's code in the tests: an app that knows nothing of greenworker."""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors
# ruff: noqa: PTH123

import gc
import os
import signal
import socket
import time

from celery import Celery, group, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import allow_join_result
from greenlet import greenlet
from kombu import Exchange, Queue

app = Celery("green_app")
app.conf.task_default_queue = "feeds"
app.conf.task_ignore_result = True
if os.environ.get("QUEUE_NAME"):
    name = os.environ["QUEUE_NAME"]
    arguments = {"x-queue-type": os.environ.get("QUEUE_KIND", "classic")}
    app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name, queue_arguments=arguments)]
if os.environ.get("APP_CONF"):
    app.conf.update(eval(os.environ["APP_CONF"]))  # test configuration


def note(event: str, number: object) -> None:
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"{event} {number}\n")


@app.task
def noop(number):
    note("done", number)


@app.task
def sleep(number, seconds):
    note("start", number)
    time.sleep(seconds)
    note("done", number)


@app.task
def end_companion(number):
    """In a companion: SIGTERM for its parent, and its own end at the same moment."""
    note("start", number)
    os.kill(os.getppid(), signal.SIGTERM)
    note("done", number)


@app.task(acks_late=False)
def early(number, seconds):
    note("start", number)
    time.sleep(seconds)
    note("done", number)


@app.task(rate_limit="0.5/s")
def limited(number):
    note("start", number)
    note("done", number)


@app.task(rate_limit="5/s")
def brisk(number):
    note("at", time.time())
    note("done", number)


@app.task(acks_late=False)
def early_exit(number):
    """Takes its whole process along, at once."""
    note("start", number)
    os._exit(1)


@app.task
def spin(seconds):
    """Blocks the hub: a loop in Python."""
    note("start", "spin")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    note("done", "spin")


@app.task
def stubborn(number):
    """Will not die."""
    note("start", number)
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            note("refused", number)


@app.task
def patient(number, seconds):
    note("start", number)
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("soft", number)
        return
    note("done", number)


@app.task(soft_time_limit=1)
def own_soft(number, seconds):
    note("start", number)
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("soft", number)
        return
    note("done", number)


@app.task(bind=True, time_limit=1)
def own_hard(self, number, seconds):
    note("start", number)
    time.sleep(seconds)
    note("done", number)


@app.task
def fail(number):
    note("start", number)
    raise ValueError("this task fails")


@app.task
def leave(number):
    note("start", number)
    raise SystemExit(3)


@app.task(bind=True)
def retry_after(self, number, seconds):
    note("start", number)
    time.sleep(seconds)
    if not self.request.retries:
        raise self.retry(countdown=0)
    note("done", number)


@app.task
def poison(number):
    """As the kernel's OOM killer or a segmentation fault ends a process."""
    note("start", number)
    if os.environ.get("ANTIDOTE"):
        note("done", number)
        return
    time.sleep(0.2)
    os.kill(os.getpid(), 9)


@app.task(pool=None if os.environ.get("UNMARKED") else "prefork")
def marked(number):
    note("pid", os.getpid())
    note("done", number)


@app.task(bind=True, max_retries=2)
def heavy(self, number, fails=0):
    import json

    request = self.request
    note("pid", os.getpid())
    note(
        "seen",
        json.dumps(
            [
                request.id,
                request.retries,
                request.eta,
                request.expires,
                request.group,
                request.delivery_info.get("priority"),
                number,
            ],
            separators=(",", ":"),
        ),
    )
    note("headers", json.dumps(request.headers, separators=(",", ":")))
    if request.retries < fails:
        raise self.retry(countdown=0)
    note("done", number)
    return number


class Unstable(Exception):
    """Something else is to be tried again."""


@app.task(bind=True, max_retries=2)
def again(self, number):
    """Fails once."""
    if self.request.retries:
        note("done", number)
        return number
    try:
        raise Unstable(number)
    except Unstable as error:
        raise self.retry(exc=error, countdown=(self.request.headers or {}).get("pause", 0)) from error


@app.task(bind=True, max_retries=0)
def never_again(self, number):
    raise self.retry(exc=Unstable(number), countdown=0)


@app.task(bind=True, autoretry_for=(Unstable,), retry_kwargs={"countdown": 0, "max_retries": 2})
def by_itself(self, number):
    if not self.request.retries:
        raise Unstable(number)
    note("done", number)
    return number


@app.task
def wait_for(number):
    """A task that waits for another one."""
    with allow_join_result():
        return increment.delay(number).get(timeout=20)


@app.task
def wait_for_late(number, seconds):
    """Waits for one that takes so long."""
    with allow_join_result():
        return late.delay(number, seconds).get(timeout=30)


@app.task
def wait_for_id(task_id):
    with allow_join_result():
        return app.AsyncResult(task_id).get(timeout=20)


@app.task
def late(number, seconds):
    time.sleep(seconds)
    return number


@app.task
def wait_for_group(number):
    with allow_join_result():
        return sum(group(increment.s(each) for each in range(number))().get(timeout=20))


@app.task
def increment(number):
    return number + 1


@app.task
def add(numbers):
    note("sum", sum(numbers))
    return sum(numbers)


@app.task
def census(number):
    """How many green threads there are, finished ones that are still referred to not included."""
    alive = sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects())
    note("census", f"{number}:{alive}")


@shared_task
def shared(number):
    note("done", number)


if os.environ.get("BLOCKING_DETECTION"):
    import eventlet.debug

    eventlet.debug.hub_blocking_detection(True)

if os.environ.get("LISTENS"):
    from celery import signals

    def applied(args=None, **_):
        note("applied", args[0])

    signals.eventlet_pool_apply.connect(applied, weak=False)

if os.environ.get("NOTES_ITS_END"):
    import atexit

    atexit.register(note, "end", "atexit")

if os.environ.get("SLOW_CONFIRM"):
    from celery import signals

    def confirmed(headers=None, **_):
        """The broker takes its time until it confirms a retry."""
        if headers.get("retries"):
            time.sleep(0.5)

    signals.after_task_publish.connect(confirmed, weak=False)

if os.environ.get("PICKLED_TASK"):

    @app.task(serializer="pickle")
    def pickled(number):
        note("done", number)


def resolver() -> None:
    socket.getaddrinfo("localhost", None)


if os.environ.get("CLOSED_AS_THE_LOOP_BEGINS"):
    import select

    from celery.signals import worker_ready

    ACK_ON_A_CHANNEL_THAT_IS_NOT_OPEN = bytes.fromhex("01 03e7 0000000d 003c 0050 0000000000000001 00 ce")

    def close(sender, **_):
        """The broker closes the connection on which the worker has just begun to consume."""
        if sender.hub:
            # Celery's loop begins with it, then looks for what the broker says for a tenth of a second
            sender.qos.update()
        connection = sender.connection.connection
        connection.transport.write(ACK_ON_A_CHANNEL_THAT_IS_NOT_OPEN)
        select.select([connection.sock], [], [], 30)

    worker_ready.connect(close, weak=False)
