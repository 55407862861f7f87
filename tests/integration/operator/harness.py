"""A real API server with its controllers, a real Prometheus, a real Redis, and the operator as a process.

What is missing is kubelet: `Kubelet` here is a small honest stand-in that does, for the pods of one namespace, what the
operator relies on: it runs the containers' commands as processes with their environment, writes the downward-API and
ConfigMap files, probes readiness, reports status, and ends pods with SIGTERM.
Only processes started here are ever signalled, by their own id.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

from tests.polling import pause
from tests.ports import free_port

Object = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[3]
APPS = Path(__file__).parent / "apps"
POOLS = "/apis/greenfleet.io/v1alpha1"
DEBIAN_PACKAGES = "prometheus redis-server openssl"


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20.0, more: Callable[[], str] = str) -> Any:
    """The first true value of `condition`; an AssertionError that says `what` did not happen within `seconds`."""
    began = monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {value!r}) {more()}")
        sleep(pause(waited))


RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""The security context of a container in a namespace with the profile of that name."""


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise RuntimeError(f"{name} is missing: apt-get install --no-install-recommends {DEBIAN_PACKAGES}")
    return found


def http_status(url: str) -> int:
    """0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Refused(Exception):
    """The API server's answer to a request that it does not accept."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """A synchronous client with the administrator's certificate. Safe to use from several threads."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = cluster["server"]

        def file_of(where: Object, name: str) -> str:
            if name in where:
                return str(kubeconfig.parent / where[name])
            path = kubeconfig.parent / f"harness-{name}.pem"
            path.write_bytes(b64decode(where[f"{name}-data"]))
            path.chmod(0o600)
            return str(path)

        self._http = urllib3.PoolManager(
            maxsize=16,
            ca_certs=file_of(cluster, "certificate-authority"),
            cert_file=file_of(user, "client-certificate"),
            key_file=file_of(user, "client-key"),
            retries=False,
            timeout=20,
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Object:
        """Raises Refused."""
        answer = self._http.request(
            method,
            self.server + path + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "Accept": "application/json"},
        )
        text = answer.data.decode()
        if answer.status >= 400:
            try:
                message = json.loads(text).get("message", text)
            except ValueError:
                message = text
            raise Refused(answer.status, message)
        found: Object = json.loads(text) if text else {}
        return found

    def get(self, path: str, **query: str) -> Object:
        return self.ask("GET", path, **query)

    def find(self, path: str) -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(path)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Object]:
        return list(self.get(path, **query)["items"])

    def watch(self, path: str, version: str, seconds: int) -> Iterator[Object]:
        """The events after this version, for so many seconds. Raises Refused, urllib3's HTTPError and ValueError."""
        query = urlencode({"watch": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)})
        answer = self._http.request("GET", f"{self.server}{path}?{query}", preload_content=False)
        try:
            if answer.status >= 400:
                raise Refused(answer.status, answer.data.decode())
            rest = b""
            for chunk in answer.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
        finally:
            answer.close()

    def create(self, path: str, body: Object) -> Object:
        return self.ask("POST", path, body)

    def merge(self, path: str, patch: Object) -> Object:
        return self.ask("PATCH", path, patch, content_type="application/merge-patch+json")

    def apply(self, path: str, body: Object, manager: str = "user", force: str = "true") -> Object:
        return self.ask(
            "PATCH",
            path,
            body,
            content_type="application/apply-patch+yaml",
            fieldManager=manager,
            force=force,
            fieldValidation="Strict",
        )

    def delete(self, path: str, **options: Any) -> None:
        try:
            self.ask("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except Refused as refusal:
            if refusal.status != 404:
                raise


DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POD_MONITORS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""What the Prometheus operator brings, as far as ours needs it."""


class Namespace:
    """Everything in one namespace, by short names."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.name = name
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        eventually(lambda: api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"), f"{name} has an account")

    def path(self, kind: str, name: str = "") -> str:
        root = {
            "pods": "/api/v1",
            "configmaps": "/api/v1",
            "secrets": "/api/v1",
            "deployments": "/apis/apps/v1",
            "replicasets": "/apis/apps/v1",
            "poddisruptionbudgets": "/apis/policy/v1",
            "networkpolicies": "/apis/networking.k8s.io/v1",
            "podmonitors": "/apis/monitoring.coreos.com/v1",
            "leases": "/apis/coordination.k8s.io/v1",
            "events": "/apis/events.k8s.io/v1",
            "greenworkerpools": POOLS,
        }[kind]
        return f"{root}/namespaces/{self.name}/{kind}" + (f"/{name}" if name else "")

    def secret(self, name: str, **values: str) -> None:
        data = {key: b64encode(value.encode()).decode() for key, value in values.items()}
        self.api.apply(
            self.path("secrets", name),
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data},
        )

    def apply_pool(self, name: str, **spec: Any) -> Object:
        """A minimal pool with `spec` added, applied as a user does."""
        minimal = {
            "app": "hub_app",
            "image": "registry.example/hub:1",
            "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
            "queues": [name],
        }
        body = {
            "apiVersion": "greenfleet.io/v1alpha1",
            "kind": "GreenWorkerPool",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {**minimal, **spec},
        }
        return self.api.apply(self.path("greenworkerpools", name), body)

    def delete_pool(self, name: str, *, wait: bool = True) -> None:
        self.api.delete(self.path("greenworkerpools", name))
        if not wait:
            return  # a collector that has not met the kind before takes half a minute
        eventually(
            lambda: not self.find("greenworkerpools", name) and not self.find("deployments", f"{name}-eventlet"),
            f"{name} and its workers are gone",
            60,
        )

    def find(self, kind: str, name: str) -> Object | None:
        return self.api.find(self.path(kind, name))

    def pool(self, name: str) -> Object:
        return self.api.get(self.path("greenworkerpools", name))

    def condition(self, pool: str, kind: str) -> Object:
        """One condition, or an empty object while there is none."""
        found = (self.pool(pool).get("status") or {}).get("conditions") or []
        return next((condition for condition in found if condition["type"] == kind), {})

    def await_condition(self, pool: str, kind: str, status: str, reason: str = "", seconds: float = 30.0) -> Object:
        def holds() -> Object | None:
            found = self.condition(pool, kind)
            agrees = found.get("status") == status and (not reason or found["reason"] == reason)
            return found if agrees else None

        found: Object = eventually(
            holds,
            f"{pool} has {kind}={status} {reason}",
            seconds,
            lambda: json.dumps((self.pool(pool).get("status") or {}).get("conditions"), indent=1),
        )
        return found

    def deployment(self, pool: str, role: str = "eventlet") -> Object | None:
        return self.find("deployments", f"{pool}-{role}")

    def replicas(self, pool: str, role: str = "eventlet") -> int | None:
        found = self.deployment(pool, role)
        return None if found is None else int(found["spec"].get("replicas", 0))

    def pods(self, pool: str) -> list[Object]:
        return self.api.items(self.path("pods"), labelSelector=f"greenfleet.io/pool={pool}")

    def events(self, pool: str, reason: str = "") -> list[Object]:
        found = self.api.items(self.path("events"))
        return [
            event
            for event in found
            if (event.get("regarding") or {}).get("name") == pool and (not reason or event["reason"] == reason)
        ]


class Prometheus:
    """A real server whose targets are in a file, as labelled as pod discovery would label them."""

    def __init__(self, directory: Path, scrape_interval: str = "1s") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.targets_file = directory / "targets.json"
        self._targets: dict[str, Object] = {}
        self._lock = threading.Lock()
        self._write()
        config = {
            "global": {"scrape_interval": scrape_interval, "scrape_timeout": scrape_interval},
            "scrape_configs": [
                {
                    "job_name": "greenfleet",
                    "file_sd_configs": [{"files": [str(self.targets_file)], "refresh_interval": "1s"}],
                }
            ],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self.directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            stdout=(self.directory / "log").open("ab"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        eventually(lambda: http_status(f"{self.url}/-/ready") == 200, "Prometheus is ready")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def queries(self) -> float:
        """Instant queries that it has answered."""
        wanted = 'prometheus_http_requests_total{code="200",handler="/api/v1/query"} '
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)

    def add(self, key: str, port: int, labels: Mapping[str, str]) -> None:
        with self._lock:
            self._targets[key] = {"targets": [f"127.0.0.1:{port}"], "labels": dict(labels)}
            self._write()

    def remove(self, key: str) -> None:
        with self._lock:
            self._targets.pop(key, None)
            self._write()

    def relabel(self, key: str, labels: Mapping[str, str]) -> None:
        """Other target labels for one target."""
        with self._lock:
            self._targets[key]["labels"] = dict(labels)
            self._write()

    def names(self) -> list[str]:
        return list(self._targets)

    def _write(self) -> None:
        new = self.targets_file.with_suffix(".new")
        new.write_text(json.dumps(list(self._targets.values())))
        new.replace(self.targets_file)


class Operator:
    """One replica of the operator, as a process of its own."""

    def __init__(
        self,
        directory: Path,
        namespace: Namespace,
        prometheus_url: str,
        name: str = "operator-1",
        **settings: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.namespace = namespace
        self.port = free_port()
        self.log = directory / f"{name}.log"
        self.config = directory / f"{name}.yaml"
        server = {"url": prometheus_url, "scrapeInterval": "1s", "timeout": "2s"}
        chosen = {
            "prometheus": {"servers": {"default": server}},
            "namespaces": [namespace.name],
            "tick": "500ms",
            "leaseDuration": "6s",
            "logFormat": "text",
            **settings,
        }
        self.config.write_text(yaml.safe_dump(chosen))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, kubeconfig: Path | None = None) -> Operator:
        command = [sys.executable, "-m", "greenfleet", "operator", "--config", str(self.config)]
        command += ["--kubeconfig", str(kubeconfig or self.namespace.api.kubeconfig), "--port", str(self.port)]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "POD_NAME": self.name, "POD_NAMESPACE": self.namespace.name},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        eventually(lambda: self.status("/readyz") == 200 or self.gone(), f"{self.name} is ready", 30, self.tail)
        assert not self.gone(), self.tail()
        return self

    def gone(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def status(self, path: str) -> int:
        return http_status(f"http://127.0.0.1:{self.port}{path}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def metric(self, series: str) -> float | None:
        """The value of one series, written as in the exposition."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        return None

    def leads(self) -> bool:
        return self.metric("greenfleet_leader") == 1

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


@dataclass
class RunningPod:
    """One pod as the stand-in runs it."""

    name: str
    directory: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    waiting: tuple[str, str] | None = None
    """Why it cannot start, in kubelet's words; tried again at every look."""
    stands_in: bool = False
    """Only said to be ready."""
    reported: Object = field(default_factory=dict)
    shown_for: Object | None = None
    """The pod's annotations when a ConfigMap was last shown to it."""
    ready: bool = False
    probed_at: float = 0.0
    terminating: bool = False


NODES = "/api/v1/nodes"
STAND_IN = "stand-in"
"""The node that our stand-in for kubelet speaks for. It need not exist, but for those who ask the API server
about it.
"""


@contextlib.contextmanager
def live_node(api: Api, name: str) -> Iterator[None]:
    """A node with room for one worker of a core, and the signs of life that its controller asks for."""
    room, stop = {"cpu": "1500m", "memory": "8Gi", "pods": "20"}, threading.Event()
    status = {"capacity": room, "allocatable": room, "conditions": [_alive()]}
    api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status})

    def live() -> None:
        while not stop.wait(5):
            api.merge(f"{NODES}/{name}/status", {"status": {"conditions": [_alive()]}})

    heart = threading.Thread(target=live, name="node", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join(30)
        api.delete(f"{NODES}/{name}")


def _alive() -> Object:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now, "lastTransitionTime": now}


class Watched:
    """The objects of one kind, by `namespace/name`: listed once, then followed by a watch. Who asks for them ten times
    a second makes the API server the dearest process of all tests.
    """

    def __init__(self, api: Api, path: str, changed: threading.Event) -> None:
        self.objects: dict[str, Object] | None = None
        """None: not listed yet."""
        self._api, self._path, self._changed = api, path, changed
        self._stop = threading.Event()
        threading.Thread(target=self._run, name=f"watch {path}", daemon=True).start()

    def stop(self) -> None:
        """Its thread ends with the watch that it has open."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Refused, urllib3.exceptions.HTTPError, ValueError):
                self._follow()
            self._stop.wait(0.2)  # then it is listed again

    def _follow(self) -> None:
        listed = self._api.get(self._path)
        objects = {_key(item): item for item in listed["items"]}
        version = listed["metadata"]["resourceVersion"]
        self.objects = objects
        self._changed.set()
        while not self._stop.is_set():
            for event in self._api.watch(self._path, version, seconds=10):
                if event["type"] == "ERROR":
                    return
                found = event["object"]
                version = found["metadata"]["resourceVersion"]
                if event["type"] == "DELETED":
                    objects.pop(_key(found), None)
                else:
                    objects[_key(found)] = found
                self._changed.set()


def _key(found: Object) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


class Kubelet:
    """Runs the pods of one namespace. `runs(pod)` says which pods are processes; the others are only said to be ready.

    With `binds` off, a real scheduler has to find a node for each.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        prometheus: Prometheus,
        runs: Callable[[Object], bool] = lambda pod: True,
        *,
        binds: bool = True,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.namespace = namespace
        self.directory = directory
        self.prometheus = prometheus
        self.runs = runs
        self.binds = binds
        self.pods: dict[str, RunningPod] = {}
        self.started: list[str] = []
        """Names of all pods ever run here, in order."""
        self.failure: BaseException | None = None
        self._agent: Path | None = None
        self._bound: set[str] = set()
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._shown = {
            kind: Watched(namespace.api, namespace.path(kind), self._changed)
            for kind in ("pods", "configmaps", "secrets")
        }
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for watched in self._shown.values():
            watched.stop()
        self._thread.join(30)
        for pod in self.pods.values():
            self._kill(pod)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except (Refused, urllib3.exceptions.HTTPError) as error:
                self.failure = error  # the next look comes soon
            self._changed.wait(0.1)  # processes and probes are looked at that often
            self._changed.clear()

    def _look(self) -> None:
        shown = self._shown["pods"].objects
        if shown is None:
            return
        listed = list(shown.values())
        for pod in listed:
            self._sync(pod)
        gone = self.pods.keys() - {pod["metadata"]["uid"] for pod in listed}
        for uid in gone:
            self._kill(self.pods.pop(uid))

    def _sync(self, pod: Object) -> None:
        metadata = pod["metadata"]
        running = self.pods.get(metadata["uid"])
        if not pod["spec"].get("nodeName"):
            if self.binds and "deletionTimestamp" not in metadata and metadata["uid"] not in self._bound:
                self._bind(metadata["name"])
                self._bound.add(metadata["uid"])
            return
        if self.binds and pod["spec"]["nodeName"] != STAND_IN:
            return  # another node's
        if running is None:
            if "deletionTimestamp" in metadata:
                self._remove(metadata["name"])
                return
            running = self.pods[metadata["uid"]] = RunningPod(metadata["name"], self.directory / metadata["name"])
            running.directory.mkdir(exist_ok=True)
        if "deletionTimestamp" in metadata:
            self._end(pod, running)
            return
        self._write_files(pod, running)
        if running.process is None and not running.stands_in:
            self._start(pod, running)
        self._report(pod, running)

    def _bind(self, name: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": STAND_IN},
        }
        self.namespace.api.create(f"{self.namespace.path('pods', name)}/binding", binding)

    def _write_files(self, pod: Object, running: RunningPod) -> None:
        """What the volumes of the pod would show; rewritten whenever the API says something else."""
        annotations = pod["metadata"].get("annotations") or {}
        self._write(running.directory / "threads", annotations.get("greenfleet.io/threads", ""))
        for volume in pod["spec"].get("volumes", ()):
            if volume["name"] == "greenfleet-pool":
                config = self._find(running, "configmaps", volume["configMap"]["name"]) or {}
                for key in ("threads", "routes"):
                    self._write(running.directory / f"start-{key}", (config.get("data") or {}).get(key, ""))
            if volume["name"] == "queues":
                self._show_queues(pod, running, volume["configMap"]["name"])
            if volume["name"] == "broker":
                sources = volume["projected"]["sources"] if "projected" in volume else [volume]
                for source in (one["secret"] for one in sources):
                    secret = self._find(running, "secrets", source.get("secretName") or source["name"])
                    for item in source["items"]:
                        if secret is not None and item["key"] in (secret.get("data") or {}):
                            text = b64decode(secret["data"][item["key"]]).decode()
                            self._write(running.directory / item["path"], text)

    def _find(self, running: RunningPod, kind: str, name: str) -> Object | None:
        """As it is now for a pod that starts, as the watch shows it for one that runs."""
        shown = self._shown[kind].objects
        if shown is None or (running.process is None and not running.stands_in):
            return self.namespace.find(kind, name)
        return shown.get(f"{self.namespace.name}/{name}") or self.namespace.find(kind, name)

    def _show_queues(self, pod: Object, running: RunningPod, name: str) -> None:
        """As kubelet does it: a ConfigMap that changes is shown when the pod changes (or after a minute or two, which
        no test waits for).
        """
        annotations = pod["metadata"].get("annotations") or {}
        if running.shown_for == annotations:
            return
        config = self.namespace.find("configmaps", name)
        if config is not None:
            running.shown_for = annotations
            queues = (config.get("data") or {}).get("queues")
            if (
                queues is not None
            ):  # None: an exporter that goes; its ConfigMap is emptied before the collector takes it
                self._write(running.directory / "queues", queues)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        if path.exists() and path.read_text() == text:
            return
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.replace(path)

    def _start(self, pod: Object, running: RunningPod) -> None:
        container = pod["spec"]["containers"][0]
        running.port = free_port()
        directory = running.directory
        environment = dict(os.environ)
        try:
            for entry in container["env"]:
                environment[entry["name"]] = self._value(entry, pod)
        except LookupError as missing:
            running.waiting = ("CreateContainerConfigError", str(missing.args[0]))
            return
        running.waiting = None
        environment |= {
            "GREENWORKER_THREADS_FILE": str(directory / "threads"),
            "GREENWORKER_START_FILE": str(directory / "start-threads"),
            "GREENWORKER_ROUTES_FILE": str(directory / "start-routes"),
            "GREENWORKER_BROKER_URL_FILE": str(directory / "url"),
            "GREENWORKER_BROKER_DIRECTORY": str(directory),
            "GREENWORKER_QUEUES_FILE": str(directory / "queues"),
            "GREENWORKER_METRICS_PORT": str(running.port),
            "GREENWORKER_TERMINATION_LOG": str(directory / "termination"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if not self.runs(pod):
            running.stands_in = True
            return
        command = [sys.executable, *container["command"][1:], *container.get("args", ())]
        if "/greenfleet/bin/launch.py" in command:
            command[1] = str(self._injected() / "bin" / "launch.py")
        running.process = subprocess.Popen(
            command,
            cwd=APPS,
            env=environment,
            stdout=(directory / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        self.started.append(running.name)
        self.prometheus.add(running.name, running.port, {"namespace": self.namespace.name, "pod": running.name})

    def _injected(self) -> Path:
        if self._agent is None:
            agent = self.directory / "agent"
            agent.mkdir(exist_ok=True)
            subprocess.run([sys.executable, "-m", "greenworker.bootstrap.inject", str(agent)], check=True)
            self._agent = agent
        return self._agent

    def _value(self, entry: Object, pod: Object) -> str:
        """Raises LookupError with kubelet's words."""
        source = entry.get("valueFrom")
        if source is None:
            return str(entry.get("value", "")).replace("$$", "$")
        if "fieldRef" in source:
            return str(pod["metadata"][source["fieldRef"]["fieldPath"].removeprefix("metadata.")])
        reference = source["secretKeyRef"]
        secret = self.namespace.find("secrets", reference["name"])
        if secret is None:
            raise LookupError(f'secret "{reference["name"]}" not found')
        if reference["key"] not in (secret.get("data") or {}):
            raise LookupError(
                f"couldn't find key {reference['key']} in Secret {self.namespace.name}/{reference['name']}"
            )
        return b64decode(secret["data"][reference["key"]]).decode()

    def _report(self, pod: Object, running: RunningPod) -> None:
        container = pod["spec"]["containers"][0]
        ready = False
        state: Object = {"running": {}}
        last: Object = {}
        if running.waiting is not None:
            reason, message = running.waiting
            state = {"waiting": {"reason": reason, "message": message}}
        elif running.process is None:
            ready = running.stands_in
        elif running.process.poll() is not None:
            log = running.directory / "termination"
            message = log.read_text() if log.exists() else ""
            terminated = {"exitCode": running.process.returncode, "reason": "Error", "message": message}
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
            last = {"terminated": terminated}
            self.prometheus.remove(running.name)
        else:
            ready = self._probe(running)
        new = {"ready": ready, "state": state, "last": last}
        if new == running.reported:
            return
        running.reported = new
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = "True" if ready else "False"
        conditions = [
            {"type": kind, "status": value, "lastTransitionTime": now}
            for kind, value in (("PodScheduled", "True"), ("ContainersReady", status), ("Ready", status))
        ]
        one = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": state,
            "lastState": last,
            "resources": container.get("resources") or {},
        }
        phase = "Pending" if "waiting" in state and not last else "Running"
        patch = {"status": {"phase": phase, "conditions": conditions, "containerStatuses": [one]}}
        self.namespace.api.merge(f"{self.namespace.path('pods', running.name)}/status", patch)

    @staticmethod
    def _probe(running: RunningPod) -> bool:
        """Often until it is ready, then as often as the pods' own probes say: a probe costs the worker CPU that it is
        judged by.
        """
        if monotonic() - running.probed_at >= (2.0 if running.ready else 0.3):
            running.ready = http_status(f"http://127.0.0.1:{running.port}/readyz") == 200
            running.probed_at = monotonic()
        return running.ready

    def _end(self, pod: Object, running: RunningPod) -> None:
        if running.process is not None and not running.terminating:
            running.terminating = True
            running.process.terminate()
        if running.process is None or running.process.poll() is not None:
            self._remove(running.name)

    def _remove(self, name: str) -> None:
        self.prometheus.remove(name)
        self.namespace.api.delete(self.namespace.path("pods", name), gracePeriodSeconds=0)

    def _kill(self, running: RunningPod) -> None:
        self.prometheus.remove(running.name)
        if running.process is not None and running.process.poll() is None:
            running.process.kill()
            running.process.wait(10)

    def processes(self, pool: str) -> list[RunningPod]:
        return [pod for pod in self.pods.values() if pod.name.startswith(f"{pool}-eventlet-")]

    def tail(self) -> str:
        logs = [(pod.name, pod.directory / "log") for pod in self.pods.values()]
        return "\n".join(
            f"--- {name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for name, log in logs
            if log.exists()
        )


def only_exporters(pod: Object) -> bool:
    """For `Kubelet.runs`: workers are only said to be ready."""
    return bool(pod["metadata"]["labels"].get("greenfleet.io/role") == "exporter")


_NUMBERS = itertools.count(1)


def fresh_name(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{next(_NUMBERS)}"


def kubectl(api: Api, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """kubectl as a user runs it."""
    return subprocess.run(
        [program("kubectl"), f"--kubeconfig={api.kubeconfig}", *arguments],
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
        timeout=90,
    )


def cluster(*arguments: str) -> str:
    """The project's own Kubernetes."""
    command: Sequence[str] = [str(REPOSITORY / "cluster" / "kube"), *arguments]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def control_plane(name: str) -> Iterator[Api]:
    """A fresh API server with its controllers, and nothing of ours on it; kubectl is on PATH. Gone afterwards."""
    place = ("--control-plane-only", "--name", name)
    cluster("down", *place)
    cluster("up", *place)
    try:
        os.environ["PATH"] = f"{os.environ['PATH']}:{cluster('path')}"
        yield Api(Path(cluster("kubeconfig", *place)))
    finally:
        cluster("down", *place)


def define_pools(api: Api) -> None:
    """Creates our CustomResourceDefinition, and waits until it is served."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crd = yaml.safe_load((REPOSITORY / "crds" / "greenfleet.io_greenworkerpools.yaml").read_text())
    api.create(definitions, crd)

    def established() -> bool:
        status = api.get(f"{definitions}/{crd['metadata']['name']}").get("status") or {}
        conditions = status.get("conditions") or []
        return ("Established", "True") in [(one["type"], one["status"]) for one in conditions]

    eventually(established, "the CRD is established")
    eventually(lambda: api.find(POOLS) is not None, "the resource is served")
