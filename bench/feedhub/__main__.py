"""The feed hub: feeds per second, memory and CPU per feed of one worker, against stock Celery, dramatiq and raw
GreenPool.

Feeds are fetched by one HTTP client (`bench.peers.fetch`) from one server in a process of its own, which also counts
them. A window of seconds is measured once the pool is full. The last line is one JSON object; docs/worker-bench.md
says what each key is. Absolute figures depend on the machine; the ratios within one run are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.feedhub import plot
from bench.feedhub.server import LATENCY_SECONDS
from bench.machine import Cores, Patience, cpu_seconds, end_in_order, proportional_mb, resident_mb
from bench.peers.lanes import Lane, start_broker
from bench.peers.variants import Running, Variant
from tests.integration.worker.harness import eventually
from tests.ports import free_port

MEAN_LATENCY_SECONDS = sum(LATENCY_SECONDS) / 2
SIZES = (100, 500, 1000)
"""Green threads. With the first nobody but stock Celery on Redis needs 70 % of a core; with the others it is
the limit.
"""

SETTLE_SECONDS = 1.5
"""Between the first full pool and the window."""

MOST_MESSAGES = 14_000
"""Filling a queue takes time, too: a worker that empties it sooner has a shorter window."""

NAMES = {"redis": "Redis", "rabbitmq": "RabbitMQ"}


@dataclass(frozen=True)
class Row:
    """One run."""

    label: str
    threads: int
    feeds_per_second: float
    cpu_ms: float
    core: float
    """Share of a core that the worker's processes used."""
    resident_mb: float
    proportional_mb: float


class Feeds:
    """The server, as seen from outside."""

    def __init__(self, cores: frozenset[int]) -> None:
        self.port = free_port()
        server = Path(__file__).parent / "server.py"
        self.process = subprocess.Popen([sys.executable, str(server), str(self.port)])
        os.sched_setaffinity(self.process.pid, cores)
        eventually(self.answers, "the server of feeds answers")

    def answers(self) -> bool:
        try:
            self.stats()
        except OSError:
            return False
        return True

    def stats(self) -> dict[str, float]:
        """served (feeds), at (seconds), cpu (seconds)."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=20) as response:
            found: dict[str, float] = json.load(response)
            return found

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def green(size: int, brokers: Sequence[str]) -> Iterator[Variant]:
    """Those that one process runs on one core; what is compared comes one after the other."""
    yield Variant("raw GreenPool", "raw", "", size)
    for broker in brokers:
        name = NAMES[broker]
        yield Variant(f"this worker, {name}", "ours", broker, size)
        yield Variant(f"dramatiq-gevent, {name}", "dramatiq", broker, size, pool="gevent")
        yield Variant(f"stock eventlet, {name}", "celery", broker, size)
        yield Variant(f"stock gevent, {name}", "celery", broker, size, pool="gevent")


def prefork() -> Iterator[Variant]:
    """Stock Celery's prefork may use both cores: it never fills one."""
    for processes in (2, 4, 8):
        yield Variant(f"stock prefork {processes}, RabbitMQ", "celery", "rabbitmq", processes, pool="prefork", cores=2)


@dataclass(frozen=True)
class Place:
    """Where the runs of one bench happen."""

    servers: dict[str, Any]
    feeds: Feeds
    directory: Path
    cores: Cores


