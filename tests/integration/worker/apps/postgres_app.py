"""Queries by psycopg 3 (with its C wait) or psycopg2, as people write them."""

# A user's module: no types, no habits of ours.
# mypy: ignore-errors
# ruff: noqa: PTH123

import os

from celery import Celery

app = Celery("postgres_app")
app.conf.task_default_queue = "feeds"
app.conf.task_ignore_result = True


@app.task
def query(number, seconds):
    if os.environ["DRIVER"] == "psycopg2":
        import psycopg2 as driver
    else:
        import psycopg as driver
    connection = driver.connect(os.environ["DATABASE"])
    connection.cursor().execute("SELECT pg_sleep(%s)", [seconds])
    connection.close()
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"done {number}\n")
