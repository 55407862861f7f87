"""Starts that cannot succeed say why in four parts, and those that could look healthy and do nothing are put right or
refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import pytest
from kombu.connection import Connection

from tests.integration.worker.harness import APPS, PYTHON, Producer, RabbitMQ, Redis, Worker, eventually

Start = Callable[..., Worker]

GREEN_AND_PREFORK = pytest.mark.parametrize("pool", ["eventlet", "prefork"])


def refusal(worker: Worker) -> dict[str, str]:
    assert worker.wait(30) == 78, worker.tail()
    said: dict[str, str] = json.loads(worker.termination_log.read_text())
    assert set(said) == {"field", "value", "reason", "fix"}
    assert "cannot start" in worker.tail()
    return said


@pytest.mark.parametrize(
    ("code", "needles"),
    [
        ("import sys\nsys.exit('no licence')", ["SystemExit: no licence", "broken.py:2"]),
        ("from celery import Celery\napp = Celery(", ["SyntaxError"]),
        ("import os\nurl = os.environ['DATABASE_URL']", ["KeyError", "DATABASE_URL", "worker.env", "broken.py:2"]),
        ("from celery import Celery\napp = Celery()\napp.config_from_object('no_settings')", ["no_settings"]),
        ("from celery import Celery\napp = Celery(include=['no_tasks'])", ["no_tasks"]),
        ("from celery import Celery\napp = Celery(include=['tasks'])", ["ValueError: bad", "tasks.py:1"]),
        ("from celery import Celery\ndef app():\n    return Celery()", ["function", "app = make_app()"]),
    ],
    ids=["leaves", "syntax", "variable", "settings", "no tasks", "broken tasks", "factory"],
)
@GREEN_AND_PREFORK
def test_an_app_that_cannot_be_imported_is_named(  # noqa: PLR0917 - fixtures
    start_worker: Start, redis_broker: Redis, tmp_path: Path, code: str, needles: list[str], pool: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    (tmp_path / "tasks.py").write_text("raise ValueError('bad')")
    said = refusal(start_worker(redis_broker.url, app="broken", cwd=tmp_path, pool=pool))
    assert said["field"] == "app"
    assert said["value"] == "broken"
    for needle in needles:
        assert needle in said["reason"] + said["fix"]


def test_an_import_that_never_ends_is_named(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import time\nfor _ in range(1000):\n    time.sleep(0.1)\n")
    log = tmp_path / "termination"
    code = """
        import importlib
        from greenworker import native
        from greenworker.bootstrap.imports import Imports
        with Imports("waits", ".", timeout_seconds=1.0):
            importlib.import_module("waits")
    """
    ended = subprocess.run(
        [sys.executable, "-c", dedent(code)], cwd=tmp_path, check=False, timeout=60,
        env={**os.environ, "GREENWORKER_TERMINATION_LOG": str(log)},
    )  # fmt: skip
    assert ended.returncode == 78
    said = json.loads(log.read_text())
    assert said["field"] == "app"
    assert "waits.py:3" in said["reason"]


@GREEN_AND_PREFORK
def test_a_queue_that_exists_with_other_arguments_is_named_with_both_values(
    rabbit_server: RabbitMQ, start_worker: Start, pool: str
) -> None:
    queue = f"different-{pool}"
    with Connection(rabbit_server.url) as connection:
        connection.channel().queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-length": 9})  # type: ignore[no-untyped-call]
    said = refusal(
        start_worker(
            rabbit_server.url, queues=queue, pool=pool, environment={"APP_CONF": "{'task_queue_max_priority': 10}"}
        )
    )
    assert queue in said["value"]
    assert "x-max" in said["reason"]
    assert "=none" in said["reason"]
    assert "declare" in said["fix"]
    assert "delete it" in said["fix"]


@pytest.mark.parametrize("url", ["sqs://AKIA:hunter2@", "filesystem://", "redis://127.0.0.1:1;sqs://AKIA:hunter2@"])
def test_a_transport_that_the_worker_does_not_speak_is_refused_in_four_parts(start_worker: Start, url: str) -> None:
    worker = start_worker(url)
    said = refusal(worker)
    assert said["field"] == "broker.urlFrom"
    assert "RabbitMQ" in said["reason"]
    assert "hunter2" not in worker.tail() + json.dumps(said)


# what is imported too early

INSTRUMENTATION = """
    import os, socket, threading
    import celery, kombu.transport.redis, kombu.transport.pyamqp, kombu.utils.compat
    from time import sleep
    kombu.utils.compat.detect_environment()
    guard = threading.Lock()
    threading.Thread(target=sleep, args=(0.1,), daemon=True).start()
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"instrumented {os.environ.get('PYTHONPATH')}\\n")
"""


def test_auto_instrumentation_that_imports_celery_first_finds_it_patched(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(dedent(INSTRUMENTATION))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    worker = start_worker(redis_broker.url, threads=20, environment={"PYTHONPATH": path}).ready()
    tasks = Producer(redis_broker.url)
    began = monotonic()
    for number in range(60):
        tasks.sleep.delay(number, 0.5)
    eventually(lambda: worker.journal.done() == 60, "all are done", 20, more=worker.tail)
    assert monotonic() - began < 10, "side by side"
    assert set(worker.journal.order("instrumented")) == {path}, "and sees the environment that it had"


def launched_by(tmp_path: Path, *flags: str) -> list[str]:
    """A program of the image's that has imported Celery before it comes to the launcher."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, runpy, kombu, celery\nsys.path.insert(0, '.')\nrunpy.run_module('greenworker', "
        "run_name='__main__')\n"
    )
    return [PYTHON, *flags, str(program)]