def run(variant: Variant, place: Place, seconds: float) -> Row:
    """Fill a queue, start the worker, wait until its threads are all busy, measure a window."""
    servers, feeds, cores = place.servers, place.feeds, place.cores
    lane = Lane(variant.broker, servers[variant.broker], variant.framework) if variant.broker else None
    filled = messages(variant, seconds)
    if lane is not None:
        lane.fill("feed", filled)
    before = feeds.stats()["served"]
    used = cores.every if variant.cores > 1 else cores.workers
    worker = Running.start(variant, lane, place.directory, used, feeds.port)
    try:
        deadline = monotonic() + 90
        while feeds.stats()["served"] < before + 2 * variant.threads:
            worker.check()
            if monotonic() > deadline:
                raise RuntimeError(
                    f"{variant.label} with {variant.threads} threads does not fetch; its log: {worker.log}"
                )
            sleep(0.05)
        sleep(SETTLE_SECONDS)
        pids = worker.pids()
        first, cpu_first = feeds.stats(), cpu_seconds(pids)
        last = first
        while last["at"] - first["at"] < seconds:
            sleep(min(0.5, seconds - (last["at"] - first["at"])))
            cpu_last, last = cpu_seconds(pids), feeds.stats()
            if lane is not None and last["served"] - before > filled - 3 * variant.threads:
                break  # faster than was thought; the queue must not run dry
        elapsed, done = last["at"] - first["at"], last["served"] - first["served"]
        if done <= 0 or elapsed < 1:
            raise RuntimeError(f"{variant.label} emptied the queue before it could be measured")
        if last["cpu"] - first["cpu"] > 0.5 * elapsed:
            print("  the server of feeds needed more than half a core: it may be what was measured", file=sys.stderr)
        cpu = cpu_last - cpu_first
        return Row(
            variant.label, variant.threads, done / elapsed, 1000 * cpu / done, cpu / elapsed, resident_mb(pids),
            proportional_mb(pids),
        )  # fmt: skip
    finally:
        worker.stop()
        if lane is not None:
            lane.drop()


def messages(variant: Variant, seconds: float) -> int:
    """As many as the window, the start and a full pool need at the most."""
    fastest = variant.threads / MEAN_LATENCY_SECONDS
    return min(MOST_MESSAGES, int(fastest * (seconds + SETTLE_SECONDS + 2))) + 5 * variant.threads


@contextmanager
def brokers(wanted: Sequence[str], root: Path) -> Iterator[dict[str, Any]]:
    """Started, and ended whatever happens."""
    servers: dict[str, Any] = {}
    try:
        for name in wanted:
            servers[name] = start_broker(name, root / name)
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def main() -> None:
    """The whole bench: at most ten minutes on two cores, with ``--quick`` two."""
    parser = argparse.ArgumentParser(prog="python -m bench.feedhub", description=__doc__)
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=SIZES)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=["redis", "rabbitmq"])
    parser.add_argument("--variants", default="", help="only those whose label contains this")
    parser.add_argument("--quick", action="store_true", help="100 green threads only, 3 s each")
    parser.add_argument("--patience", type=float, default=120, help="seconds to measure again what others disturbed")
    parser.add_argument("--plot", type=Path, help="write the picture here (PNG)")
    options = parser.parse_args()
    end_in_order()
    if options.quick:
        options.sizes, options.seconds, options.rounds = (100,), 3.0, 1
    wanted = [options.only] if options.only else ["redis", "rabbitmq"]
    chosen = [variant for size in options.sizes for variant in green(size, wanted)]
    chosen += prefork() if "rabbitmq" in wanted else ()
    chosen = [variant for variant in chosen if options.variants in variant.label]
    patience = Patience(min(20, options.patience) if options.quick else options.patience)
    cores = Cores.split()
    os.sched_setaffinity(0, cores.rest)  # the brokers inherit it
    print(
        f"workers on CPU {sorted(cores.workers)} (prefork on all), brokers and server on {sorted(cores.rest)}",
        flush=True,
    )
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name, brokers(wanted, Path(name)) as servers:
        feeds = Feeds(cores.rest)
        try:
            for _ in range(options.rounds):
                for variant in chosen:
                    place = Place(servers, feeds, Path(name), cores)
                    row = patience.measure(partial(run, variant, place, options.seconds))
                    found.append(row)
                    print(line(row), flush=True)
        finally:
            feeds.stop()
    rows = medians(found)
    print("\n" + table(rows))
    if options.plot:
        plot.draw([asdict(row) for row in rows], options.plot, MEAN_LATENCY_SECONDS)
    if patience.disturbed:
        print(f"{patience.disturbed} measurements were disturbed by others; see above")
    print(json.dumps(summary(rows)))


