"""The beat as it lies in `examples/`, against a real broker and a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.integration.worker.harness import Redis, Worker, eventually

REPOSITORY = Path(__file__).resolve().parents[3]
APPS = Path(__file__).parent / "apps"
Start = Callable[..., Worker]


def test_the_beat_of_the_example_feeds_a_pool_and_there_is_never_a_second(
    start_worker: Start, redis_broker: Redis, tmp_path: Path
) -> None:
    deployment = yaml.safe_load((REPOSITORY / "examples" / "beat.yaml").read_text())
    pool = yaml.safe_load((REPOSITORY / "examples" / "minimal.yaml").read_text())["spec"]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == pool["image"]
    [broker] = container["env"]
    assert broker["valueFrom"] == pool["broker"]["urlFrom"]
    here = {"python3": sys.executable, "proj": "green_app", "/tmp/beat-schedule": str(tmp_path / "schedule")}  # noqa: S108
    command = [here.get(word, word) for word in container["command"]]
    schedule = {"often": {"task": "green_app.noop", "schedule": 0.5, "args": (1,)}}
    environment = {
        **os.environ,
        broker["name"]: redis_broker.url,
        "APP_CONF": repr({"beat_schedule": schedule}),
        "JOURNAL": str(tmp_path / "unused"),
    }
    worker = start_worker(redis_broker.url).ready()
    beat = subprocess.Popen(
        command, cwd=APPS, env=environment, stdout=(tmp_path / "beat.log").open("ab"), stderr=subprocess.STDOUT
    )
    try:
        eventually(
            lambda: sum(worker.journal.counts("done").values()) >= 3,
            "periodic tasks run in the pool",
            40,
        )
    finally:
        beat.terminate()
        beat.wait(20)
