"""Tenants that make one operator, or the Prometheus that all share, do as much as they can, and what everybody else
gets meanwhile.

Two namespaces have one operator: the honest one with pools whose queues fill and empty, and the hostile one, whose pods
export what an `Attack` says and whose pools have the specs that it says. Measured is the time from the moment at which
Prometheus has the depths of the honest queues until the operator wants as many workers as these depths need, under
attack and, if that takes long, in peace. As long as the queues are full, no honest pool may get fewer.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import shutil
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import urllib3
import yaml

from greenfleet.prometheus.sources import DEPTH_PARTS, WORKER_PARTS
from tests.faults.operator.life import SPEC
from tests.faults.operator.stage import Replica, Stage, wait_until
from tests.integration.operator.harness import REPOSITORY, Namespace, Object, eventually, fresh_name

TICK_SECONDS = 2.0
"""As in the chart."""
HONEST = ("feeds", "mails", "asks")
"""Pools of the honest namespace. The last one has a query of its own."""
HOSTILE = "evil"
HOSTILE_PODS = 10
"""Workers of the hostile pool; its exporter is one more."""
WANTED: int = SPEC["replicas"]["max"]
"""Workers that a full queue needs: all that there may be."""
STAYS_TICKS = 2
"""For so long the queues stay full once all workers are there: a decision that is taken back comes from what the
workers say of themselves, which is one scrape later than the depths.
"""
SERVER_SECONDS = 4.0
"""The operator's time-out for Prometheus, as in the chart."""
SETTLES_SECONDS = 150.0


def never(page: str) -> str:
    """A pod that answers no scrape in time."""
    sleep(10.0)
    return page


@dataclass(frozen=True)
class Attack:
    """What the hostile tenant does, and which of its pools has to say so."""

    kind: str
    condition: str
    status: str
    reasons: tuple[str, ...]
    page: Callable[[str], str] = lambda page: page
    """What each of its pods exports, from what an honest one would."""
    specs: Mapping[str, Object] = field(default_factory=dict)
    """More pools of the tenant, by name, and what their specs have besides the minimum."""
    guilty: tuple[str, ...] = (HOSTILE,)
    """The pools whose condition it is: all of them."""
    late_seconds: float = 0.0
    """So much longer the first decision may take: the operator has to wait for an answer before it can leave it."""
    slow_queries: bool = False
    """Whether queries with the word `hostile` in them take Prometheus longer than the operator's time-out."""


@dataclass
class Result:
    """What one attack came to."""

    kind: str
    hostile_seconds: float
    fewest: int
    """Workers that a neighbour with a full queue had at least, once it had what it needs."""
    peak_mib: float
    """The largest resident memory of the operator during the attack."""
    said: Object
    """The condition of the guilty pools: of the first one that does not say what it has to, or else of the last."""
    calm_seconds: float = 0.0
    """Time to a decision in peace, where it was measured."""


class SlowQueries:
    """Between the operator and Prometheus: what has the word `hostile` in it takes longer than anybody waits. An
    expensive query of a tenant's own does this to a real server, and takes its processor along.
    """

    def __init__(self, target: str) -> None:
        self.on = False
        http_, slow = urllib3.PoolManager(maxsize=64), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                query = urllib.parse.parse_qs(body.decode())["query"][0]
                if slow.on and "hostile" in query:
                    sleep(2 * SERVER_SECONDS)
                headers = {"Content-Type": self.headers["Content-Type"]}
                answer = http_.request(
                    "POST", target + self.path, body=body, headers=headers, timeout=30, preload_content=False
                )
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()  # it ends with the connection
                with contextlib.suppress(ConnectionError):  # the operator waits no longer
                    shutil.copyfileobj(answer, self.wfile, 1 << 20)
                answer.close()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """Answers nobody any more."""
        self._server.shutdown()
        self._server.server_close()


