"""No-op tasks: tasks per second and CPU per task of one worker, ours and stock, interleaved.

The last line is one JSON object. Absolute figures depend on the machine; the ratios are what counts.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.connection import Connection

from tests.integration.worker.harness import RabbitMQ, Redis, free_port

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
TUNED: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "result_backend_thread_safe": True,
}
LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class Variant:
    """One way to run the same tasks."""

    name: str
    broker: str
    stock: bool
    conf: dict[str, Any]
    options: tuple[str, ...] = LEAN
    tasks: int | None = None


@dataclass(frozen=True)
class Result:
    """Of one run."""

    per_second: float
    cpu_ms: float
    resident_mb: float


class Lane:
    """A queue of one broker, filled and watched."""

    numbers = itertools.count(1)

    def __init__(self, broker: str, server: Any) -> None:
        self.broker, self.server = broker, server
        self.name = f"bench{next(self.numbers)}"
        self.queue: Any = self.name
        if broker == "rabbitmq":
            self.queue = Queue(
                self.name, Exchange(self.name), routing_key=self.name, queue_arguments={"x-queue-type": "classic"}
            )

    def fill(self, count: int) -> None:
        app = Celery("producer", broker=self.server.url, set_as_current=False)
        app.conf.task_ignore_result = True
        with app.connection_for_write() as connection, app.amqp.Producer(connection, auto_declare=True) as producer:
            for number in range(count):
                app.send_task("noop_app.noop", (number,), queue=self.queue, producer=producer)
        app.close()

    def left(self) -> int:
        if self.broker == "redis":
            client = self.server.client()
            return int(client.llen(self.name)) + int(client.hlen("unacked"))
        with Connection(self.server.url) as connection:
            return int(connection.channel().queue_declare(self.name, passive=True).message_count)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(variant: Variant, server: Any, tasks: int, threads: int, directory: Path) -> Result:
    lane = Lane(variant.broker, server)
    count = variant.tasks or tasks
    lane.fill(count)
    start_file = directory / "threads"
    start_file.write_text(str(threads))
    environment = {
        **os.environ,
        "CELERY_BROKER_URL": server.url,
        "BENCH_CONF": repr(variant.conf),
        "BENCH_QUEUE": lane.name,
        "BENCH_KIND": "classic" if variant.broker == "rabbitmq" else "",
        "GREENWORKER_POOL": "bench/bench",
        "GREENWORKER_METRICS_PORT": str(free_port()),
        "GREENWORKER_START_FILE": str(start_file),
        "GREENWORKER_THREADS_FILE": str(directory / "none"),
        "GREENWORKER_TERMINATION_LOG": str(directory / "termination"),
    }
    module = "celery" if variant.stock else "greenworker"
    command = [
        sys.executable, "-m", module, "-A", "noop_app", "worker", "-P", "eventlet", "-Q", lane.name,
        "-n", f"{lane.name}@%h", "-l", "WARNING", *variant.options, *(["-c", str(threads)] if variant.stock else []),
    ]  # fmt: skip
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=log, stderr=log)
    try:
        begin_at = wait_until(lambda: lane.left() <= count * 0.9, process, 120)
        first, cpu_first, left_first = begin_at, cpu_seconds(process.pid), lane.left()
        end_at = wait_until(lambda: lane.left() <= count * 0.02, process, 600)
        cpu_last, left_last = cpu_seconds(process.pid), lane.left()
        done = left_first - left_last
        return Result(done / (end_at - first), 1000 * (cpu_last - cpu_first) / done, resident_mb(process.pid))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if variant.broker == "redis":
            server.client().flushall()


def wait_until(condition: Any, process: subprocess.Popen[bytes], seconds: float) -> float:
    deadline = monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise RuntimeError("the worker ended; see its log")
        if monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s")
        sleep(0.05)
    return monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["redis", "rabbitmq"])
    parser.add_argument("--without-default", action="store_true", help="skip stock Celery's defaults on RabbitMQ")
    options = parser.parse_args()
    redis_conf = {**TUNED, "worker_disable_prefetch": True}
    redis_conf["broker_transport_options"] = {"max_connections": options.threads + 50, "unacked_restore_throttle": 1}
    variants = [
        Variant("ours", "redis", False, {}),
        Variant("stock, tuned", "redis", True, redis_conf),
        Variant("ours", "rabbitmq", False, {}),
        Variant("stock, tuned", "rabbitmq", True, TUNED),
    ]
    if not options.without_default:
        variants.append(Variant("stock, defaults", "rabbitmq", True, {}, options=(), tasks=700))
    variants = [variant for variant in variants if options.only in (None, variant.broker)]
    results: dict[tuple[str, str], list[Result]] = {(variant.broker, variant.name): [] for variant in variants}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        servers: dict[str, Any] = {}
        try:
            for broker, kind in (("redis", Redis), ("rabbitmq", RabbitMQ)):
                if options.only in (None, broker):
                    (root / broker).mkdir()
                    servers[broker] = kind(root / broker)
            for number in range(options.rounds):
                for variant in variants:
                    if variant.tasks and number:
                        continue
                    result = run(variant, servers[variant.broker], options.tasks, options.threads, root)
                    results[variant.broker, variant.name].append(result)
                    print(
                        f"{variant.broker:9} {variant.name:16} {result.per_second:8.0f}/s {result.cpu_ms:6.2f} ms CPU/task "
                        f"{result.resident_mb:5.0f} MB",
                        flush=True,
                    )
        finally:
            for server in servers.values():
                server.stop()
    print(json.dumps(summary(results)))


def summary(results: dict[tuple[str, str], list[Result]]) -> dict[str, float | None]:
    def rate(broker: str, name: str) -> float | None:
        found = results.get((broker, name))
        return statistics.median(result.per_second for result in found) if found else None

    def cpu(broker: str, name: str) -> float | None:
        found = results.get((broker, name))
        return statistics.median(result.cpu_ms for result in found) if found else None

    def ratio(above: float | None, below: float | None) -> float | None:
        return round(above / below, 3) if above and below else None

    overhead = ratio(cpu("rabbitmq", "ours"), cpu("rabbitmq", "stock, tuned"))
    return {
        "agent_cpu_overhead": round(overhead - 1, 3) if overhead else None,
        "rabbitmq_speedup_vs_default": ratio(rate("rabbitmq", "ours"), rate("rabbitmq", "stock, defaults")),
        "rabbitmq_speedup_vs_tuned": ratio(rate("rabbitmq", "ours"), rate("rabbitmq", "stock, tuned")),
        "redis_speedup_vs_stock": ratio(rate("redis", "ours"), rate("redis", "stock, tuned")),
        "redis_cpu_vs_stock": ratio(cpu("redis", "ours"), cpu("redis", "stock, tuned")),
        "redis_vs_dramatiq": None,
        "rabbitmq_vs_dramatiq": None,
    }


if __name__ == "__main__":
    main()
