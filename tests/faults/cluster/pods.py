"""What became of each pod of a pool, as the API server told it: which worker processes there were, who was told to end,
and what ended otherwise.

A worker is called as its pod is; a container that was started again is another process of the same name. Times are
seconds of this machine's monotonic clock; those that kubelet writes are whole seconds of the wall clock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from kubernetes import client, config, watch

from demo.api import GROUP
from greenfleet.manifests.names import ROLE_LABEL, WORKER_CONTAINER, Role
from greenfleet.status.times import unix_time
from tests.faults.fleet import DRAIN_SECONDS, GRACE_SECONDS
from tests.faults.history import SIGKILLED, Disruption, Process
from tests.faults.nemesis import GIVES_BACK_SECONDS

WHOLE_SECONDS = 1.0
"""What kubelet says happened in a second happened somewhere in it."""

OUT_OF_MEMORY = "OOMKilled"

_SIGNALLED = 128
"""A runtime says 128 and the number of the signal of a process that a signal has ended."""


@dataclass
class Run:
    """One container of a pod, from its start to its end."""

    start: float
    end: float | None = None
    status: int | None = None
    """As `subprocess` has it."""
    reason: str = ""
    log: str = ""


@dataclass
class Life:
    """One pod."""

    name: str
    uid: str
    role: str
    told: float | None = None
    """When it was to be deleted."""
    left: float | None = None
    reason: str = ""
    """Why it is to leave, where the API server says so: `EvictionByEvictionAPI`."""
    ready: bool = False
    was_ready: bool = False
    runs: dict[int, Run] = field(default_factory=dict)
    """By the number of restarts before."""

    @property
    def living(self) -> bool:
        """Whether it is there and is to stay."""
        return self.told is None and self.left is None


class Book:
    """All pods that there were. `see` may be called from another thread than the questions."""

    def __init__(self, offset: float | None = None) -> None:
        """*offset*: what has to be added to a Unix time for the monotonic clock."""
        self._offset = time.monotonic() - time.time() if offset is None else offset
        self._lives: dict[str, Life] = {}
        self._probed: list[tuple[str, float]] = []
        self._lock = threading.Lock()

    def lives(self, role: str = "") -> list[Life]:
        """In the order of their beginning."""
        with self._lock:
            return [one for one in self._lives.values() if role in ("", one.role)]

    def see(self, pod: Mapping[str, Any], at: float, *, deleted: bool = False) -> None:
        """What the API server says of a pod at *at*."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        with self._lock:
            role = (metadata.get("labels") or {}).get(ROLE_LABEL, "")
            life = self._lives.setdefault(metadata["uid"], Life(metadata["name"], metadata["uid"], role))
            if metadata.get("deletionTimestamp") and life.told is None:
                life.told = at
            if deleted and life.left is None:
                life.left = at
                life.told = at if life.told is None else life.told
            conditions = {one["type"]: one for one in status.get("conditions") or ()}
            life.ready = conditions.get("Ready", {}).get("status") == "True"
            life.was_ready = life.was_ready or life.ready
            life.reason = life.reason or conditions.get("DisruptionTarget", {}).get("reason", "")
            for container in status.get("containerStatuses") or ():
                if container["name"] in (WORKER_CONTAINER, "queues", "operator"):
                    self._run(life, container)

    def relisted(self, pods: Iterable[Mapping[str, Any]], at: float) -> None:
        """All pods that there are at *at*: the others are gone."""
        found = list(pods)
        for pod in found:
            self.see(pod, at)
        present = {pod["metadata"]["uid"] for pod in found}
        with self._lock:
            for life in self._lives.values():
                if life.uid not in present and life.left is None:
                    life.left = at
                    life.told = at if life.told is None else life.told

    def probed(self, pod: str, at: float) -> None:
        """Its liveness probe failed, and kubelet ended it, at *at*."""
        with self._lock:
            self._probed.append((pod, at))

    def processes(self, now: float) -> list[Process]:
        """Of the workers and their companions."""
        found = []
        for life in self.lives():
            if life.role in (Role.EVENTLET, Role.PREFORK):
                found += [self._process(life, run, now) for run in life.runs.values()]
        return found

    def drains(self) -> list[Disruption]:
        """Of each worker that was told to end, its drain, and what is left of it when its time is over."""
        found = []
        for life in self.lives():
            if life.told is None or life.role not in (Role.EVENTLET, Role.PREFORK):
                continue
            left, over = life.left or life.told + GRACE_SECONDS, life.told + DRAIN_SECONDS
            found.append(Disruption("drain", life.name, life.told, left, may_repeat=False))
            last = max(left, over + GIVES_BACK_SECONDS)
            found.append(Disruption("drain_over", life.name, over, last, may_repeat=False, unfinished=True))
        return found

    def killed_for_memory(self, since: float) -> list[tuple[Life, Run]]:
        """Containers that the kernel ended since *since*, and their pods."""
        return [
            (life, run)
            for life in self.lives()
            for run in life.runs.values()
            if run.reason == OUT_OF_MEMORY and run.end is not None and run.end >= since - WHOLE_SECONDS
        ]

    def _run(self, life: Life, container: Mapping[str, Any]) -> None:
        number = int(container.get("restartCount", 0))
        state, last = container.get("state") or {}, container.get("lastState") or {}
        if running := state.get("running"):
            life.runs.setdefault(number, Run(self._at(running["startedAt"])))
        if ended := state.get("terminated"):
            self._ended(life.runs, number, ended)
        if number and (ended := last.get("terminated")):
            self._ended(life.runs, number - 1, ended)

    def _ended(self, runs: dict[int, Run], number: int, ended: Mapping[str, Any]) -> None:
        if not ended.get("startedAt"):
            return
        run = runs.setdefault(number, Run(self._at(ended["startedAt"])))
        code = int(ended["exitCode"])
        run.status = _SIGNALLED - code if code > _SIGNALLED else code
        run.end, run.reason = self._at(ended["finishedAt"]), ended.get("reason", "")
        run.log = ended.get("message", "")

    def _at(self, timestamp: str) -> float:
        return unix_time(timestamp) + self._offset

    def _process(self, life: Life, run: Run, now: float) -> Process:
        companion = life.role == Role.PREFORK
        if run.end is None:
            if life.told is not None:
                return Process(life.name, run.start, life.told, told=True, companion=companion)
            return Process(life.name, run.start, now, companion=companion)
        told = life.told is not None and run.end >= life.told - WHOLE_SECONDS
        probed = any(name == life.name and run.start <= at <= run.end + WHOLE_SECONDS for name, at in self._probed)
        end = life.told if told and life.told is not None else run.end
        killed = run.status == SIGKILLED and run.reason != OUT_OF_MEMORY
        # Who is told to end before it has started knows no other way than the signal's own.
        status = run.status if life.was_ready or not told else None
        return Process(
            life.name, run.start, end, told or (probed and run.status == 0), status, run.end,
            overran=told and killed, companion=companion, log=run.log,
        )  # fmt: skip