def line(row: Row) -> str:
    """For a person who watches."""
    return (
        f"{row.label:28} {row.threads:5} {row.feeds_per_second:7.0f} feeds/s {row.cpu_ms:6.2f} ms CPU/feed "
        f"{100 * row.core:4.0f} % of a core {row.resident_mb:5.0f} MB"
    )


def medians(found: Sequence[Row]) -> list[Row]:
    """Of each figure, over the rounds."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in found:
        groups.setdefault((row.label, row.threads), []).append(row)
    return [
        replace(
            rows[0],
            **{
                name: statistics.median(getattr(row, name) for row in rows)
                for name in ("feeds_per_second", "cpu_ms", "core", "resident_mb", "proportional_mb")
            },
        )
        for rows in groups.values()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown, as docs/worker-bench.md has it."""
    lines = [
        "| worker | threads | feeds/s | CPU per feed, ms | of a core | RSS, MB | PSS, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.label} | {row.threads:,} | {row.feeds_per_second:,.0f} | {row.cpu_ms:.2f} | {100 * row.core:.0f} % "
        f"| {row.resident_mb:.0f} | {row.proportional_mb:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The keys of docs/worker-bench.md; None for what this run did not measure."""
    by_key = {(row.label, row.threads): row for row in rows}
    sizes = sorted({row.threads for row in rows if row.label.startswith("this worker")})

    def ratio(above: str, below: str, size: int, field: str = "feeds_per_second") -> float | None:
        over, under = by_key.get((above, size)), by_key.get((below, size))
        return round(getattr(over, field) / getattr(under, field), 3) if over and under else None

    def of_each(below: str, field: str = "feeds_per_second") -> dict[str, dict[str, float | None]]:
        return {
            broker: {
                str(size): ratio(f"this worker, {name}", below.format(name), size, field) for size in sizes
            }
            for broker, name in NAMES.items()
        }  # fmt: skip

    ours = [row for row in rows if row.label.startswith("this worker")]
    best = max(ours, key=lambda row: row.feeds_per_second, default=None)
    per_process = by_key.get(("stock prefork 2, RabbitMQ", 2))
    eight = by_key.get(("stock prefork 8, RabbitMQ", 8))
    # A worker that others starve uses little of a core, too: only where the bare GreenPool waits for nothing but feeds.
    waiting = {
        row.threads
        for row in rows
        if row.label == "raw GreenPool" and row.feeds_per_second > 0.9 * row.threads / MEAN_LATENCY_SECONDS
    }
    roomy = [row for row in ours if row.core < 0.7 and row.threads in waiting]
    shares = [ratio(row.label, "raw GreenPool", row.threads) for row in roomy]
    vs_dramatiq = of_each("dramatiq-gevent, {}")
    return {
        "feeds_per_second": round(best.feeds_per_second, 1) if best else None,
        "vs_prefork_per_core": round(best.feeds_per_second / (per_process.feeds_per_second / 2), 1)
        if best and per_process
        else None,
        "vs_prefork_8_processes": round(best.feeds_per_second / eight.feeds_per_second, 1) if best and eight else None,
        "vs_prefork_per_cpu_second": round(per_process.cpu_ms / best.cpu_ms, 2) if best and per_process else None,
        "vs_prefork_8_per_mb": round(
            best.feeds_per_second / best.proportional_mb / (eight.feeds_per_second / eight.proportional_mb), 1
        )
        if best and eight
        else None,
        "vs_dramatiq": lowest(value for values in vs_dramatiq.values() for value in values.values()),
        "vs_raw_greenpool": lowest(shares),
        "vs_dramatiq_by_threads": vs_dramatiq,
        "vs_raw_greenpool_by_threads": of_each("raw GreenPool"),
        "cpu_per_feed_vs_dramatiq": of_each("dramatiq-gevent, {}", "cpu_ms"),
        "cpu_per_feed_vs_raw_greenpool": of_each("raw GreenPool", "cpu_ms"),
    }


def lowest(values: Any) -> float | None:
    """The worst of them; a mean would hide it."""
    return min((value for value in values if value is not None), default=None)


if __name__ == "__main__":
    main()