class Neighbours:
    """An honest and a hostile tenant of one operator."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self._stage = stage
        self.honest, self.hostile = Namespace(stage.api, fresh_name("shop")), Namespace(stage.api, fresh_name("evil"))
        for namespace in (self.honest, self.hostile):
            stage.namespaces.add(namespace.name)
            namespace.secret("broker", url="redis://redis.example:6379/0")
        self.queries = SlowQueries(stage.prometheus.url)
        server = {"url": self.queries.url, "scrapeInterval": "1s", "timeout": f"{SERVER_SECONDS:g}s"}
        self.operator = Replica(
            stage,
            self.honest,
            directory,
            "operator-1",
            prometheus={"servers": {"default": server}, "allowQuery": True},
            namespaces=[self.honest.name, self.hostile.name],
            tick=f"{TICK_SECONDS:g}s",
            leaseDuration="15s",
            worker={"image": "greenfleet/worker:1"},
        )
        for pool in (*HONEST, HOSTILE):
            namespace = self.hostile if pool == HOSTILE else self.honest
            stage.load[namespace.name, pool] = 0
            own = f'greenfleet_queue_messages_ready{{namespace="{self.honest.name}",queue="asks"}}'
            scaling = {**SPEC["scaling"], **({"prometheus": {"query": own}} if pool == "asks" else {})}
            replicas = {"min": HOSTILE_PODS, "max": HOSTILE_PODS} if pool == HOSTILE else SPEC["replicas"]
            namespace.apply_pool(pool, **{**SPEC, "scaling": scaling, "replicas": replicas})

    def start(self) -> None:
        """Until all pools have complete knowledge."""
        self.operator.start()
        for namespace, pool in [*((self.honest, one) for one in HONEST), (self.hostile, HOSTILE)]:
            namespace.await_condition(pool, "MetricsAvailable", "True", seconds=SETTLES_SECONDS)

    def close(self) -> None:
        """Nothing of it is left."""
        self.operator.close()
        self.queries.close()
        for namespace in (self.honest, self.hostile):
            self._stage.forget(namespace.name)

    def peace(self) -> None:
        """Until nothing is left of an attack."""

        def calm() -> bool:
            pools = self.hostile.api.items(self.hostile.path("greenworkerpools"))
            said = self.hostile.condition(HOSTILE, "MetricsAvailable")
            return len(pools) == 1 and said.get("status") == "True" and said.get("reason") != "NamespaceMismatch"

        eventually(calm, "the attack before is over", SETTLES_SECONDS)

    def decisions(self) -> tuple[float, int]:
        """The queues of the honest pools fill, then empty: seconds from the moment at which Prometheus has the depths
        of all until the operator wants all workers for all, as its own metrics say, and the fewest workers that one of
        the pools had from then on until its queue was empty. How soon a busy API server takes the write is another
        matter.
        """
        for pool in HONEST:
            self._stage.load[self.honest.name, pool] = 100_000
        full = f'greenfleet_queue_messages_ready{{namespace="{self.honest.name}"}} > 0'
        eventually(lambda: self._count(full) == len(HONEST), "Prometheus has the depths", SETTLES_SECONDS)
        began = monotonic()
        eventually(
            lambda: min(self._wanted()) >= WANTED,
            "the operator wants all workers for all",
            SETTLES_SECONDS,
            self.operator.log.read_text,
        )
        took = monotonic() - began
        working = lambda: min(self._have()) >= WANTED  # noqa: E731
        eventually(working, "the honest pools have workers", SETTLES_SECONDS)
        fewest, until = WANTED, monotonic() + STAYS_TICKS * TICK_SECONDS
        while monotonic() < until:
            fewest = min(fewest, *self._wanted(), *self._have())
            sleep(0.2)
        for pool in HONEST:
            self._stage.load[self.honest.name, pool] = 0
        idle = lambda: not any(self.honest.replicas(pool) for pool in HONEST)  # noqa: E731
        eventually(idle, "the honest pools are at rest again", SETTLES_SECONDS)
        return took, fewest

    def _have(self) -> list[int]:
        return [self.honest.replicas(pool) or 0 for pool in HONEST]

    def _wanted(self) -> list[int]:
        text = self.operator.text("/metrics?name[]=greenfleet_desired_workers")
        wanted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        series = (f'greenfleet_desired_workers{{pool="{self.honest.name}/{pool}",role="eventlet"}}' for pool in HONEST)
        return [int(float(wanted.get(one, 0))) for one in series]

    def _count(self, query: str) -> int:
        answer = urllib3.request(
            "GET", f"{self._stage.prometheus.url}/api/v1/query", fields={"query": query}, timeout=30
        )
        return len(answer.json()["data"]["result"])

    def under(self, attack: Attack, rounds: int = 2) -> Result:
        """The attack, and *rounds* of decisions from its first moment on; then peace again."""
        reset_peak(self.operator.pid)
        self._stage.hostile[self.hostile.name] = attack.page
        self.queries.on = attack.slow_queries
        for name, spec in attack.specs.items():
            self.hostile.apply_pool(name, **{**SPEC, **spec, "queues": spec.get("queues", [name])})
        measured = [self.decisions() for _ in range(rounds)]
        said: list[Object] = []

        def guilty() -> bool:
            for pool in attack.guilty:
                said[:] = [self.hostile.condition(pool, attack.condition)]
                if not admits(said[0], attack):
                    return False
            return True

        wait_until(guilty, SETTLES_SECONDS)
        took, fewest = max(seconds for seconds, _ in measured), min(few for _, few in measured)
        result = Result(attack.kind, took, fewest, peak_mib(self.operator.pid), said[0])
        self._end(attack)
        return result

    def _end(self, attack: Attack) -> None:
        self.queries.on = False
        self._stage.hostile.pop(self.hostile.name, None)
        for name in attack.specs:
            self.hostile.delete_pool(name, wait=False)


def reset_peak(pid: int) -> None:
    """What follows counts as the process' largest resident memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The largest resident memory of a process since `reset_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def memory_limit_mib() -> float:
    """What the chart gives the operator."""
    values = yaml.safe_load((REPOSITORY / "charts/greenfleet/values.yaml").read_text())
    limit: str = values["resources"]["limits"]["memory"]
    return float(limit.removesuffix("Mi"))


