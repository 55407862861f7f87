"""Real operators that start in a fifth of a second: this process imports everything once, and forks for each operator.

A line of JSON on standard input asks for one: {"arguments": [...], "environment": {...}, "log": path}. The answer is
its process id. Each is a process of its own that runs what `greenfleet operator` runs. It ends by a signal, and no
parent catches what it leaves. At the end of standard input all of them are killed.

`--hasty` shortens what an operator waits for by a constant and not by a setting: `HASTY` says which and to what.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HASTY = {
    "a watch is silent": 6.0,
    "pools are compared with a list": 3.0,
    "all is applied again": 20.0,
    "an exporter's successor is ready": 1,
}
"""Seconds, in place of 70, 15, 600 and 30."""


class Nursery:
    """The side of the test."""

    def __init__(self, *, hasty: bool = True) -> None:
        command = [sys.executable, "-m", "tests.faults.operator.nursery", *(["--hasty"] if hasty else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()

    def start(self, arguments: list[str], environment: dict[str, str], log: Path) -> int:
        """The process id of a new operator."""
        asked = json.dumps({"arguments": arguments, "environment": environment, "log": str(log)})
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(asked, file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())

    def close(self) -> None:
        """Nothing that was started here is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def _make_hasty() -> None:
    from greenfleet import app
    from greenfleet.controller import controller, pool_list
    from greenfleet.k8s import client
    from greenfleet.manifests import exporter

    silence, compare, resync, overlap = HASTY.values()
    exporter.OVERLAP_SECONDS = overlap
    app.SILENCE_SECONDS = client.SILENCE_SECONDS = silence
    defaults: Any = client.Client.__init__.__kwdefaults__
    defaults["silence_seconds"] = silence
    pool_list._COMPARE_SECONDS, controller._RESYNC_SECONDS = compare, resync


def _run(asked: dict[str, Any]) -> None:
    """In the child."""
    from greenfleet.cli.main import main

    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.environ.update(asked["environment"])
    random.seed()
    code = 1
    try:
        code = main(asked["arguments"])
    finally:
        os._exit(code)


def serve() -> None:
    """Until standard input ends."""
    import greenfleet.app
    import greenfleet.cli.main  # noqa: F401 - imported for the children

    if "--hasty" in sys.argv:
        _make_hasty()
    gc.freeze()
    children: set[int] = set()
    for line in sys.stdin:
        children -= _ended(children)
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        children.add(child)
        print(child, flush=True)
    for child in children - _ended(children):
        os.kill(child, signal.SIGKILL)


def _ended(children: set[int]) -> set[int]:
    """Those that have ended; their ids are free from now on."""
    return {child for child in children if os.waitpid(child, os.WNOHANG)[0]}


if __name__ == "__main__":
    serve()
