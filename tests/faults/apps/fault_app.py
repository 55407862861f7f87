"""The user's code under faults: each task writes "begun" and "done" to a file, with its worker and the monotonic time,
and each message of a task "got" and "gone" (acknowledged or returned), and "again" after "got" if the broker says that
it had delivered it before. Results are such as `workload` expects them.
"""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors
# ruff: noqa: PTH123

import os
import re
import time

import redis
from celery import Celery
from kombu import Exchange, Queue
from kombu.message import Message

app = Celery("fault_app")
app.conf.task_default_queue = "feeds"
app.conf.task_ignore_result = True
app.conf.result_extended = True
if os.environ.get("QUEUE_KIND"):
    name = os.environ["QUEUE_NAME"]
    arguments = {"x-queue-type": os.environ["QUEUE_KIND"]}
    exchange = Exchange(name, type=os.environ.get("EXCHANGE_TYPE", "direct"))
    app.conf.task_default_queue = name  # Celery has retries delayed as this one says
    app.conf.task_queues = [Queue(name, exchange, routing_key=name, queue_arguments=arguments)]

WORKER = os.environ.get("GREENWORKER_WORKER", "none")


def note(event, identity):
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(f"{event} {identity} {WORKER} {time.monotonic():.3f}\n")


def watch_messages():
    """When a worker gets a message of a task, and when it has settled it."""
    received, state = Message.__init__, Message._state

    def init(self, body=None, *arguments, **more):
        received(self, body, *arguments, **more)
        raw = body.encode() if isinstance(body, str) else bytes(body or b"")
        found = re.search(rb'"(t\d+)"', raw)
        self.identity = found[1].decode() if found else ""
        if self.identity:
            note("got", self.identity)
            if (more.get("delivery_info") or {}).get("redelivered"):
                note("again", self.identity)

    def settle(self, value):
        state.__set__(self, value)
        if value != "RECEIVED" and self.identity:
            note("gone", self.identity)

    Message.__init__ = init
    Message._state = property(state.__get__, settle)


if "GREENWORKER_WORKER" in os.environ:
    watch_messages()


@app.task
def io(identity, seconds):
    note("begun", identity)
    time.sleep(seconds)
    note("done", identity)


@app.task
def cpu(identity, seconds):
    note("begun", identity)
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))
    note("done", identity)


@app.task(bind=True, max_retries=5, ignore_result=False)
def retried(self, identity, fails, countdown):
    note("begun", identity)
    if self.request.retries < fails:
        raise self.retry(countdown=countdown)
    note("done", identity)
    return f"of {identity}"


@app.task(rate_limit="30/s")
def limited(identity):
    note("begun", identity)
    note("done", identity)


@app.task(acks_late=False)
def early(identity, seconds):
    note("begun", identity)
    time.sleep(seconds)
    note("done", identity)


@app.task(ignore_result=False)
def heavy(identity, seconds):
    """Goes to the prefork companion."""
    note("begun", identity)
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(500))
    note("done", identity)
    return f"of {identity}"


@app.task(ignore_result=False)
def valued(identity, seconds):
    """Also of a group, and of a chord."""
    note("begun", identity)
    time.sleep(seconds)
    note("done", identity)
    return f"of {identity}"


@app.task(ignore_result=False)
def whole(values, identity):
    """The body of a chord."""
    note("begun", identity)
    note("done", identity)
    return f"of {identity} with {', '.join(sorted(values))}"


@app.task(ignore_result=False)
def reader(identity, task_id, seconds):
    """Waits for the result of another task, and asks again where the Redis of the results was away, as an app has to
    do itself.
    """
    note("begun", identity)
    until = time.monotonic() + seconds
    while True:
        try:
            value = app.AsyncResult(task_id).get(timeout=seconds, disable_sync_subtasks=False)
            break
        except (OSError, redis.ConnectionError, redis.TimeoutError):
            if time.monotonic() >= until:
                raise
            time.sleep(1.0)
    note("done", identity)
    return f"of {identity} with {value}"


@app.task(acks_late=False)
def spin(seconds):
    """A fault, not work: blocks the hub."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


@app.task(acks_late=False)
def hog(size):
    """A fault, not work: takes memory until the kernel ends the process, or *size* bytes."""
    taken = []
    while sum(map(len, taken)) < size:
        taken.append(b"x" * (1 << 20))
