"""Many pools: what the operator costs and how fast it is with 1, 100, 1,000 and 3,000 of them at a tick of 2 s.

A real API server with etcd and its controllers, a real Prometheus, an exporter process with one queue per pool, and the
operator as a process. Pods never come to be (a quota forbids them), so that the machine measures the operator and no
fleet. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import urllib3

from bench.operator import keda
from tests.integration.operator.harness import (
    POOLS,
    REPOSITORY,
    Api,
    Namespace,
    Object,
    Operator,
    Prometheus,
    control_plane,
    define_pools,
    eventually,
)
from tests.ports import free_port

CLUSTER = "greenfleet-bench-operator"
TICKS = os.sysconf("SC_CLK_TCK")
POOLS_PER_NAMESPACE = 100
TICK_SECONDS = 2.0
SCRAPE_SECONDS = 1
QUEUES = "/apis/apps/v1/deployments"


class Queues:
    """The exporter process, and the Prometheus that scrapes it once per namespace."""

    def __init__(self, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._port = port
        self.process = subprocess.Popen([sys.executable, "-m", "bench.operator.exporter", str(port)], cwd=REPOSITORY)
        self.prometheus = Prometheus(directory / "prometheus", f"{SCRAPE_SECONDS}s")
        eventually(lambda: self._ask("GET", "served/none"), "the exporter answers")

    def _ask(self, method: str, path: str) -> float:
        try:
            request = urllib.request.Request(f"{self.url}/{path}", method=method)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return float(answer.read()) or 1.0
        except OSError:
            return 0.0

    def scrape(self, namespace: str) -> None:
        """From now on Prometheus looks at this namespace's queues."""
        self.prometheus.add(
            namespace, self._port, {"namespace": namespace, "__metrics_path__": f"/metrics/{namespace}"}
        )

    def set(self, pool: tuple[str, str], depth: int) -> float:
        """The Unix time at which the queue had that depth."""
        return self._ask("POST", f"depth/{pool[0]}/{pool[1]}/{depth}")

    def stop(self) -> None:
        self.prometheus.stop()
        self.process.terminate()
        self.process.wait(10)


class Writes:
    """Watches Deployments: when did the API server tell of the first worker of a pool?"""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._seen: dict[tuple[str, str], float] = {}
        self._stopped = False
        listed = api.get(QUEUES, labelSelector="greenfleet.io/role=eventlet", limit="1")
        self._version = listed["metadata"]["resourceVersion"]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        query = f"watch=true&labelSelector=greenfleet.io%2Frole%3Deventlet&resourceVersion={self._version}"
        answer = self._api._http.request(
            "GET", f"{self._api.server}{QUEUES}?{query}", preload_content=False, timeout=urllib3.Timeout(read=600)
        )
        rest = b""
        for chunk in answer.stream(65536):
            if self._stopped:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                item = json.loads(line)["object"]
                key = (item["metadata"]["namespace"], item["metadata"]["labels"]["greenfleet.io/pool"])
                if item["spec"].get("replicas", 0) > 0:
                    self._seen.setdefault(key, time())
                else:
                    self._seen.pop(key, None)

    def seen(self, pool: tuple[str, str]) -> float | None:
        return self._seen.get(pool)

    def stop(self) -> None:
        self._stopped = True


