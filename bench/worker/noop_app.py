"""The least that a task can be."""

# mypy: ignore-errors

import os

from celery import Celery
from kombu import Exchange, Queue

app = Celery("noop_app")
app.conf.task_ignore_result = True
app.conf.task_default_queue = "bench"
if os.environ.get("BENCH_KIND"):
    name = os.environ["BENCH_QUEUE"]
    arguments = {"x-queue-type": os.environ["BENCH_KIND"]}
    app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name, queue_arguments=arguments)]
app.conf.update(eval(os.environ.get("BENCH_CONF", "{}")))  # noqa: S307


@app.task
def noop(number):
    pass
