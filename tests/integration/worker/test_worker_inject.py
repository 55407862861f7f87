"""The injected agent in somebody else's image: another layout, another user, a read-only root, libraries of their own.

The image is a real environment with Celery (with its extra for Redis) and Eventlet and nothing else, at versions that
pip chose; the root is a bind mount of this machine's, remounted read-only in a mount namespace of its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.harness import PYTHON, Redis, Worker, eventually

Start = Callable[..., Worker]

USER = 12345
SEE_ALL = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
"""The test's interpreter may lie where only its owner may look; writing is not among these rights."""

APP = """
import os
import sys

import prometheus_client
from celery import Celery

app = Celery("shop", include=["shop.orders.tasks"])
"""
TASKS = """
import importlib.metadata
import os
import socket
import sys

from shop.celery import app


@app.task
def order(number):
    try:
        with open("/written-by-the-task", "w"):
            root = "writable"
    except OSError:
        root = "read-only"
    facts = [
        f"done {number}",
        f"user {os.getuid()}",
        f"root {root}",
        f"prometheus {importlib.metadata.version('prometheus-client')}",
        f"cwd {os.getcwd()}",
        f"patched {socket.socket.__module__.startswith('eventlet')}",
        f"ours-last {sys.path[-1].endswith('/greenfleet/lib')}",
    ]
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write("\\n".join(facts) + "\\n")
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``venv`` and ``srv/project/src/shop`` with the app inside a package."""
    image = tmp_path_factory.mktemp("image")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(image / "venv")], check=True)
    install(image, "celery[redis]", "eventlet")
    package = image / "srv" / "project" / "src" / "shop"
    (package / "orders").mkdir(parents=True)
    (package / "__init__.py").write_text("from shop.celery import app\n")
    (package / "celery.py").write_text(APP)
    (package / "orders" / "__init__.py").touch()
    (package / "orders" / "tasks.py").write_text(TASKS)
    for parent in (image, *image.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(image / "greenfleet")], check=True)
    return image


def install(image: Path, *packages: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(image / "venv" / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.5.0", "0.26.0"])
def test_works_in_an_image_that_knows_nothing_of_it(  # noqa: PLR0917
    image: Path, version: str, redis_broker: Redis, start_worker: Start, client_app: Any, tmp_path: Path
) -> None:
    install(image, f"prometheus-client=={version}")
    project, root, writable = image / "srv" / "project", tmp_path / "root", tmp_path / "worker"
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    for directory in (root, writable):
        directory.mkdir()
    writable.chmod(0o777)
    (writable / "journal").touch()
    (writable / "journal").chmod(0o666)
    python, launcher = image / "venv" / "bin" / "python", image / "greenfleet" / "bin" / "launch.py"
    enter = f"""
        mount --make-rprivate / && mount --bind / {root} && mount -o remount,ro,bind {root}
        mount --bind {writable} {root}{writable} && mount --rbind /proc {root}/proc && mount --rbind /dev {root}/dev
        exec chroot {root} setpriv --reuid={USER} --regid={USER} --clear-groups {SEE_ALL} \\
            env -C {shlex.quote(str(project))} {python} {launcher} "$@"
    """
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-ec", enter, "sh"]
    worker = start_worker(
        redis_broker.url, app="shop", command=namespace, cwd=project,
        environment={"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"},
    ).ready()  # fmt: skip
    client_app(redis_broker.url).app.send_task("shop.orders.tasks.order", [1], queue="feeds")
    eventually(worker.journal.done, "the order is done", more=worker.tail)
    facts = {"user": str(USER), "root": "read-only", "prometheus": version, "cwd": str(project), "patched": "True"}
    facts["ours-last"] = "True"
    assert {name: next(iter(worker.journal.counts(name))) for name in facts} == facts
    worker.reaches("greenworker_tasks_finished_total", 1, task="shop.orders.tasks.order")
    worker.resize(33)
    eventually(lambda: worker.metric("greenworker_threads_limit") == 33, "it follows the threads file")
