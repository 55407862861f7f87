"""The launcher: what it refuses, how it says so, and that it works in an image that has almost nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charts.gates.parts import REPOSITORY, python_tool
from tests.integration.worker.harness import Redis, Worker, eventually

Start = Callable[..., Worker]


@pytest.mark.parametrize(
    ("options", "field", "needle"),
    [
        ({"arguments": ["--autoscale=9,1"]}, "worker.extraArgs", "autoscaler"),
        ({"arguments": ["--autoscale=10,1"]}, "worker.extraArgs", "autoscaler"),
        ({"arguments": ["-B"]}, "worker.extraArgs", "beat"),
        ({"arguments": ["-c", "7"]}, "worker.extraArgs", "green threads"),
        ({"arguments": ["-Q", "foreign"]}, "worker.extraArgs", "use queues"),
        ({"environment": {"BROKER_URL": "redis://:hunter2@127.0.0.1:1"}}, "worker.env", "broker.urlFrom"),
        ({"environment": {"REMAP_SIGTERM": "SIGQUIT"}}, "worker.env", "cold shutdown"),
        ({"app": "no_such_app"}, "app", "no_such_app"),
        ({"environment": {"GREENWORKER_PREFORK_TASKS": "parse"}}, "GREENWORKER_PREFORK_TASKS", "JSON"),
        ({"environment": {"GREENWORKER_POOL": ""}}, "GREENWORKER_POOL", "namespace/name"),
        ({"environment": {"APP_CONF": "{'accept_content': ['json', 'pickle']}"}}, "worker.acceptContent", "run code"),
        ({"environment": {"BLOCKING_DETECTION": "1"}}, "app", "hub_blocking_detection"),
        ({"environment": {"PICKLED_TASK": "1"}}, "worker.acceptContent", "task green_app.pickled"),
    ],
)
def test_refuses_in_four_parts(
    start_worker: Start, redis_broker: Redis, options: dict[str, Any], field: str, needle: str
) -> None:
    worker = start_worker(redis_broker.url, **options)
    assert worker.wait(20) == 78, worker.tail()
    said = json.loads(worker.termination_log.read_text())
    assert set(said) == {"field", "value", "reason", "fix"}
    assert said["field"] == field
    assert needle in json.dumps(said)
    assert "cannot start" in worker.tail()


def test_pickle_runs_where_the_resource_says_so(start_worker: Start, redis_broker: Redis, client_app: Any) -> None:
    conf = repr({"accept_content": ["json", "pickle"]})
    worker = start_worker(
        redis_broker.url, environment={"APP_CONF": conf, "GREENWORKER_ACCEPT_CONTENT": "json,pickle"}
    ).ready()
    client_app(redis_broker.url).noop.apply_async((1,), serializer="pickle")
    eventually(lambda: worker.journal.done() == 1, "the pickled message runs")


def test_says_what_the_image_lacks(start_worker: Start, redis_broker: Redis, tmp_path: Path) -> None:
    for missing in ("eventlet", "celery"):
        hide = tmp_path / missing
        hide.mkdir()
        (hide / "sitecustomize.py").write_text(
            "import importlib.util as u\nfound = u.find_spec\n"
            f"u.find_spec = lambda name, *a: None if name == {missing!r} else found(name, *a)\n"
        )
        worker = start_worker(redis_broker.url, environment={"PYTHONPATH": str(hide)})
        assert worker.wait(20) == 78, worker.tail()
        said = json.loads(worker.termination_log.read_text())
        assert said["field"] == "image"
        assert missing in said["value"] + said["fix"]


def test_at_its_end_a_worker_runs_what_the_app_registered(redis_broker: Redis, start_worker: Start) -> None:
    worker = start_worker(redis_broker.url, environment={"NOTES_ITS_END": "1"}).ready()
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert worker.journal.counts("end") == {"atexit": 1}


def test_sigterm_before_celery_is_up_ends_at_once(start_worker: Start, redis_broker: Redis) -> None:
    worker = start_worker(redis_broker.url)
    eventually(lambda: worker.status("/metrics") == 200, "the exposition answers before Celery is up")
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 0, worker.tail()


def test_injected_agent_runs_as_any_user_from_a_read_only_directory(
    start_worker: Start, redis_broker: Redis, client_app: Any, tmp_path: Path
) -> None:
    target = tmp_path / "greenfleet"
    subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(target)], check=True)
    subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(target)], check=True)
    for path in [target, *target.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    bare = tmp_path / "bare"
    bare.mkdir()
    site = (
        Path(sys.executable).parent.parent / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    )
    hidden = ("greenfleet", "_editable", "__editable", "prometheus_client", "greenworker")
    for entry in site.iterdir():
        if not entry.name.startswith(hidden) and not entry.name.endswith(".pth"):
            (bare / entry.name).symlink_to(entry)
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    command = [os.path.realpath(sys.executable), "-S", *safe_path, str(target / "bin" / "launch.py")]
    if os.getuid() == 0 and os.access("/usr/bin/setpriv", os.X_OK):
        see_all = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # the interpreter may be in /root
        command = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", *see_all, *command]
        (tmp_path / "worker").mkdir()
        (tmp_path / "worker").chmod(0o777)
        (tmp_path / "worker" / "journal").touch()
        (tmp_path / "worker" / "journal").chmod(0o666)
    worker = start_worker(
        redis_broker.url, command=command,
        environment={"PYTHONPATH": str(bare), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"},
    ).ready()  # fmt: skip
    client_app(redis_broker.url).noop.delay(1)
    eventually(lambda: worker.journal.done() == 1, "the task is done")


def test_a_task_and_an_app_keep_what_they_chose(start_worker: Start, redis_broker: Redis, client_app: Any) -> None:
    tasks = client_app(redis_broker.url)
    worker = start_worker(redis_broker.url, threads=5).ready()
    tasks.early.delay(1, 5)
    tasks.sleep.delay(2, 5)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 2, "both run")
    eventually(
        lambda: redis_broker.client().hlen("unacked") == 1, "the late one is unacknowledged, the early one is not"
    )
    worker.stop()
    redis_broker.client().flushall()
    other = start_worker(redis_broker.url, environment={"APP_CONF": repr({"task_acks_late": False})}).ready()
    tasks.sleep.delay(3, 5)
    eventually(lambda: other.metric("greenworker_threads_busy") == 1, "it runs")
    eventually(lambda: redis_broker.client().hlen("unacked") == 0, "the app asked for early acknowledgement")


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_all_lines_are_json_where_the_apps_are(
    redis_broker: Redis, start_worker: Start, client_app: Any, pool: str
) -> None:
    """Ours about a task that blocks the hub, and those of a drain; the banner is left out."""
    tasks = client_app(redis_broker.url)
    worker = start_worker(
        redis_broker.url, app="json_app", pool=pool, arguments=["-c", "1"] if pool == "prefork" else [],
        environment={"PYTHONWARNINGS": "ignore", "CELERY_RESULT_BACKEND": "rediss://localhost:1/0?ssl_cert_reqs=none"},
    ).ready()  # fmt: skip
    tasks.noop.delay(1)
    tasks.spin.delay(0.6)
    eventually(lambda: "spun" in worker.log.read_text(), "both are done")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    said = " ".join(line["message"] for line in lines if line["logger"] == "greenworker")
    assert "certificate is not checked" in said
    assert "arm shutdown" in said
    assert pool == "prefork" or "green_app.spin" in said


def test_a_result_backend_that_cannot_be_read_leaves_no_part_of_its_password(
    redis_broker: Redis, start_worker: Start
) -> None:
    worker = start_worker(
        redis_broker.url, environment={"CELERY_RESULT_BACKEND": "redis://:hunter2/s3cret@127.0.0.1:1/0"}
    )
    assert worker.wait(30) == 78
    said = json.loads(worker.termination_log.read_text())
    assert said["field"] == "resultBackend.urlFrom"
    for text in (worker.termination_log.read_text(), worker.log.read_text()):
        assert "hunter2" not in text
        assert "s3cret" not in text


def test_what_ends_a_worker_is_left_in_one_line_without_passwords(redis_broker: Redis, start_worker: Start) -> None:
    """Kubernetes shows the termination message, and no part of the log in its place."""
    setting = "{'worker_timer': 'no_such_module:redis://:hunter2/s3cret@host'}"
    worker = start_worker(redis_broker.url, environment={"APP_CONF": setting})
    assert worker.wait(30) not in (0, 78)
    [line] = worker.termination_log.read_text().splitlines()
    assert "Error" in line
    assert "no_such_module" in line
    assert "hunter2" not in line
    assert "s3cret" not in line


def test_a_wrapper_that_instruments_starts_the_worker_and_patching_still_comes_first(
    start_worker: Start, redis_broker: Redis, client_app: Any, tmp_path: Path
) -> None:
    """`worker.wrapper: [opentelemetry-instrument]`, the real one: its sitecustomize imports Celery and redis before any
    program runs.
    """
    tools = python_tool(REPOSITORY / "requirements" / "opentelemetry.lock").parent
    [packages] = tools.parent.glob("lib/python3*/site-packages")
    _, _, script = (tools / "opentelemetry-instrument").read_text().partition("\n")
    wrapper = tmp_path / "opentelemetry-instrument"  # as in an image: with the interpreter of the worker
    wrapper.write_text(f"#!{sys.executable}\n{script}")
    wrapper.chmod(0o755)
    worker = start_worker(
        redis_broker.url,
        command=[str(wrapper), sys.executable, "-m", "greenworker"],
        environment={
            "PYTHONPATH": str(packages),
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
        threads=20,
    ).ready()
    app = client_app(redis_broker.url)
    for number in range(20):
        app.sleep.delay(number, 1.0)
    eventually(lambda: worker.metric("greenworker_threads_busy") == 20, "twenty tasks wait in green threads at once")
    eventually(lambda: worker.journal.done() == 20, "all are done")
    eventually(lambda: "run/" in worker.tail(2000), "the instrumentation saw the tasks run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()


ENTRYPOINT = """#!/bin/sh
# As images have it: each file of a directory is a variable of its name.
set -eu
for file in "$SECRETS"/*; do
  export "$(basename "$file")=$(cat "$file")"
done
exec "$@"
"""


@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_an_entrypoint_that_loads_secrets_starts_the_worker_with_them_and_hands_it_its_signals(
    start_worker: Start, redis_broker: Redis, client_app: Any, tmp_path: Path, pool: str
) -> None:
    """`worker.wrapper: [/entrypoint.sh]`: the worker is the same process, finds the broker and a setting of the tasks
    in what the script has loaded, is patched first, and drains when the kubelet ends the script.
    """
    secrets, wrapper = tmp_path / "secrets of the image", tmp_path / "entrypoint.sh"
    secrets.mkdir()
    journal = tmp_path / 'a "journal" with $HOME'
    (secrets / "CELERY_BROKER_URL").write_text(f"{redis_broker.url}\n")
    (secrets / "JOURNAL").write_text(f"{journal}\n")
    wrapper.write_text(ENTRYPOINT)
    wrapper.chmod(0o755)
    worker = start_worker(
        "redis://:not-the-password@127.0.0.1:1/0",
        command=[str(wrapper), sys.executable, "-m", "greenworker"],
        environment={"SECRETS": str(secrets), "JOURNAL": ""},
        pool=pool,
        threads=20,
        arguments=["-c", "2"] if pool == "prefork" else [],
    ).ready()
    assert worker.process is not None
    assert b"greenworker" in Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
    at_once = 20 if pool == "eventlet" else 2
    app = client_app(redis_broker.url)
    for number in range(at_once):
        app.sleep.delay(number, 3.0)
    eventually(lambda: journal.exists() and journal.read_text().count("start") == at_once, "all run at once")
    assert "done" not in journal.read_text()
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.tail()
    assert journal.read_text().count("done") == at_once
    assert redis_broker.client().hlen("unacked") == 0
