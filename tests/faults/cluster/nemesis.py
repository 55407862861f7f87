"""What Kubernetes and the operator do to workers, and what becomes of them.

Each kind is a method that does it, undoes it, and returns what proves that it happened. What it cannot prove it says
with `NotSeen`, and then the kind does not count. To add a kind: a method `_NAME`, and its name in `KINDS`.

What each kind may do to messages; whatever else is repeated has no cause:

    worker_killed, worker_out_of_memory   what the worker had not settled comes back
    every other kind                      nothing: pods that leave drain, and the others do not notice
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from demo.observer import LEASE, OPERATOR_NAMESPACE, PROMETHEUS
from demo.shell import KUBE, run
from greenfleet.manifests.names import EXPORTER_CONTAINER, THREADS_ANNOTATION, WORKER_CONTAINER, Role
from tests.faults.cluster.pods import WHOLE_SECONDS
from tests.faults.cluster.stage import (
    DEPLOYMENT,
    GREEN_THREADS,
    IMAGES,
    NAMESPACE,
    OPERATORS,
    PODS,
    POOL,
    POOL_PATH,
    REPLICAS,
    WORKER_MEMORY_BYTES,
    Stage,
    container,
    is_ready,
    process_of,
)
from tests.faults.history import Disruption
from tests.faults.nemesis import fill
from tests.faults.workload import Workload
from tests.integration.worker.harness import Producer

KINDS = (
    "pod_deleted",
    "pod_evicted",
    "worker_killed",
    "worker_out_of_memory",
    "node_drained",
    "scale_in",
    "rollout_env",
    "rollout_image",
    "deployment_deleted",
    "deployment_orphaned",
    "pool_deleted",
    "pool_orphaned",
    "replicas_bound",
    "green_threads_bound",
    "operators_killed",
    "operator_out_of_memory",
    "exporter_silent",
    "exporter_out_of_memory",
    "prometheus_down",
    "prometheus_disk_full",
    "api_server_away",
)
SHORT_KINDS = (
    "pod_evicted",
    "worker_out_of_memory",
    "deployment_orphaned",
    "operators_killed",
    "exporter_out_of_memory",
    "rollout_env",
)

AGAIN_SECONDS = 120.0
"""So soon after a fault is undone the pool works as before: all workers that it wants are ready, each has begun a task,
and its status says so. A worker begins within 60 s (docs/reliability.md), and before that a node takes it, kubelet
starts it, and Prometheus finds it; a container that was ended more than once waits for kubelet's back-off.
"""

SEEN_SECONDS = 90.0
"""Within this time what was done can be seen in the cluster."""

AWAY_SECONDS = 60.0
"""Of the API server."""

RUSH_TASKS, RUSH_SECONDS = 300, 3.0
"""Work for more than the fewest workers: 900 thread-seconds, for 40 green threads and a `maxWait` of 10 s."""

FORKS = """
import os, sys, time
size, count = int(sys.argv[1]), int(sys.argv[2])
for _ in range(count):
    if not os.fork():
        held = b"x" * size
        time.sleep(60)
time.sleep(60)
"""
"""Takes memory in processes that are smaller than the container's first one, so that the kernel ends that."""


class NotSeen(AssertionError):
    """What should have happened did not."""


@dataclass
class Attempt:
    """One fault, and what came of it."""

    kind: str
    start: float
    end: float = 0.0
    proof: str = ""
    error: str = ""
    """Why it does not count."""
    again_seconds: float | None = None
    """How long after its end the pool worked again; None if it did not in time."""
    unsaid: str = ""
    """What the status should have said of it and did not."""