def admits(said: Object, attack: Attack) -> bool:
    """Whether a condition says what the attack's has to."""
    return said.get("status") == attack.status and said.get("reason") in attack.reasons


def too_late(result: Result, attack: Attack) -> str:
    """Which decision of a neighbour took too long: more than two ticks, and on a machine that is slow in peace more
    than one and a half times what it takes there.
    """
    limit = max(2 * TICK_SECONDS, 1.5 * result.calm_seconds) + attack.late_seconds
    took = result.hostile_seconds
    return f"a neighbour's decision took {took:.1f} s, more than {limit:.1f} s" if took > limit else ""


def broken(result: Result, attack: Attack) -> list[str]:
    """What of the promise did not hold."""
    found = [late] if (late := too_late(result, attack)) else []
    if result.peak_mib > memory_limit_mib():
        found.append(f"the operator took {result.peak_mib:.0f} MiB, more than the chart gives it")
    if result.fewest < WANTED:
        found.append(f"a neighbour with a full queue had {result.fewest} workers, and needs {WANTED}")
    if not admits(result.said, attack):
        found.append(f"the pool that did it does not say so: {result.said}")
    return found


KINDS: Mapping[str, Callable[[str, str], Attack]] = {
    "series twice": lambda honest, hostile: _twice(),
    "no numbers": lambda honest, hostile: _no_numbers(),
    "slow pods": lambda honest, hostile: Attack(
        "slow pods", "MetricsAvailable", "False", ("NoSample", "StaleSample"), page=never
    ),
    "slow queries": lambda honest, hostile: _slow_queries(),
    "foreign series": lambda honest, hostile: _foreign(honest),
    "costly specs": lambda honest, hostile: _costly(),
    "huge answers": lambda honest, hostile: _huge(hostile),  # the last: it is left out for minutes after it
}
"""Each as bad as we could think of, by the names of the honest and of the hostile namespace."""