class Sees(Protocol):
    """Whoever wants to know of pods."""

    def see(self, pod: Mapping[str, Any], at: float, *, deleted: bool = False) -> None:
        """One pod."""

    def relisted(self, pods: Iterable[Mapping[str, Any]], at: float) -> None:
        """All that there are."""


class Watch(threading.Thread):
    """Tells a book of all pods of a namespace, and begins anew whenever the API server goes away."""

    def __init__(self, kubeconfig: Path, namespace: str, book: Sees) -> None:
        super().__init__(name=f"watch of {namespace}", daemon=True)
        self._core = client.CoreV1Api(config.new_client_from_config(config_file=str(kubeconfig)))
        self._namespace, self._book = namespace, book
        self._ended = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.wait(0.2):
            try:
                self._once()
            except Exception:
                # Whatever an API server that dies leaves of an answer.
                continue

    def end(self) -> None:
        """It ends with its present watch, within seconds."""
        self._ended.set()

    def _once(self) -> None:
        answer = self._core.list_namespaced_pod(self._namespace, _preload_content=False, _request_timeout=10)
        found = json.loads(answer.read())
        self._book.relisted(found["items"], time.monotonic())
        events = watch.Watch().stream(
            self._core.list_namespaced_pod, self._namespace, resource_version=found["metadata"]["resourceVersion"],
            timeout_seconds=20, _request_timeout=25,
        )  # fmt: skip
        for event in events:
            self._book.see(event["raw_object"], time.monotonic(), deleted=event["type"] == "DELETED")
            if self._ended.is_set():
                return


