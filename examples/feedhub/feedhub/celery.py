"""The Celery application: `celery -A feedhub`.

The broker's address comes from `CELERY_BROKER_URL`, which Celery reads by itself.
"""

from __future__ import annotations

from celery import Celery

QUEUE = "feeds"

app = Celery("feedhub", include=["feedhub.tasks"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,  # what matters is in the ledger; a result nobody reads is three round trips
    timezone="UTC",
)