def quota(namespace: str) -> Object:
    """No pod can be made here."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-pods", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }


class Bench:
    """Grows from size to size and measures each. *namespaced*: the operator looks after the namespaces that there are
    when it starts, each by name, and not after the whole cluster.
    """

    def __init__(  # noqa: PLR0917 - the last two are named by everybody
        self,
        api: Api,
        directory: Path,
        seconds: float,
        changes: int,
        pools_per_namespace: int = POOLS_PER_NAMESPACE,
        *,
        namespaced: bool = False,
    ) -> None:
        self.api = api
        self._pools_per_namespace = pools_per_namespace
        self._namespaced = namespaced
        self.directory = directory
        self.seconds = seconds
        self.changes = changes
        self.queues = Queues(directory)
        self.namespaces: list[str] = []
        self.pools: list[tuple[str, str]] = []
        self.home = Namespace(api, "greenfleet-system")
        self.operator = self._operator()

    def _operator(self) -> Operator:
        server = {"url": self.queues.prometheus.url, "scrapeInterval": f"{SCRAPE_SECONDS}s", "timeout": "4s"}
        return Operator(
            self.directory,
            self.home,
            server["url"],
            prometheus={"servers": {"default": server}},
            namespaces=self.namespaces if self._namespaced else [],
            tick=f"{TICK_SECONDS:g}s",
            leaseDuration="15s",
        )

    def close(self) -> None:
        self.operator.stop()
        self.queues.stop()

    def grow(self, size: int) -> None:
        """Makes pools until there are so many."""
        missing = range(len(self.pools), size)
        with ThreadPoolExecutor(8) as pool:
            while len(self.namespaces) * self._pools_per_namespace < size:
                name = f"team-{len(self.namespaces):02d}"
                namespace = Namespace(self.api, name)
                namespace.secret("broker", url="redis://127.0.0.1:6379/0")
                self.api.create(f"/api/v1/namespaces/{name}/resourcequotas", quota(name))
                self.namespaces.append(name)
                self.queues.scrape(name)
            new = [(self.namespaces[i // self._pools_per_namespace], f"pool-{i:04d}") for i in missing]
            list(pool.map(self._make, new))
        self.pools += new

    def _make(self, pool: tuple[str, str]) -> None:
        namespace, name = pool
        self.queues.set(pool, 0)
        body = {
            "apiVersion": "greenfleet.io/v1alpha1",
            "kind": "GreenWorkerPool",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "app": "proj",
                "image": "registry.example/proj:1",
                "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
                "queues": [name],
                "scaling": {"cooldown": "4s"},
            },
        }
        self.api.create(f"{POOLS}/namespaces/{namespace}/greenworkerpools", body)

    def metrics(self) -> dict[str, float]:
        """The operator's own numbers, summed over what does not matter here."""
        totals = {"queries": 0.0, "writes": 0.0, "decided": 0.0, "missing": 0.0, "reconciles": 0.0}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.operator.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.startswith("greenfleet_query_duration_seconds_count"):
                totals["queries"] += float(value)
            elif series.startswith("greenfleet_api_requests_total"):
                if not any(text in series for text in ('"GET"', '"WATCH"', "leases")):
                    totals["writes"] += float(value)
            elif series.startswith("greenfleet_desired_workers{"):
                totals["decided"] += 1
            elif series.startswith("greenfleet_metrics_missing{"):
                totals["missing"] += float(value)
            elif series.startswith("greenfleet_reconciles_total"):
                totals["reconciles"] += float(value)
        return totals

    def start(self) -> float:
        """Seconds from the start of the process until every pool was decided on with complete knowledge."""
        started = monotonic()
        self.operator = self._operator().start()
        eventually(self._all_decided, "every pool was decided on", 300, self.operator.tail)
        return monotonic() - started

    def _all_decided(self) -> bool:
        sleep(
            0.2 + len(self.pools) / 1000
        )  # to be asked for the series of every pool costs the operator more than the pools
        found = self.metrics()
        return found["decided"] == len(self.pools) and found["missing"] == 0

    def settle(self) -> None:
        """Until three ticks went by without a write."""
        quiet, before, deadline = 0, -1.0, monotonic() + 400
        while quiet < 3:
            writes = self.metrics()["writes"]
            quiet = quiet + 1 if writes == before else 0
            before = writes
            if monotonic() > deadline:
                raise RuntimeError(f"the operator still writes: {self.operator.tail()}")
            sleep(TICK_SECONDS)

    def idle(self) -> dict[str, float]:
        """What the operator costs while nothing happens."""
        assert self.operator.process is not None
        pid = self.operator.process.pid
        before = self.metrics()
        used, passed = self._watched(pid, self.seconds)
        after = self.metrics()
        return {
            "cpu_cores": round(used / passed, 4),
            "rss_mib": round(resident_mib(pid), 1),
            "queries_per_s": round((after["queries"] - before["queries"]) / passed, 2),
            "idle_writes_per_s": round((after["writes"] - before["writes"]) / passed, 3),
        }

    @staticmethod
    def _watched(pid: int, seconds: float) -> tuple[float, float]:
        """CPU seconds that a process took, and seconds that passed."""
        began, cpu = monotonic(), cpu_seconds(pid)
        sleep(seconds)
        return cpu_seconds(pid) - cpu, monotonic() - began

    def measure_keda(self, theirs: keda.Keda, size: int) -> dict[str, float]:
        """The same row for KEDA."""
        url = self.queues.prometheus.url
        have = {
            (one["metadata"]["namespace"], one["metadata"]["name"])
            for one in self.api.items(f"{keda.OBJECTS}/scaledobjects")
        }
        wanted = [pool for pool in self.pools[:size] if pool not in have]
        say(f"KEDA, {size} ScaledObjects: making them")
        with ThreadPoolExecutor(8) as pool:
            path = f"{keda.OBJECTS}/namespaces/{{}}/scaledobjects"
            list(pool.map(lambda one: self.api.create(path.format(one[0]), keda.scaled_object(*one, url)), wanted))
        theirs.start()
        eventually(lambda: theirs.ready() == size or sleep(2.0), "KEDA has taken on every ScaledObject", 600)
        theirs.stop()
        say(f"KEDA, {size} ScaledObjects: starting it anew")
        before, started = self.queues.prometheus.queries(), monotonic()
        theirs.start()
        asked = lambda: self.queues.prometheus.queries() - before >= size  # noqa: E731
        eventually(lambda: asked() or sleep(0.5), "KEDA has asked for every queue", 600)
        startup = monotonic() - started
        sleep(keda.POLL_SECONDS)  # else its start is in the figures
        say(f"KEDA, {size} ScaledObjects: at rest")
        queries, writes, began = self.queues.prometheus.queries(), theirs.writes(), monotonic()
        used, passed = self._watched(theirs.pid, 2 * keda.POLL_SECONDS)
        queries, writes = self.queues.prometheus.queries() - queries, theirs.writes() - writes
        watched = monotonic() - began
        row = {
            "pools": size,
            "cpu_cores": round(used / passed, 4),
            "rss_mib": round(resident_mib(theirs.pid), 1),
            "queries_per_s": round(queries / watched, 2),
            "idle_writes_per_s": round(writes / watched, 3),
        }
        say(f"KEDA, {size} ScaledObjects: changing depths")
        changes, self.changes = self.changes, min(self.changes, 25, size)
        row |= {**self.react(self.pools[:size]), "startup_s": round(startup, 1)}
        self.changes = changes
        theirs.stop()
        return row

    def react(self, pools: list[tuple[str, str]]) -> dict[str, float]:
        """From the change of a depth to the Deployment's first worker, over many changes at random moments."""
        randomness = random.Random(7)
        writes = Writes(self.api)
        waits: list[float] = []
        try:
            while len(waits) < self.changes:
                batch = randomness.sample(pools, min(len(pools), 25, self.changes - len(waits)))
                changed = {}
                for pool in batch:
                    sleep(randomness.uniform(0.0, 0.4))
                    changed[pool] = self.queues.set(pool, 50)
                eventually(lambda: all(map(writes.seen, changed)), "every changed pool has a worker", 120)  # noqa: B023
                waits += [(writes.seen(pool) or 0.0) - at for pool, at in changed.items()]
                for pool in batch:
                    self.queues.set(pool, 0)
                eventually(lambda: not any(map(writes.seen, changed)), "they went back to zero", 90)  # noqa: B023
        finally:
            writes.stop()
        waits.sort()
        return {"p50_s": round(waits[len(waits) // 2], 2), "p99_s": round(waits[ceil(0.99 * len(waits)) - 1], 2)}

    def measure(self, size: int) -> dict[str, float]:
        """One row."""
        say(f"{size} pools: making them and their objects")
        if self.operator.process is None:
            self.operator = self._operator().start()
        self.grow(size)
        eventually(self._all_decided, "every pool was decided on", 400, self.operator.tail)
        self.settle()
        self.operator.stop()
        say(f"{size} pools: starting the operator anew")
        startup = self.start()
        self.settle()
        say(f"{size} pools: at rest")
        idle = self.idle()
        say(f"{size} pools: changing depths")
        row = {"pools": size, **idle, **self.react(self.pools), "startup_s": round(startup, 1)}
        self.operator.stop()
        return row


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def say(text: str) -> None:
    print(f"{monotonic() - _BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__)
    parser.add_argument("--sizes", default="1,100,1000,3000", help="numbers of pools, rising")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the operator is watched at rest")
    parser.add_argument(
        "--keda", help="numbers of ScaledObjects, rising (default: as --sizes, where KEDA has been built)"
    )
    parser.add_argument("--changes", type=int, default=75, help="changes of depth per size (1 pool: a few)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing of it is left running
    directory = Path(tempfile.mkdtemp(prefix="greenfleet-bench-"))
    sizes: list[dict[str, Any]] = []
    conflicting_pools: list[dict[str, Any]] = []
    try:
        with control_plane(CLUSTER) as api:
            define_pools(api)
            bench = Bench(api, directory, arguments.seconds, arguments.changes)
            try:
                for size in map(int, arguments.sizes.split(",")):
                    bench.changes = arguments.changes if size > 1 else max(1, arguments.changes // 25)
                    sizes.append(bench.measure(size))
                    say(json.dumps(sizes[-1]))
                if keda.is_built() and arguments.keda != "":
                    bench.operator.stop()
                    theirs = keda.Keda(api, directory)
                    try:
                        for size in map(int, (arguments.keda or arguments.sizes).split(",")):
                            conflicting_pools.append(bench.measure_keda(theirs, size))
                            say(json.dumps(conflicting_pools[-1]))
                    finally:
                        theirs.stop()
            finally:
                bench.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(table(sizes))
    result: dict[str, Any] = {"tick_s": TICK_SECONDS, "scrape_s": SCRAPE_SECONDS, "sizes": sizes}
    if conflicting_pools:
        print("\nKEDA's operator")
        print(table(conflicting_pools))
        result["keda"] = conflicting_pools
    print(json.dumps(result))
    return 0


def table(sizes: list[dict[str, Any]]) -> str:
    """For people."""
    keys = list(sizes[0])
    rows = [keys, *([f"{row[key]:g}" for key in keys] for row in sizes)]
    return "\n".join("  ".join(f"{cell:>18}" for cell in row) for row in rows)


_BEGAN = monotonic()

if __name__ == "__main__":
    sys.exit(main())