class Logs(threading.Thread):
    """Keeps what containers say when their pods are gone: a second name for each file that kubelet has of a
    namespace.
    """

    def __init__(self, kubeconfig: Path, namespace: str, directory: Path) -> None:
        super().__init__(name="logs", daemon=True)
        self._from, self._to = kubeconfig.parent / "logs" / "pods", directory
        self._files = f"{namespace}_*/*/*.log"
        self._ended = threading.Event()
        directory.mkdir(parents=True)

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.wait(0.5):
            for file in self._from.glob(self._files):
                kept = self._to / "-".join(file.relative_to(self._from).parts)
                with suppress(OSError):  # it is gone, there already, or on another disk
                    if not kept.exists():
                        kept.hardlink_to(file)

    def end(self) -> None:
        """Within a second."""
        self._ended.set()


@dataclass(frozen=True)
class Said:
    """What the status of the pool, and its Deployment, said from *at* on."""

    at: float
    conditions: Mapping[str, tuple[str, str]]
    """Type → status and reason."""
    ready: int
    replicas: int | None
    """That the Deployment asks for; None while there is none."""


class StatusLog(threading.Thread):
    """Looks at one pool twice a second and keeps what changed."""

    def __init__(self, api: Any, namespace: str, pool: str) -> None:
        super().__init__(name="status", daemon=True)
        self.said: list[Said] = []
        self._api = api
        self._pool = f"{GROUP}/namespaces/{namespace}/greenworkerpools/{pool}"
        self._deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{pool}-{Role.EVENTLET}"
        self._ended = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.wait(0.5):
            try:
                pool, deployment = self._api.find(self._pool), self._api.find(self._deployment)
            except RuntimeError:  # the API server is away
                continue
            status = (pool or {}).get("status") or {}
            conditions = {one["type"]: (one["status"], one.get("reason", "")) for one in status.get("conditions") or ()}
            replicas = None if deployment is None else int(deployment["spec"].get("replicas", 1))
            now = Said(time.monotonic(), conditions, int(status.get("readyReplicas", 0)), replicas)
            last = self.said[-1] if self.said else None
            if last is None or (last.conditions, last.ready, last.replicas) != (conditions, now.ready, replicas):
                self.said.append(now)

    def end(self) -> None:
        """Within a second."""
        self._ended.set()

    def reasons(self, condition: str, status: str, since: float) -> set[str]:
        """Why *condition* was said to be *status*, by what was said after *since*."""
        return {
            one.conditions[condition][1]
            for one in list(self.said)
            if one.at > since and one.conditions.get(condition, ("", ""))[0] == status
        }

    def scaled_in(self, since: float, until: float) -> list[tuple[int, int]]:
        """Each time that the Deployment was to have fewer workers than before, between two times."""
        known = [one for one in self._since(since) if one.at <= until and one.replicas is not None]
        return [
            (before.replicas, after.replicas)
            for before, after in pairwise(known)
            if before.replicas is not None and after.replicas is not None and after.replicas < before.replicas
        ]

    def _since(self, since: float) -> list[Said]:
        """What was said since *since*, and what held then."""
        known = list(self.said)
        first = max((number for number, one in enumerate(known) if one.at <= since), default=0)
        return known[first:]
