"""Where these runs take place: the machine's own cluster with the operator and its Prometheus, a pool of workers in a
namespace of its own, and the broker outside of the cluster, as a managed one is.

The tasks' log is a file of this machine, which the workers' pods have through a PersistentVolume: it outlives whatever
happens to pods, and its clock is the producer's.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import gc
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from demo import stage as demo_stage
from demo.api import GROUP, Api, ApiError
from demo.observer import OPERATOR_NAMESPACE, PROMETHEUS
from demo.shell import KUBE, run
from greenfleet.manifests.names import POOL_LABEL, ROLE_LABEL, WORKER_CONTAINER, Role
from tests.faults.cluster.pods import Book, Life, Logs, StatusLog, Watch
from tests.faults.fleet import APPS, DRAIN_SECONDS, RESTART_AFTER_SECONDS
from tests.faults.history import Event, Process, parse
from tests.integration.worker.harness import RabbitMQ, Redis, Relay, eventually
from tests.integration.worker.lanes import Lane, RabbitLane, RedisLane

NAMESPACE = "cluster-faults"
POOL = "ledger"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
OPERATORS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
POOL_PATH = f"{GROUP}/namespaces/{NAMESPACE}/greenworkerpools/{POOL}"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{POOL}-{Role.EVENTLET}"
IMAGES = ("greenfleet/feedhub:demo", "greenfleet/feedhub:again")
"""The users' image, with Celery and without Greenfleet, and the same one under another name."""

GREEN_THREADS = {"min": 5, "max": 20, "start": 20}
REPLICAS = {"min": 2, "max": 4}
WORKER_MEMORY_BYTES = 256 << 20
STORE_BYTES = 64 << 20
"""Of the disk of the bundled Prometheus in these runs: it is to be filled."""

READY_SECONDS = 180.0
"""For a new pool, on a busy machine: images are there already."""


@dataclass(frozen=True)
class Kubernetes:
    """The cluster, and short ways to it."""

    place: demo_stage.Stage
    api: Api

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl says; with *check* a failure is an AssertionError."""
        command = [str(self.place.helm.parent / "kubectl"), *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.place.kubeconfig)}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def apply(self, *manifests: dict[str, Any]) -> None:
        """All of them."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def patch(self, kind: str, name: str, namespace: str, patch: dict[str, Any], how: str = "merge") -> None:
        """Of one object."""
        self.kubectl("patch", kind, name, "-n", namespace, f"--type={how}", f"--patch={json.dumps(patch)}")

    @cached_property
    def node(self) -> dict[str, Any]:
        """The only one."""
        [found] = self.api.items("/api/v1/nodes")
        return found

    @property
    def node_name(self) -> str:
        return str(self.node["metadata"]["name"])

    @property
    def address(self) -> str:
        """Of this machine, as pods see it."""
        addresses = self.node["status"]["addresses"]
        return str(next(one["address"] for one in addresses if one["type"] == "InternalIP"))

    @property
    def server(self) -> tuple[str, int]:
        """Address and port of the API server."""
        name, _, port = self.api._client.configuration.host.removeprefix("https://").partition(":")
        return name, int(port)


def prepare() -> Kubernetes:
    """The cluster with the operator of this tree, and the users' image under both of its names."""
    place = demo_stage.local()
    api = Api(place.kubeconfig)
    revisions = demo_stage.build_images(lambda name: None)
    demo_stage.install_charts(place, api, revisions)
    image = next(one for one in demo_stage.IMAGES if one.name == "feedhub")
    run([KUBE, "image", "build", *image.build, "--tag", IMAGES[0], "--alias", IMAGES[1]])
    return Kubernetes(place, api)


