"""Celery's neighbours against a worker: the real Flower, and the programs `celery inspect`, `status` and `events`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from charts.gates.parts import REPOSITORY, python_tool
from tests.integration.worker.harness import APPS, Worker, eventually
from tests.integration.worker.lanes import Lane
from tests.ports import free_port

Start = Callable[..., Worker]


def environment(lane: Lane) -> dict[str, str]:
    """Of a neighbour: Flower's API is open, as behind a proxy that asks who comes."""
    ours = {"CELERY_BROKER_URL": lane.url, "JOURNAL": os.devnull, "FLOWER_UNAUTHENTICATED_API": "true"}
    return {**os.environ, **lane.environment(), **ours}


@contextmanager
def program(lane: Lane, directory: Path, *command: str, python: str = sys.executable) -> Iterator[Path]:
    """`celery COMMAND` beside the worker, until the block ends. Yields its log."""
    log = directory / f"{command[0]}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "-m", "celery", "-A", "green_app", *command],
            cwd=APPS, env=environment(lane), stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield log
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Flower:
    """Its HTTP API, which its pages and buttons use."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
                return json.loads(answer.read() or b"null")
        except (OSError, ValueError):  # not there yet
            return None

    def press(self, path: str, **fields: str) -> tuple[int, str]:
        """A button: status and words of the answer."""
        data = urllib.parse.urlencode(fields).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode() or error.reason


@pytest.fixture
def flower(any_lane: Lane, tmp_path: Path) -> Iterator[Flower]:
    python = python_tool(REPOSITORY / "requirements" / "examples.lock")
    port = free_port()
    options = ("--address=127.0.0.1", f"--port={port}", "--inspect_timeout=4000")
    with program(any_lane, tmp_path, "flower", *options, python=str(python)) as log:
        found = Flower(port)
        eventually(lambda: found.get("/api/workers") is not None, "Flower answers", 60, more=log.read_text)
        yield found


def start_on(start_worker: Start, lane: Lane, **options: Any) -> Worker:
    return start_worker(lane.url, queues=lane.queue, environment=lane.environment(), **options).ready()


def test_flower_shows_tasks_and_workers_and_its_buttons_do_what_the_page_says(
    any_lane: Lane, start_worker: Start, flower: Flower
) -> None:
    producer = any_lane.producer()
    worker = start_on(start_worker, any_lane, threads=7, arguments=["-E"])
    for number in range(5):
        producer.noop.delay(number)
    producer.fail.delay(5)

    def states() -> list[str]:
        return sorted(task["state"] for task in (flower.get("/api/tasks") or {}).values())

    def shown_state(task: str) -> str | None:
        found: str | None = (flower.get("/api/tasks") or {}).get(task, {}).get("state")
        return found

    eventually(
        lambda: states() == ["FAILURE", *["SUCCESS"] * 5], "its list of tasks is right", more=lambda: str(states())
    )
    (name, shown) = eventually(lambda: flower.get("/api/workers?refresh=1"), "it knows the worker").popitem()
    assert shown["stats"]["pool"]["max-concurrency"] == 7
    assert [queue["name"] for queue in shown["active_queues"]] == [any_lane.queue]
    assert "green_app.noop" in shown["registered"]

    for path, fields in (
        (f"/api/worker/pool/grow/{name}", {"n": "1"}),
        (f"/api/worker/pool/shrink/{name}", {"n": "1"}),
        (f"/api/worker/pool/autoscale/{name}", {"min": "1", "max": "9"}),
        (f"/api/worker/queue/add-consumer/{name}", {"queue": "theirs"}),
        (f"/api/worker/queue/cancel-consumer/{name}", {"queue": any_lane.queue}),
        ("/api/task/rate-limit/green_app.noop", {"ratelimit": "1/h", "workername": name}),
        ("/api/task/timeout/green_app.noop", {"hard": "1", "workername": name}),
    ):
        status, said = flower.press(path, **fields)
        assert status >= 400, (path, status, said)
        assert "refused" in said, (path, said)
    flower.press(f"/api/worker/shutdown/{name}")  # which waits for no answer

    running = producer.sleep.delay(6, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1, "it is not shut down, and runs a task")
    assert worker.metric("greenworker_threads_limit") == 7
    assert flower.press(f"/api/task/revoke/{running.id}", terminate="true")[0] == 200
    eventually(lambda: worker.metric("greenworker_threads_busy") == 0, "the button Terminate ends it")
    eventually(lambda: shown_state(running.id) == "REVOKED", "and it is shown as revoked")


def test_without_events_flower_shows_the_worker_and_no_task_and_cannot_turn_them_on(
    any_lane: Lane, start_worker: Start, flower: Flower
) -> None:
    producer = any_lane.producer()
    worker = start_on(start_worker, any_lane)
    (shown,) = eventually(lambda: flower.get("/api/workers?refresh=1"), "it knows the worker").values()
    assert "green_app.noop" in shown["registered"]
    producer.app.control.enable_events()  # what Flower does now and then
    for number in range(5):
        producer.noop.delay(number)
    eventually(lambda: worker.journal.done() == 5, "all run")
    assert flower.get("/api/tasks") == {}


def test_celery_inspect_and_status_answer(any_lane: Lane, start_worker: Start) -> None:
    worker = start_on(start_worker, any_lane, threads=7)
    running = any_lane.producer().sleep.delay(1, 60)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 1, "a task runs", 60, more=worker.tail)

    def celery(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "green_app", *command],
            cwd=APPS, env=environment(any_lane), text=True, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def inspect(command: str) -> Any:
        (answer,) = json.loads(celery("inspect", "--json", "--timeout", "10", command)).values()
        return answer

    assert "1 node online" in celery("status", "--timeout", "10")
    assert [task["id"] for task in inspect("active")] == [running.id]
    assert inspect("stats")["pool"]["max-concurrency"] == 7
    assert [queue["name"] for queue in inspect("active_queues")] == [any_lane.queue]


def test_celery_events_prints_what_happens(any_lane: Lane, start_worker: Start, tmp_path: Path) -> None:
    producer = any_lane.producer()
    with program(any_lane, tmp_path, "events", "--dump") as log:
        worker = start_on(start_worker, any_lane, arguments=["-E"])
        sent: list[str] = []

        def printed() -> bool:
            sent.append(producer.noop.delay(len(sent)).id)  # it may not listen yet
            return any(f"succeeded: green_app.noop({one}" in log.read_text() or one in log.read_text() for one in sent)

        eventually(printed, "a task is printed", 40, every=0.5, more=log.read_text)
    eventually(lambda: worker.journal.done() == len(sent), "all run")


def test_the_settings_on_the_page_of_what_changes_are_those_of_a_worker(any_lane: Lane, start_worker: Start) -> None:
    """`docs/your-app.md`, as the worker itself answers; each kind of opting out beside it."""
    page = (REPOSITORY / "docs" / "your-app.md").read_text()
    producer = any_lane.producer()

    def conf(worker: Worker) -> dict[str, Any]:
        control = producer.app.control
        (answer,) = eventually(
            lambda: control.broadcast("conf", arguments={"with_defaults": True}, reply=True, timeout=2, limit=1),
            "it answers",
            more=worker.tail,
        )
        (found,) = answer.values()
        return dict(found)

    ours: dict[str, Any] = {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_publish_retry_policy": {
            "max_retries": 180,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 1.0,
        },
    }
    assert all(f"`{name}`" in page for name in ours)
    worker = start_on(start_worker, any_lane)
    found = conf(worker)
    assert {name: found[name] for name in ours} == ours
    assert found["accept_content"] == ["application/json"]
    assert (found["worker_send_task_events"], found["task_send_sent_event"]) == (False, False)
    worker.stop()
    theirs = {**ours, "task_acks_late": False, "task_reject_on_worker_lost": False, "worker_prefetch_multiplier": 3}
    theirs["task_publish_retry_policy"] = {"max_retries": 1}
    opted_out = start_worker(
        any_lane.url, queues=any_lane.queue, environment={**any_lane.environment(), "APP_CONF": repr(theirs)}
    ).ready()
    found = conf(opted_out)
    assert {name: found[name] for name in theirs} == theirs