@dataclass
class Nemesis:
    """Disrupts one pool."""

    stage: Stage
    workload: Workload
    producer: Producer
    rng: random.Random
    attempts: list[Attempt] = field(default_factory=list)
    disruptions: list[Disruption] = field(default_factory=list)
    starved: list[tuple[float, float]] = field(default_factory=list)
    """When a task took the memory of its worker."""

    def run(self, kinds: Sequence[str], until: float, tell: Callable[[Attempt], None]) -> None:
        """All of *kinds*, in an order of its own, as far as they fit before *until* (monotonic)."""
        order = list(kinds)
        self.rng.shuffle(order)
        for kind in order:
            if monotonic() > until:
                return
            attempt = Attempt(kind, monotonic())
            self.attempts.append(attempt)
            disrupt: Callable[[Attempt], str] = getattr(self, f"_{kind}")
            try:
                attempt.proof = disrupt(attempt)
            except Exception as error:  # the next one is tried all the same
                attempt.error = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            attempt.end = monotonic()
            # Its drains and kills are written down by pod; for everybody else nothing happened.
            self.disruptions.append(Disruption(kind, "the cluster", attempt.start, attempt.end, may_repeat=False))
            with suppress(AssertionError):
                self._await(lambda end=attempt.end: self.stage.works(end), "the pool works again", AGAIN_SECONDS)
                attempt.again_seconds = monotonic() - attempt.end
            tell(attempt)

    def finish(self) -> list[Disruption]:
        """All that may have touched a message."""
        starved = [
            Disruption("out_of_memory", life.name, run.end - WHOLE_SECONDS, run.end + WHOLE_SECONDS, may_repeat=True)
            for life, run in self.stage.book.killed_for_memory(0.0)
            if run.end is not None
            and life.role in (Role.EVENTLET, Role.PREFORK)
            and any(start - WHOLE_SECONDS <= run.end <= end + WHOLE_SECONDS for start, end in self.starved)
        ]
        return [*self.disruptions, *self.stage.book.drains(), *starved]

    # pods

    def _pod_deleted(self, attempt: Attempt) -> str:
        """By somebody: a new one comes, the old one drains."""
        chosen = self._any_worker()
        self.stage.kubernetes.kubectl("delete", "pod", chosen.name, "-n", NAMESPACE, "--wait=false")
        self._await(lambda: chosen.left is not None, f"{chosen.name} is gone")
        return f"{chosen.name} is gone"

    def _pod_evicted(self, attempt: Attempt) -> str:
        """By the eviction API, as a node's drain does it; the disruption budget lets one go at a time."""
        chosen = self._any_worker()
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": chosen.name, "namespace": NAMESPACE},
        }  # fmt: skip
        self.stage.api.request("POST", f"{PODS}/{chosen.name}/eviction", body=body)
        self._await(lambda: chosen.left is not None, f"{chosen.name} is gone")
        if chosen.reason != "EvictionByEvictionAPI":
            raise NotSeen(f"the pod says {chosen.reason!r} of why it left")
        return f"{chosen.name} is gone, {chosen.reason}"

    def _worker_killed(self, attempt: Attempt) -> str:
        """SIGKILL for its first process, as a runtime that crashes."""
        chosen = self.rng.choice([pod for pod in self.stage.workers() if is_ready(pod)])
        name = chosen["metadata"]["name"]
        start = monotonic()
        os.kill(process_of(chosen, WORKER_CONTAINER), signal.SIGKILL)
        self.disruptions.append(Disruption("sigkill", name, start, monotonic(), may_repeat=True))
        return self._restarted(name, PODS, WORKER_CONTAINER, chosen)

    def _worker_out_of_memory(self, attempt: Attempt) -> str:
        """A task takes more than the container may have."""
        self.producer.app.send_task("fault_app.hog", (4 * WORKER_MEMORY_BYTES,), queue=self.producer.queue)
        killed = self._await(lambda: self.stage.book.killed_for_memory(attempt.start), "a worker was OOMKilled")
        self.starved.append((attempt.start, monotonic()))
        return f"{killed[0][0].name} was {killed[0][1].reason}"

    # nodes

    def _node_drained(self, attempt: Attempt) -> str:
        """The only node is cordoned and drained, as for its upgrade: evictions until the budgets allow no more, then
        deletions. Operator, exporter and Prometheus leave as well.
        """
        kubernetes = self.stage.kubernetes
        before = {one.uid for one in self.stage.lives()}
        drain = ["drain", kubernetes.node_name, "--ignore-daemonsets", "--delete-emptydir-data", "--force"]
        selector = "--pod-selector=app.kubernetes.io/part-of=greenfleet"
        try:
            kubernetes.kubectl(*drain, selector, "--timeout=15s", check=False)
            evicted = [one.name for one in self.stage.book.lives(Role.EVENTLET) if "Eviction" in one.reason]
            said = self._said("Reconciling", "True", attempt, {"WorkersUnschedulable", "ExporterUnschedulable"})
            kubernetes.kubectl(*drain, selector, "--disable-eviction", "--timeout=60s", check=False)
            self._await(lambda: not self.stage.lives(), "no worker is left")
            left = [life for life in self.stage.book.lives(Role.EVENTLET) if life.uid in before and life.left is None]
            if left or not evicted:
                raise NotSeen(f"evicted {evicted}, still there: {[one.name for one in left]}")
            sleep(5.0)
        finally:
            kubernetes.kubectl("uncordon", kubernetes.node_name)
        return f"{len(before)} workers left, {len(evicted)} by eviction; {said}"

    # the autoscaler

    def _scale_in(self, attempt: Attempt) -> str:
        """Load comes and goes, and the autoscaler takes workers away while tasks run."""
        self.workload.rush(RUSH_TASKS, RUSH_SECONDS)
        self._await(lambda: self._replicas() > REPLICAS["min"], "the autoscaler adds a worker")
        peak = grown = monotonic()
        peak = self._replicas()

        def fell() -> bool:
            nonlocal peak
            found = self._replicas()
            peak = max(peak, found)
            return found < peak

        self._await(fell, "the autoscaler takes a worker away", 2 * SEEN_SECONDS)
        self._await(
            lambda: any(
                life.told is not None and life.told > grown and life.left is not None
                for life in self.stage.book.lives(Role.EVENTLET)
            ),
            "a worker has left",
        )
        reason = (self.stage.api.get(POOL_PATH).get("status") or {}).get("lastScale", {}).get("reason", "")
        return f"from {peak} workers to {self._replicas()}, {reason}"

    # the pool's spec

    def _rollout_env(self, attempt: Attempt) -> str:
        """Another variable: every worker is replaced."""
        value = str(self.rng.randrange(1 << 30))
        spec = self.stage.api.get(POOL_PATH)["spec"]
        env = [one for one in spec["worker"]["env"] if one["name"] != "RELEASE"]
        return self._rolled(attempt, {"worker": {"env": [*env, {"name": "RELEASE", "value": value}]}})

    def _rollout_image(self, attempt: Attempt) -> str:
        """Another image."""
        image = self.stage.api.get(POOL_PATH)["spec"]["image"]
        return self._rolled(attempt, {"image": next(one for one in IMAGES if one != image)})

    def _rolled(self, attempt: Attempt, change: dict[str, Any]) -> str:
        before = {one.uid for one in self.stage.lives()}
        self._change(change)
        self._await(
            lambda: not before & {one.uid for one in self.stage.book.lives() if one.left is None},
            "all old workers have left",
            2 * SEEN_SECONDS,
        )
        said = self._said("Reconciling", "True", attempt, {"RollingUpdate"})
        return f"{len(before)} workers were replaced; {said}"

    def _replicas_bound(self, attempt: Attempt) -> str:
        """One worker may be, and then as many as before."""
        try:
            self._change({"replicas": {"min": 1, "max": 1}})
            self._await(lambda: self._replicas() == 1 and len(self.stage.workers()) == 1, "one worker is left")
            sleep(5.0)
        finally:
            self._change({"replicas": REPLICAS})
        self._await(lambda: self._replicas() >= REPLICAS["min"], "there are more workers again")
        return "one worker, and then as many as before"

    def _green_threads_bound(self, attempt: Attempt) -> str:
        """Fewer green threads, and then as many as before."""
        few = {"min": 2, "max": 5, "start": 5}
        try:
            self._change({"greenThreads": few})
            self._await(lambda: self._limits() and max(self._limits()) <= few["max"], "no worker has more threads")
            sleep(5.0)
        finally:
            self._change({"greenThreads": GREEN_THREADS})
        self._await(lambda: self._limits() and min(self._limits()) >= GREEN_THREADS["min"], "all have more again")
        return "5 green threads in each worker, and then more again"

    def _change(self, spec: dict[str, Any]) -> None:
        self.stage.kubernetes.patch("gwp", POOL, NAMESPACE, {"spec": spec})

    # objects

    def _deployment_deleted(self, attempt: Attempt) -> str:
        """With its pods, which all drain at once."""
        return self._deployment_gone(attempt, "background", stay=False)

    def _deployment_orphaned(self, attempt: Attempt) -> str:
        """Without its pods: the operator's new Deployment takes them over."""
        return self._deployment_gone(attempt, "orphan", stay=True)

    def _deployment_gone(self, attempt: Attempt, cascade: str, *, stay: bool) -> str:
        before = self.stage.api.get(DEPLOYMENT)["metadata"]["uid"]

        def back() -> bool:
            now = self.stage.api.find(DEPLOYMENT)
            return now is not None and now["metadata"]["uid"] != before

        return self._gone(attempt, f"deployment/{POOL}-{Role.EVENTLET}", cascade, stay=stay, back=back)

    def _pool_deleted(self, attempt: Attempt) -> str:
        """With all that it has, and made again."""
        return self._pool_gone(attempt, "background", stay=False)

    def _pool_orphaned(self, attempt: Attempt) -> str:
        """Without its workers, which the new pool of the same name takes over."""
        return self._pool_gone(attempt, "orphan", stay=True)

    def _pool_gone(self, attempt: Attempt, cascade: str, *, stay: bool) -> str:
        found = self.stage.api.get(POOL_PATH)
        again = {key: found[key] for key in ("apiVersion", "kind", "spec")}
        again["metadata"] = {"name": POOL, "namespace": NAMESPACE}

        def back() -> bool:
            now = self.stage.api.find(POOL_PATH)
            if now is None and (stay or not self.stage.workers()):
                self.stage.kubernetes.apply(again)
            return now is not None and now["metadata"]["uid"] != found["metadata"]["uid"]

        return self._gone(attempt, f"gwp/{POOL}", cascade, stay=stay, back=back)

    def _gone(self, attempt: Attempt, what: str, cascade: str, *, stay: bool, back: Callable[[], bool]) -> str:
        """Deletes *what*, and waits until it is *back* and has workers. *stay*: those that it had."""
        self._await(lambda: all(map(is_ready, self.stage.workers())) and self.stage.lives(), "all workers are ready")
        before = {pod["metadata"]["uid"] for pod in self.stage.workers()}
        self.stage.kubernetes.kubectl("delete", what, "-n", NAMESPACE, f"--cascade={cascade}")
        self._await(back, f"{what} is back")
        if stay:
            self._await(lambda: self.stage.works(attempt.start, begun=False), "the pool works")
            return f"{what} is another one; {self._stayed(before)}"
        self._await(lambda: before <= self._left(), "all old workers have left")
        return f"{what} is another one; all {len(before)} workers were replaced"

    def _stayed(self, before: set[str]) -> str:
        """How many of the workers (by uid) stayed. The autoscaler may take one away; nobody may replace one."""
        there = {life.uid for life in self.stage.book.lives(Role.EVENTLET) if life.living}
        if before - there and there - before:
            raise NotSeen(f"{len(before - there)} of {len(before)} workers were replaced, although they were to stay")
        return f"{len(before & there)} of {len(before)} workers stayed"

    def _left(self) -> set[str]:
        return {life.uid for life in self.stage.book.lives(Role.EVENTLET) if life.left is not None}

    # the operator

    def _operators_killed(self, attempt: Attempt) -> str:
        """SIGKILL for both replicas at once."""
        before = {one.uid for one in self.stage.lives()}
        pods = self.stage.operators()
        for process in [process_of(pod, "operator") for pod in pods]:
            os.kill(process, signal.SIGKILL)
        for pod in pods:
            self._restarted(pod["metadata"]["name"], OPERATORS, "operator", pod)
        self._leads(attempt)
        return f"{len(pods)} operators were started again, and one leads; {self._stayed(before)}"

    def _operator_out_of_memory(self, attempt: Attempt) -> str:
        """Of the leader."""
        holder = self._lease()["spec"]["holderIdentity"]
        pod = next(one for one in self.stage.operators() if holder.startswith(one["metadata"]["name"]))
        self._take_memory(OPERATOR_NAMESPACE, pod["metadata"]["name"], "operator", 40 << 20, 16)
        proof = self._restarted(pod["metadata"]["name"], OPERATORS, "operator", pod, "OOMKilled")
        self._leads(attempt)
        return proof

    def _leads(self, attempt: Attempt) -> None:
        """Waits until somebody renews the Lease who was not there before."""
        before = self._lease()["spec"]["renewTime"]
        self._await(lambda: self._lease()["spec"]["renewTime"] != before, "an operator leads")
        self._await(lambda: all(map(is_ready, self.stage.operators())), "both operators are ready")

    def _lease(self) -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/{LEASE}"
        return dict(self.stage.api.get(path))

    # what the operator asks

    def _exporter_silent(self, attempt: Attempt) -> str:
        """It stands still until the operator has noticed, or its probe ends it."""
        pod = self.stage.exporters()[0]
        process = process_of(pod, EXPORTER_CONTAINER)
        os.kill(process, signal.SIGSTOP)
        try:
            said = self._metrics_missing(attempt)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        self._held(attempt)
        return said

    def _exporter_out_of_memory(self, attempt: Attempt) -> str:
        """A process beside it takes the container's memory."""
        pod = self.stage.exporters()[0]
        self._take_memory(NAMESPACE, pod["metadata"]["name"], EXPORTER_CONTAINER, 12 << 20, 24)
        return self._restarted(pod["metadata"]["name"], PODS, EXPORTER_CONTAINER, pod, "OOMKilled")

    def _prometheus_down(self, attempt: Attempt) -> str:
        """It is gone, with all that it had stored."""
        self.stage.api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 0)
        try:
            self._await(lambda: not self.stage.prometheus(), "Prometheus is gone")
            said = self._metrics_missing(attempt, {"PrometheusUnreachable"})
            sleep(10.0)
        finally:
            self.stage.api.scale(OPERATOR_NAMESPACE, PROMETHEUS, 1)
        self._held(attempt)
        return said

    def _prometheus_disk_full(self, attempt: Attempt) -> str:
        """It can write no sample any more."""
        [pod] = self.stage.prometheus()
        filler = Path(f"/proc/{process_of(pod, 'prometheus')}/root/prometheus/filler")
        fill(filler)
        try:
            said = self._metrics_missing(attempt)
        finally:
            filler.unlink(missing_ok=True)
        self._held(attempt)
        return f"{said}, with a disk that was full"

    def _metrics_missing(self, attempt: Attempt, reasons: set[str] | None = None) -> str:
        """Waits until the status says that the load is not known, for one of *reasons*."""
        said = self._await(
            lambda: self.stage.status.reasons("MetricsAvailable", "False", attempt.start),
            "MetricsAvailable is False",
        )
        if reasons and not reasons & said:
            attempt.unsaid = f"MetricsAvailable: {', '.join(sorted(said))}"
        return f"MetricsAvailable=False: {', '.join(sorted(said))}"

    def _held(self, attempt: Attempt) -> None:
        """No worker was taken away since the status said that the load is not known."""
        log = self.stage.status
        missing = next(
            one.at for one in log.said
            if one.at > attempt.start and one.conditions.get("MetricsAvailable", ("", ""))[0] == "False"
        )  # fmt: skip
        if fell := log.scaled_in(missing, monotonic()):
            attempt.unsaid = f"scaled in while the load was not known: {fell}"

    # the control plane

    def _api_server_away(self, attempt: Attempt) -> str:
        """SIGKILL; it comes back after a minute."""
        process = json.loads(run([KUBE, "status", "--json"]))["processes"]["kube-apiserver"]
        ledger = self.stage.ledger
        ledger.read()
        before = ledger.done
        try:
            os.kill(process, signal.SIGKILL)
            refused, until = 0, monotonic() + AWAY_SECONDS
            while monotonic() < until:
                refused += _refuses(self.stage.kubernetes.server)
                sleep(1.0)
        finally:
            run([KUBE, "up", "--quiet"])
        ledger.read()
        said = f"{refused} connections were refused, and {ledger.done - before} tasks were done meanwhile"
        if refused < AWAY_SECONDS / 2 or ledger.done == before:
            raise NotSeen(said)
        return said

    # what several of them need

    def _any_worker(self) -> Any:
        return self.rng.choice(self.stage.lives())

    def _replicas(self) -> int:
        return int(self.stage.api.get(DEPLOYMENT)["spec"]["replicas"])

    def _limits(self) -> list[int]:
        """The green threads that workers have been told."""
        annotations = [pod["metadata"].get("annotations") or {} for pod in self.stage.workers() if is_ready(pod)]
        return [int(one.get(THREADS_ANNOTATION, GREEN_THREADS["max"])) for one in annotations]

    def _take_memory(self, namespace: str, pod: str, name: str, size: int, count: int) -> None:
        """In a container that has Python; ends with the container."""
        self.stage.kubernetes.kubectl(
            "exec", "-n", namespace, pod, "-c", name, "--", "python", "-c", FORKS, str(size), str(count), check=False
        )

    def _restarted(self, name: str, pods: str, part: str, before: dict[str, Any], reason: str = "") -> str:
        """Waits until a container of a pod is another one, and says why the one before has ended."""
        restarts = container(before, part)["restartCount"]

        def again() -> dict[str, Any]:
            found = container(self.stage.api.get(f"{pods}/{name}"), part)
            return found if found.get("restartCount", 0) > restarts else {}

        ended = self._await(again, f"{name} was started again")["lastState"]["terminated"]
        if ended["exitCode"] != 128 + signal.SIGKILL or (reason and ended["reason"] != reason):
            raise NotSeen(f"{name} ended with {ended['exitCode']}, {ended['reason']}")
        return f"{name}: {ended['reason']}, {ended['exitCode']}"

    def _said(self, condition: str, status: str, attempt: Attempt, reasons: set[str]) -> str:
        """What the status said of it; what is missing is written down."""
        log = self.stage.status
        with suppress(AssertionError):
            self._await(lambda: log.reasons(condition, status, attempt.start) & reasons, f"{condition} says why", 20.0)
        found = log.reasons(condition, status, attempt.start)
        if not found & reasons:
            attempt.unsaid = f"{condition}={status} for {' or '.join(sorted(reasons))}; there was {sorted(found)}"
        return f"{condition}={status}: {', '.join(sorted(found))}"

    def _await(self, done: Callable[[], Any], what: str, seconds: float = SEEN_SECONDS) -> Any:
        return self.stage.await_(done, what, seconds)


def _refuses(server: tuple[str, int]) -> bool:
    """Whether nobody listens there."""
    try:
        with socket.create_connection(server, timeout=1.0):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
