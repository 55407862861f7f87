"""A worker's life in short on the oldest and on the newest versions, beside those of the lock that all other tests run
on.

The environments are made once, from hash-locked requirements, and kept under ``out/matrix``. `tools.worker_matrix` runs
everything on them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.worker.harness import Worker, eventually
from tests.integration.worker.lanes import Lane, publish
from tools.interpreters import find_or_make
from tools.worker_matrix import NEWEST, OLDEST, Cell, prepare

TASKS = 200


@pytest.fixture
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with these versions."""
    cell: Cell = request.param
    interpreter = find_or_make(cell.python)
    if interpreter is None and cell is NEWEST:  # it has to be downloaded; the next one is on most machines
        cell = Cell("3.13", cell.celery)
        interpreter = find_or_make(cell.python)
    if interpreter is None:
        message = f"no Python {cell.python}: name one in WORKER_PYTHONS"
        if os.environ.get("GREENFLEET_TOOLS_REQUIRED"):
            pytest.fail(message)
        pytest.skip(message)
    return prepare(cell, interpreter)


@pytest.mark.timeout(600)  # the first time the environment is made
@pytest.mark.parametrize(
    ("python", "pool"),
    [
        pytest.param(OLDEST, "eventlet", id="oldest-eventlet"),
        pytest.param(OLDEST, "prefork", id="oldest-prefork"),
        pytest.param(NEWEST, "eventlet", id="newest-eventlet"),
        pytest.param(NEWEST, "prefork", id="newest-prefork", marks=pytest.mark.slow),
    ],
    indirect=["python"],
)
def test_starts_runs_resizes_and_drains(
    python: Path, pool: str, any_lane: Lane, start_worker: Callable[..., Worker]
) -> None:
    tasks = any_lane.producer()
    worker = start_worker(
        any_lane.url, queues=any_lane.queue, environment=any_lane.environment(), threads=4, pool=pool,
        command=[str(python), "-m", "greenworker"], arguments=["-c", "2"] if pool == "prefork" else [],
    ).ready(60)  # fmt: skip
    publish(any_lane, "noop", 0, TASKS)
    eventually(lambda: worker.journal.done() == TASKS, f"{TASKS} tasks are done")
    if pool == "eventlet":
        worker.resize(40)
        for number in range(TASKS, TASKS + 60):
            tasks.sleep.delay(number, 1)
        eventually(lambda: worker.metric("greenworker_threads_busy") == 40, "as many run as were asked for")
    else:
        for number in range(TASKS, TASKS + 10):
            tasks.sleep.delay(number, 1)
        eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "both processes run")
    published = TASKS + (60 if pool == "eventlet" else 10)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.tail()
    eventually(lambda: worker.journal.done() + any_lane.ready() == published, "what did not start went back")
    started = worker.journal.counts("start")
    assert set(started) <= set(worker.journal.counts("done")), "what had started ended"
    assert max(worker.journal.counts("done").values()) == 1, "each once"