def test_a_program_that_imports_celery_and_then_launches_the_worker_is_started_again(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    worker = start_worker(redis_broker.url, threads=20, command=launched_by(tmp_path)).ready()
    tasks = Producer(redis_broker.url)
    for number in range(40):
        tasks.sleep.delay(number, 0.5)
    eventually(lambda: worker.journal.done() == 40, "all are done", 20)


def test_what_is_imported_too_early_all_the_same_is_refused(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    said = refusal(start_worker(redis_broker.url, command=launched_by(tmp_path, "-E")))
    assert said["field"] == "image"
    assert "celery" in said["value"]
    assert "kombu" in said["value"]
    assert "finish none" in said["reason"]


GEVENT = """
    saved = {}
    def patch_all():
        import socket
        saved["socket"] = {"socket": socket.socket}
        %s
"""


@pytest.mark.parametrize(
    "code",
    ["from gevent import monkey\nmonkey.patch_all()\n%s", "from gevent import monkey\n%s\nmonkey.patch_all()"],
    ids=["first", "last"],
)
@pytest.mark.parametrize(
    "breaks", ["pass", "raise RuntimeError('cannot release un-acquired lock')"], ids=["works", "breaks"]
)
def test_gevent_in_the_app_is_refused(
    start_worker: Start, redis_broker: Redis, tmp_path: Path, code: str, breaks: str
) -> None:
    """A stand-in for gevent, which leaves the same trace: where the patch comes after Eventlet's it breaks, sooner or
    later.
    """
    (tmp_path / "gevent").mkdir()
    (tmp_path / "gevent" / "__init__.py").touch()
    (tmp_path / "gevent" / "monkey.py").write_text(dedent(GEVENT) % breaks)
    (tmp_path / "served.py").write_text(code % "from celery import Celery\napp = Celery()")
    said = refusal(start_worker(redis_broker.url, app="served", cwd=tmp_path))
    assert said["field"] == "app"
    assert said["value"] == "gevent.monkey.patch_all()"
    assert "gunicorn" in said["fix"]


def test_an_app_that_takes_the_green_socket_away_is_refused(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    (tmp_path / "socks.py").write_text(
        "import socket\nimport _socket\nfrom celery import Celery\nsocket.socket = type('Tracing', "
        "(_socket.socket,), {})\napp = Celery()\n"
    )
    said = refusal(start_worker(redis_broker.url, app="socks", cwd=tmp_path))
    assert "socket.socket is socks.Tracing" in said["value"]


def test_an_app_may_make_a_socket_of_its_own_from_the_green_one(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    (tmp_path / "proxied.py").write_text(
        f"import sys\nsys.path.append({str(APPS)!r})\nimport socket\nclass Proxied(socket.socket):\n    "
        "pass\nsocket.socket = Proxied\n"
        "from green_app import app\n"
    )
    worker: Any = start_worker(redis_broker.url, app="proxied", cwd=tmp_path).ready()
    Producer(redis_broker.url).noop.delay(1)
    eventually(lambda: worker.journal.done() == 1, "a task runs")


@pytest.mark.parametrize(
    ("package", "version"),
    [("celery", "5.2.7"), ("eventlet", "0.33.3"), ("kombu", "5.2.4"), ("redis", "4.4.4"), ("redis", None)],
)
def test_versions_that_are_too_old_are_said_before_anything_is_imported(
    start_worker: Start, redis_broker: Redis, tmp_path: Path, package: str, version: str | None
) -> None:
    """The package itself cannot even be imported: nobody tries."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    if version is None:
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util as u\nfound = u.find_spec\n"
            f"u.find_spec = lambda name, *a: None if name == {package!r} else found(name, *a)\n"
        )
    else:
        metadata = tmp_path / f"{package}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    said = refusal(start_worker(redis_broker.url, environment={"PYTHONPATH": str(tmp_path)}))
    assert said["field"] == "image"
    assert said["value"] == (f"{package} {version}" if version else f"no {package}")
    assert f"{package} " in said["fix"]
    assert "or newer" in said["fix"]
