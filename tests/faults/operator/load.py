"""Many pools and many changes of them: does the operator keep its size, and how soon does a change arrive?

python -m tests.faults.operator.load --pools 3000 --changes 50 --seconds 600                  # the whole cluster
python -m tests.faults.operator.load --pools 3000 --changes 50 --seconds 600 --namespaces 10  # ten, each by name

Each change is another image for a pool drawn by chance; it has arrived when the API server tells of a Deployment with
that image. The last line is one JSON object. The status is 1 if memory, file descriptors, threads or asyncio tasks have
grown from the second quarter of the time to the last by more than a tenth (and more than a few), if more of the last
three are left at rest than there were before the first change, if a change did not arrive, or if the operator's size
was not measured to the end.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

import urllib3

from bench.operator.__main__ import QUEUES, Bench, resident_mib, say
from tests.integration.operator.harness import POOLS, Api, Operator, control_plane, define_pools

CLUSTER = os.environ.get("GREENFLEET_TESTS_CLUSTER", "greenfleet-faults-load")
IMAGE = "registry.example/proj:"
SAMPLE_SECONDS = 5.0
ARRIVES_SECONDS = 120.0
"""After the last change."""
ANSWER_SECONDS = 60.0
"""An operator that has 3,000 pools to apply may take so long to say how it is."""
SLACK = {"rss_mib": 5.0, "descriptors": 8.0, "threads": 4.0, "tasks": 20.0}
"""So much more may be there at the end besides a tenth. Tasks follow the pace of the changes, and not their number:
kopf has one for each pool of which it heard in the last 5 s, and the operator at most one for each pool's status, one
for each fleet that is written to, and one for each pod that is resized (`Background`, `Booster`).
"""
AT_REST = {"descriptors": 8.0, "threads": 4.0, "tasks": 8.0}
"""The same between two moments at rest: some connections, and the tasks of one tick."""
REST_SECONDS = 15.0
"""After the last change has arrived: kopf's tasks end 5 s after a pool's last event, and a rollout's last status may
follow a few seconds after it.
"""


Pool = tuple[str, str]


class Images:
    """When the API server first told of each image of a pool's Deployment. Images are numbers here."""

    def __init__(self, api: Api) -> None:
        self._seen: dict[Pool, list[tuple[int, float]]] = defaultdict(list)
        self._api = api
        version = api.get(QUEUES, limit="1")["metadata"]["resourceVersion"]
        threading.Thread(target=self._run, args=(version,), daemon=True).start()

    def _run(self, version: str) -> None:
        query = f"watch=true&labelSelector=greenfleet.io%2Frole%3Deventlet&resourceVersion={version}"
        answer = self._api._http.request(
            "GET", f"{self._api.server}{QUEUES}?{query}", preload_content=False, timeout=urllib3.Timeout(read=3600)
        )
        rest = b""
        with suppress(urllib3.exceptions.HTTPError):  # the API server ends before this
            for chunk in answer.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                self._note(lines)

    def _note(self, lines: list[bytes]) -> None:
        for line in lines:
            item = json.loads(line)["object"]
            pool = (item["metadata"]["namespace"], item["metadata"]["labels"]["greenfleet.io/pool"])
            images = [each["image"] for each in item["spec"]["template"]["spec"]["containers"]]
            number = max(int(image.rpartition(":")[2]) for image in images if image.startswith(IMAGE))
            self._seen[pool].append((number, monotonic()))

    def arrived(self, pool: Pool, number: int) -> float | None:
        """When that image, or a later one, was there first."""
        return next((at for seen, at in list(self._seen[pool]) if seen >= number), None)


def size_of(operator: Operator) -> dict[str, float]:
    """Memory, file descriptors, threads and unfinished asyncio tasks of a running operator."""
    assert operator.process is not None
    pid = operator.process.pid
    folder = Path(f"/proc/{pid}")
    return {
        "rss_mib": resident_mib(pid),
        "descriptors": float(len(list((folder / "fd").iterdir()))),
        "threads": float(len(list((folder / "task").iterdir()))),
        "tasks": tasks_of(operator),
    }


def tasks_of(operator: Operator) -> float:
    """Unfinished asyncio tasks, by the operator's own metrics; asks for this one alone."""
    url = f"http://127.0.0.1:{operator.port}/metrics?name[]=python_asyncio_tasks"
    lines = urllib3.request("GET", url, timeout=ANSWER_SECONDS).data.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("python_asyncio_tasks "))


