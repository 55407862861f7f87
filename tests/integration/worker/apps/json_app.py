"""An app that logs JSON, as people have it who ship their logs."""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors

import json
import logging
import sys
import time

from celery import Celery
from celery.signals import setup_logging

app = Celery("json_app")
app.conf.task_default_queue = "feeds"
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False
app.conf.worker_redirect_stdouts = False
log = logging.getLogger("shop")


class Json(logging.Formatter):
    def format(self, record):
        return json.dumps({"level": record.levelname, "logger": record.name, "message": record.getMessage()})


@setup_logging.connect(weak=False)
def setup(**_):
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Json())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel("INFO")


@app.task(name="green_app.noop")
def noop(number):
    log.info("did %s", number)


@app.task(name="green_app.spin")
def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    log.info("spun")
