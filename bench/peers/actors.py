"""The tasks for dramatiq. Retries, age and time limits stay: they are what a dramatiq worker has by default."""

# mypy: ignore-errors

import os

import dramatiq
import fetch
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

kind = {"redis": RedisBroker, "rabbitmq": RabbitmqBroker}[os.environ["BENCH_BROKER"]]
broker = kind(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def noop(number):
    pass


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def feed(number):
    fetch.feed(number)