def _twice() -> Attack:
    """Every series is there twice, so that a query that sets or drops that label would fail for everybody."""

    def page(honest: str) -> str:
        lines = honest.splitlines()
        return "\n".join(line.replace("{", f'{{vhost="{half}",', 1) for half in "ab" for line in lines) + "\n"

    return Attack("series twice", "MetricsAvailable", "False", ("ContradictorySamples",), page=page)


def _no_numbers() -> Attack:
    """Nothing is a number."""

    def page(honest: str) -> str:
        return "\n".join(f"{line.rpartition(' ')[0]} NaN" for line in honest.splitlines()) + "\n"

    return Attack("no numbers", "MetricsAvailable", "False", ("BadValue", "BrokerDown"), page=page)


def _huge(hostile: str) -> Attack:
    """Each of two questions has an answer of 39 MB, more than is read of one: four series for each from each of the
    pods, every one a little shorter than the longest that is read. The pods show them at every eighth scrape, and are
    scraped in time.
    """
    long = "x" * 900_000
    more = "".join(
        f'greenworker_task_risk{{pool="{hostile}/evil",role="eventlet",worker="w",reason="{n}",a="{long}"}} 1\n'
        f'greenfleet_queue_messages_ready{{broker="{hostile}/broker/url",queue="{n}",a="{long}"}} 1\n'
        for n in range(4)
    )
    scrapes = itertools.count()

    def page(honest: str) -> str:
        return honest + more if next(scrapes) % 8 == 0 else honest

    return Attack(
        "huge answers", "MetricsAvailable", "False", ("TooManySeries",), page=page, late_seconds=SERVER_SECONDS
    )


def _slow_queries() -> Attack:
    """Twelve pools with queries of their own that take Prometheus longer than the operator waits."""
    specs: dict[str, Object] = {
        f"slow-{n}": {"scaling": {"prometheus": {"query": f"max_over_time(hostile_{n}[1h])"}}} for n in range(12)
    }
    # NoSample is what a query for a metric that is not there gets at once, without any attack.
    return Attack(
        "slow queries", "MetricsAvailable", "False", ("PrometheusUnreachable",), specs=specs, guilty=tuple(specs),
        slow_queries=True,
    )  # fmt: skip


def _foreign(honest: str) -> Attack:
    """Its pods say of the honest tenant's broker that it is down and empty, and of its pools that they are idle."""
    of = f'broker="{honest}/broker/url"'
    lines = [f"greenfleet_queue_up{{{of}}} 0"]
    for pool in HONEST:
        lines += [f'{name}{{{of},queue="{pool}"}} 0' for name in DEPTH_PARTS if not name.endswith("_up")]
        worker = f'pool="{honest}/{pool}",role="eventlet",worker="w"'
        lines += [f"{name}{{{worker}}} 0" for name in WORKER_PARTS]
    more = "\n".join(lines) + "\n"
    return Attack("foreign series", "MetricsAvailable", "True", ("NamespaceMismatch",), page=lambda page: page + more)


def _costly() -> Attack:
    """Thirty pools with as many schedules and queues as the schema takes. Every other one has an unknown server and
    source, and has to say so; the others have what everybody may have and owe no condition: that they cost their
    neighbours nothing is all that is asked.
    """
    windows = [
        {
            "name": f"w{n}",
            "cron": f"{n} 0 29 2 *",
            "timezone": "America/Argentina/ComodRivadavia",
            "duration": "744h",
            "minReplicas": 0,
        }
        for n in range(20)
    ]
    specs: dict[str, Object] = {
        f"costly-{number}": {
            "queues": [f"q{number}-{n}-{'x' * 160}" for n in range(20)],
            "scaling": {
                "schedules": windows,
                "prometheus": {"server": f"server-{number}", "source": f"source-{number}"} if number % 2 == 0 else {},
            },
        }
        for number in range(30)
    }
    guilty = tuple(name for name, spec in specs.items() if spec["scaling"]["prometheus"])
    return Attack("costly specs", "Stalled", "True", ("UnknownPrometheusServer",), specs=specs, guilty=guilty)
