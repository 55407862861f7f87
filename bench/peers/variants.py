"""The workers that are compared, each as its own documentation and our measurements say it runs best.

Stock Celery's tuning is that of docs/worker-bench.md: the six settings without which its green pools lose messages,
double them or crawl. dramatiq keeps its own defaults (prefetch of twice its threads; retries, age and time limits); one
process each, for one core.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import session
from bench.peers.lanes import HERE, Lane
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
TUNED: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "result_backend_thread_safe": True,
}
LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def tuned(broker: str, threads: int, pool: str) -> dict[str, Any]:
    """Stock Celery's settings; its green pools get as many connections to Redis as they acknowledge at once."""
    if pool == "prefork":
        return TUNED | {"worker_prefetch_multiplier": 4}
    if broker != "redis":
        return TUNED
    options = {"max_connections": threads + 50, "unacked_restore_throttle": 1}
    return {**TUNED, "worker_disable_prefetch": True, "broker_transport_options": options}


@dataclass(frozen=True)
class Variant:
    """One way to run the tasks: *kind* is ours, celery, dramatiq or raw; *pool* is Celery's or dramatiq's name
    for it.
    """

    label: str
    kind: str
    broker: str
    threads: int
    pool: str = "eventlet"
    defaults: bool = False
    """Stock Celery as it comes, untuned."""
    tasks: int | None = None
    """Instead of as many as the others get."""
    cores: int = 1

    @property
    def framework(self) -> str:
        """Whose message format it reads."""
        return "dramatiq" if self.kind == "dramatiq" else "celery"

    def command(self, lane: Lane | None) -> list[str]:
        """To be run in the directory of the apps."""
        if self.kind == "raw" or lane is None:
            return [sys.executable, "raw.py", str(self.threads)]
        if self.kind == "dramatiq":
            script = "dramatiq-gevent" if self.pool == "gevent" else "dramatiq"
            program = str(Path(sys.executable).parent / script)
            return [program, "actors", "--processes", "1", "--threads", str(self.threads), "--queues", lane.name]
        module = "greenworker" if self.kind == "ours" else "celery"
        command = [
            sys.executable, "-m", module, "-A", "celery_app", "worker", "-P", self.pool, "-Q", lane.name,
            "-n", f"{lane.name}@%h", "-l", "WARNING",
        ]  # fmt: skip
        if not self.defaults:
            command += LEAN
        if self.kind != "ours" or self.pool == "prefork":
            command += ["-c", str(self.threads)]
        return command

    def environment(self, lane: Lane | None, directory: Path, feeds_port: int) -> dict[str, str]:
        """Besides what the bench's own process has."""
        own = {**os.environ, "BENCH_FEEDS_PORT": str(feeds_port), "PYTHONPATH": str(ROOT / "worker")}
        if lane is None:
            return own
        own |= lane.environment()
        if self.kind == "celery" and not self.defaults:
            own["BENCH_CONF"] = json.dumps(tuned(self.broker, self.threads, self.pool))
        if self.kind != "dramatiq":
            own["CELERY_BROKER_URL"] = lane.server.url
        if self.kind == "ours":
            start_file = directory / "threads"
            start_file.write_text(str(self.threads))
            own |= {
                "GREENWORKER_POOL": "bench/bench",
                "GREENWORKER_ROLE": self.pool,
                "GREENWORKER_METRICS_PORT": str(free_port()),
                "GREENWORKER_START_FILE": str(start_file),
                "GREENWORKER_THREADS_FILE": str(directory / "none"),
                "GREENWORKER_TERMINATION_LOG": str(directory / "termination"),
            }
        return own


@dataclass
class Running:
    """A variant's processes."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, variant: Variant, lane: Lane | None, directory: Path, cores: frozenset[int], feeds_port: int = 0
    ) -> Running:
        """On *cores*, in a session of its own."""
        log = directory / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                variant.command(lane), cwd=HERE, env=variant.environment(lane, directory, feeds_port),
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        os.sched_setaffinity(process.pid, cores)  # it has not made any thread or child yet
        return cls(process, log)

    def pids(self) -> list[int]:
        """The worker's, its children's included."""
        return session(self.process.pid)

    def check(self) -> None:
        """RuntimeError with the end of the log if the worker has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{tail}")

    def stop(self) -> None:
        """At once: there is nothing to save, the lane is dropped."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
