"""The users' code of these tests: a feed hub whose feeds answer after a while."""

import os
import time

from celery import Celery

app = Celery("hub_app")
app.conf.task_ignore_result = True


@app.task
def fetch(number: int, seconds: float) -> None:
    time.sleep(seconds)
    with open(os.environ["JOURNAL"], "a") as journal:  # noqa: PTH123 - one write, one line
        journal.write(f"{number}\n")