class Ledger:
    """The tasks' log, read piece by piece."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.done = 0
        self.last_begun: dict[str, float] = {}
        self._position = 0

    def read(self) -> None:
        """What came since the last time."""
        with self.file.open() as opened:
            opened.seek(self._position)
            text = opened.read()
        complete = text[: text.rfind("\n") + 1]
        self._position += len(complete.encode())
        for event in parse(complete.splitlines()):
            self.done += event.what == "done"
            if event.what == "begun":
                self.last_begun[event.worker] = event.at


class Stage:
    """One pool on one broker."""

    def __init__(self, kubernetes: Kubernetes, broker: str, directory: Path, *, small_disk: bool) -> None:
        """*broker*: redis or quorum. *small_disk*: Prometheus gets a disk that can be filled."""
        self.kubernetes, self.broker, self._directory, self._small_disk = kubernetes, broker, directory, small_disk
        self.api = kubernetes.api
        for part in ("broker", "results", "ledger"):
            (directory / part).mkdir(parents=True)
        self.server = Redis(directory / "broker") if broker == "redis" else RabbitMQ(directory / "broker")
        self.results = Redis(directory / "results")
        self.relay = Relay(self.server.port, kubernetes.address)
        self._results_relay = Relay(self.results.port, kubernetes.address)
        self.lane: Lane = RedisLane(self.server) if isinstance(self.server, Redis) else RabbitLane(self.server, broker)
        self.done_file.touch()
        self.done_file.parent.chmod(0o777)  # of the pods' user
        self.done_file.chmod(0o666)
        self.ledger = Ledger(self.done_file)
        self.book = Book()
        self.status = StatusLog(Api(kubernetes.place.kubeconfig), NAMESPACE, POOL)
        self._watch = Watch(kubernetes.place.kubeconfig, NAMESPACE, self.book)
        self._logs = Logs(kubernetes.place.kubeconfig, NAMESPACE, directory / "logs")

    @property
    def done_file(self) -> Path:
        return self._directory / "ledger" / "done"

    def records(self) -> list[Process]:
        """All worker processes that there were."""
        return self.book.processes(monotonic())

    def events(self) -> list[Event]:
        """The whole log of the tasks."""
        return parse(self.done_file.read_text().splitlines())

    def start(self) -> None:
        """Until the pool is ready."""
        remove(self.kubernetes)
        if self._small_disk:
            store({"medium": "Memory", "sizeLimit": str(STORE_BYTES)}, self.kubernetes)
        self.kubernetes.apply(*self._things(), self.pool())
        for thread in (self._watch, self._logs, self.status):
            thread.start()
        since = monotonic()
        self.await_(lambda: self.works(since, begun=False), "the pool is ready", READY_SECONDS)

    def stop(self) -> None:
        """Removes all of it again."""
        for thread in (self._watch, self._logs, self.status):
            thread.end()
        try:
            remove(self.kubernetes)
            if self._small_disk:
                store({"medium": "", "sizeLimit": "2Gi"}, self.kubernetes)
        finally:
            for relay in (self.relay, self._results_relay):
                relay.close()
            self.server.stop()
            gc.collect()  # results that nobody reads leave their backend while it is there
            self.results.stop()

    def pool(self, **changes: Any) -> dict[str, Any]:
        """Its manifest, with other values of the spec."""
        env = {
            **self.lane.environment(),
            "JOURNAL": "/ledger/done",
            "PYTHONPATH": "/faults",
        }
        spec = {
            "app": "fault_app",
            "image": IMAGES[0],
            "broker": {"urlFrom": {"secretKeyRef": {"name": "urls", "key": "broker"}}},
            "resultBackend": {"urlFrom": {"secretKeyRef": {"name": "urls", "key": "results"}}},
            "queues": [self.lane.queue],
            "greenThreads": GREEN_THREADS,
            "replicas": REPLICAS,
            "scaling": {"maxWait": "10s"},
            "hubWatchdog": {"restartAfter": f"{RESTART_AFTER_SECONDS * 4}s"},
            "drain": {"timeout": f"{DRAIN_SECONDS}s"},
            "prefork": {"processes": 1, "replicas": {"min": 1, "max": 1}, "tasks": ["fault_app.heavy"]},
            "worker": {
                "env": [{"name": name, "value": value} for name, value in env.items()],
                "resources": {
                    "requests": {"cpu": "50m", "memory": "96Mi"},
                    "limits": {"memory": f"{WORKER_MEMORY_BYTES >> 20}Mi"},
                },
                "volumes": [
                    {"name": "ledger", "persistentVolumeClaim": {"claimName": "ledger"}},
                    {"name": "app", "configMap": {"name": "app"}},
                ],
                "volumeMounts": [
                    {"name": "ledger", "mountPath": "/ledger"},
                    {"name": "app", "mountPath": "/faults"},
                ],
            },
            **changes,
        }
        return {
            "apiVersion": "greenfleet.io/v1alpha1",
            "kind": "GreenWorkerPool",
            "metadata": {"name": POOL, "namespace": NAMESPACE},
            "spec": spec,
        }

    def url(self, server: Redis | RabbitMQ, relay: Relay) -> str:
        """As pods have it."""
        return str(server.url).replace(f"127.0.0.1:{server.port}", f"{self.kubernetes.address}:{relay.port}")

    def workers(self) -> list[dict[str, Any]]:
        """Pods of Eventlet workers that are to stay."""
        selector = f"{POOL_LABEL}={POOL},{ROLE_LABEL}={Role.EVENTLET}"
        pods = self.api.items(PODS, labelSelector=selector)
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def exporters(self) -> list[dict[str, Any]]:
        """Pods of the queue exporter that are to stay."""
        pods = self.api.items(PODS, labelSelector=f"{ROLE_LABEL}={Role.EXPORTER}")
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def operators(self) -> list[dict[str, Any]]:
        """Pods of the operator that are to stay."""
        pods = self.api.items(OPERATORS, labelSelector="app.kubernetes.io/name=greenfleet")
        return [
            pod
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp") and pod["spec"]["containers"][0]["name"] == "operator"
        ]

    def prometheus(self) -> list[dict[str, Any]]:
        """Its pods."""
        return self.api.items(OPERATORS, labelSelector="app.kubernetes.io/component=prometheus")

    def works(self, since: float, *, begun: bool = True) -> bool:
        """Whether the pool is as its spec says, knows its load, and each of its workers has begun a task since *since*
        (monotonic), or since its own start.
        """
        pool, deployment = self.api.find(POOL_PATH), self.api.find(DEPLOYMENT)
        if pool is None or deployment is None:
            return False
        status = pool.get("status") or {}
        conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        wanted = {"Ready": "True", "Stalled": "False", "Reconciling": "False", "MetricsAvailable": "True"}
        current = status.get("observedGeneration") == pool["metadata"]["generation"]
        if not current or not wanted.items() <= conditions.items():
            return False
        workers = self.workers()
        if len(workers) != deployment["spec"]["replicas"] or not all(map(is_ready, workers)):
            return False
        self.ledger.read()
        return not begun or all(
            self.ledger.last_begun.get(pod["metadata"]["name"], 0.0) > since for pod in workers
        )  # fmt: skip

    def await_(self, done: Callable[[], Any], what: str, seconds: float) -> Any:
        """The first true value of *done*, whatever the API server does meanwhile; AssertionError without one."""

        def asked() -> Any:
            try:
                return done()
            except ApiError:
                return None

        return eventually(asked, what, seconds, every=0.5)

    def lives(self, role: Role = Role.EVENTLET) -> list[Life]:
        """Pods of a role that are ready and to stay."""
        return [one for one in self.book.lives(role) if one.living and one.ready]

    def _things(self) -> list[dict[str, Any]]:
        """Namespace, volume, app and the broker's address."""
        meta = {"namespace": NAMESPACE}
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        urls = {"broker": self.url(self.server, self.relay), "results": self.url(self.results, self._results_relay)}
        volume = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(self.done_file.parent), "type": "Directory"},
            "claimRef": {"namespace": NAMESPACE, "name": "ledger"},
        }
        claim = {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": NAMESPACE,
            "resources": {"requests": {"storage": "1Gi"}},
        }
        app = {"fault_app.py": (APPS / "fault_app.py").read_text()}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": restricted}},
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": NAMESPACE}, "spec": volume},
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {**meta, "name": "ledger"},
                "spec": claim,
            },
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "name": "app"}, "data": app},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "urls"}, "stringData": urls},
        ]  # fmt: skip