def change(bench: Bench, per_second: float, seconds: float, seed: int) -> list[tuple[Pool, int, float]]:
    """Each change: the pool, the number of its image, and when it was asked for."""
    rng = random.Random(seed)
    begin = monotonic()

    def one(number: int) -> tuple[Pool, int, float]:
        sleep(max(0.0, begin + number / per_second - monotonic()))
        pool = rng.choice(bench.pools)
        with locks[pool]:  # else the later one may be overtaken
            path = f"{POOLS}/namespaces/{pool[0]}/greenworkerpools/{pool[1]}"
            at = monotonic()
            bench.api.merge(path, {"spec": {"image": f"{IMAGE}{number}"}})
        return pool, number, at

    locks = {pool: threading.Lock() for pool in bench.pools}
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, range(2, 2 + int(per_second * seconds))))


def medians(samples: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Of the second quarter of the time, and of the last."""
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    return {name: (median(each[name] for each in before), median(each[name] for each in after)) for name in SLACK}


def grown(samples: list[dict[str, float]]) -> list[str]:
    """What is larger in the last quarter of the time than in the second one."""
    return [
        f"{name}: {first:.0f} to {last:.0f}"
        for name, (first, last) in medians(samples).items()
        if last > 1.1 * first + SLACK[name]
    ]


def too_few(samples: list[dict[str, float]]) -> list[str]:
    """With fewer than four the second quarter and the last are the same one, or none."""
    return [] if len(samples) >= 4 else [f"{len(samples)} samples tell nothing"]


def left(before: dict[str, float], rested: dict[str, float]) -> list[str]:
    """What there is more of at rest after all changes than at rest before them. Not memory: caches stay."""
    return [
        f"{name} at rest: {before[name]:.0f} to {rested[name]:.0f}"
        for name in ("descriptors", "threads", "tasks")
        if rested[name] > 1.1 * before[name] + AT_REST[name]
    ]


def main() -> int:
    """0 if nothing grew and every change arrived."""
    parser = argparse.ArgumentParser(description="many pools, many changes")
    parser.add_argument("--pools", type=int, default=3000)
    parser.add_argument("--changes", type=float, default=50.0, help="a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--namespaces", type=int, default=0, help="so many in namespaced scope (0: the whole cluster)")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="greenfleet-load-"))
    try:
        with control_plane(CLUSTER) as api:
            define_pools(api)
            bench = Bench(api, directory, 1.0, 1, **spread(chosen.pools, chosen.namespaces))
            try:
                line = load(bench, chosen)
            finally:
                bench.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(line), flush=True)
    return 1 if line["grown"] or line["missing"] or line["unknown"] else 0


def spread(pools: int, namespaces: int) -> dict[str, Any]:
    """How the bench spreads pools over *namespaces* of an operator that looks after these only; 0: after all."""
    return {"pools_per_namespace": ceil(pools / namespaces), "namespaced": True} if namespaces else {}


def load(bench: Bench, chosen: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    say(f"{chosen.pools} pools: making them")
    bench.grow(chosen.pools)
    bench.start()
    bench.settle()
    operator = bench.operator
    images = Images(bench.api)
    samples: list[dict[str, float]] = [size_of(operator)]
    stopped = threading.Event()

    failures: list[str] = []

    def sample() -> None:
        try:
            while not stopped.wait(SAMPLE_SECONDS):
                samples.append(size_of(operator))
        except Exception as error:
            failures.append(f"the sampler has ended: {error!r}")

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    say(f"{chosen.changes:g} changes a second for {chosen.seconds:g} s")
    began = monotonic()
    asked = change(bench, chosen.changes, chosen.seconds, chosen.seed)
    took = monotonic() - began
    stopped.set()
    sampler.join()
    say("until the last one has arrived")
    newest = {pool: number for pool, number, _ in asked}
    missing = lambda: [pool for pool, number in newest.items() if images.arrived(pool, number) is None]  # noqa: E731
    until = monotonic() + ARRIVES_SECONDS
    while missing() and monotonic() < until:
        sleep(1.0)
    lost = missing()
    sleep(REST_SECONDS)
    rested = size_of(operator)
    waits = sorted((images.arrived(pool, number) or until) - at for pool, number, at in asked)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pools": chosen.pools,
        "namespaces": len(bench.namespaces),
        "scope": "namespaces" if chosen.namespaces else "cluster",
        "changes": len(asked),
        "per_second": round(len(asked) / took, 1),
        "seconds": round(took),
        "p50_s": round(waits[len(waits) // 2], 2),
        "p99_s": round(waits[ceil(0.99 * len(waits)) - 1], 2),
        "missing": ["/".join(pool) for pool in lost],
        "first": {name: round(value, 1) for name, value in samples[0].items()},
        "second_quarter": {name: round(first, 1) for name, (first, _) in medians(samples).items()},
        "last_quarter": {name: round(last, 1) for name, (_, last) in medians(samples).items()},
        "at_rest": {name: round(value, 1) for name, value in rested.items()},
        "samples": len(samples),
        "unknown": [*failures, *too_few(samples)],
        "grown": [*grown(samples), *left(samples[0], rested)],
    }


if __name__ == "__main__":
    sys.exit(main())
