"""An app whose tasks come in batches, by a strategy of its own, as packages for that do."""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors

import time

from celery import Task
from celery.utils.imports import symbol_by_name
from celery.worker.request import create_request_cls
from green_app import app, note


def run_batch(task, requests):
    return task.run([request.args[0] for request in requests])


class Batch(Task):
    abstract = True
    size = 10

    def Strategy(self, task, app, consumer):  # noqa: N802 - Celery's name
        waiting = []
        make = create_request_cls(
            symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
        )

        def flush():
            batch, waiting[:] = list(waiting), []

            def accepted(pid, when):
                note("accepted", len(batch))
                for request in batch:
                    if not task.acks_late:
                        request.acknowledge()

            def ended(result):
                for request in batch:
                    request.acknowledge()

            consumer.pool.apply_async(run_batch, (task, batch), accept_callback=accepted, callback=ended)

        def receive(message, body, ack, reject, callbacks, **_):
            waiting.append(
                make(
                    message, on_ack=ack, on_reject=reject, app=app, hostname=consumer.hostname, task=task,
                    body=message.body, headers=message.headers, decoded=False, utc=True,
                    connection_errors=consumer.connection_errors,
                )
            )  # fmt: skip
            if len(waiting) >= self.size:
                flush()

        return receive


@app.task(base=Batch)
def index(numbers):
    for number in numbers:
        note("start", number)
    time.sleep(1.5)
    for number in numbers:
        note("done", number)