def remove(kubernetes: Kubernetes) -> None:
    """Whatever a run has left in the cluster."""
    api = kubernetes.api
    api.delete(POOL_PATH)
    namespace = f"/api/v1/namespaces/{NAMESPACE}"
    api.delete(namespace)
    assert demo_stage.until(lambda: api.find(namespace) is None, 120), f"{NAMESPACE} is still being deleted"
    api.delete(f"/api/v1/persistentvolumes/{NAMESPACE}")


def store(empty_dir: dict[str, str], kubernetes: Kubernetes) -> None:
    """Where the bundled Prometheus has its data, from now on."""
    template = {"spec": {"volumes": [{"name": "data", "emptyDir": empty_dir}]}}
    kubernetes.patch("deployment", PROMETHEUS, OPERATOR_NAMESPACE, {"spec": {"template": template}}, "strategic")
    kubernetes.kubectl(
        "rollout", "status", f"deployment/{PROMETHEUS}", "-n", OPERATOR_NAMESPACE, "--timeout=120s"
    )  # fmt: skip


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the API server says so."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def container(pod: dict[str, Any], name: str = WORKER_CONTAINER) -> dict[str, Any]:
    """The status of one of its containers; empty while there is none."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return dict(next((one for one in statuses if one["name"] == name), {}))


def process_of(pod: dict[str, Any], name: str) -> int:
    """The process id, on this machine, of the first process of a container."""
    identity = container(pod, name)["containerID"].rpartition("/")[2]
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            mine = identity in (folder / "cgroup").read_text()
            status = (folder / "status").read_text() if mine else ""
        except OSError:  # it ended meanwhile
            continue
        spaces = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if spaces[-1:] == ["1"]:
            return int(folder.name)
    raise AssertionError(f"{pod['metadata']['name']} has no process of its container {name}")
