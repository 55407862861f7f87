"""The tasks for Celery's workers: the least that a task can be, and a feed."""

# mypy: ignore-errors

import json
import os

import fetch
from celery import Celery
from kombu import Exchange, Queue

app = Celery("celery_app")
app.conf.task_ignore_result = True
app.conf.update(json.loads(os.environ.get("BENCH_CONF", "{}")))
if os.environ.get("BENCH_BROKER") == "rabbitmq":
    name = os.environ["BENCH_QUEUE"]
    app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name, queue_arguments={"x-queue-type": "classic"})]


@app.task
def noop(number):
    pass


@app.task
def feed(number):
    fetch.feed(number)
