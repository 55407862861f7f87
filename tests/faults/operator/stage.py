"""Where operators live through faults: a real API server with its controllers, a real Prometheus, and stand-ins for
kubelet and workers.

One stage serves many lives at a time, each in a namespace of its own with operators of its own (`Replica`), which reach
the API server through a proxy of their own. What the exporter and the workers say is the test's to choose
(`Stage.load`).
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import os
import select
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import urllib3
import yaml

from greenfleet.manifests import names
from tests.faults.operator.nursery import Nursery
from tests.integration.operator.faulty_api import FaultyApi, Seen
from tests.integration.operator.harness import (
    STAND_IN,
    Api,
    Namespace,
    Object,
    Prometheus,
    Refused,
    Watched,
    eventually,
    http_status,
)
from tests.polling import pause
from tests.ports import free_port

TICK_SECONDS = 0.2
LEASE_SECONDS = 5

_WATCHED = (
    "/api/v1/pods",
    "/api/v1/configmaps",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/networkpolicies",
)


class Stage:
    """What all lives share."""

    def __init__(self, api: Api, prometheus: Prometheus, nursery: Nursery) -> None:
        self.api, self.prometheus, self.nursery = api, prometheus, nursery
        self.load: dict[tuple[str, str], int] = {}
        """Messages by (namespace, queue): what the exporters say of it."""
        self.hostile: dict[str, Callable[[str], str]] = {}
        """By namespace: what its pods export in place of what they would (`exposition`)."""
        self.namespaces: set[str] = set()
        """Those of living lives: the stand-in for kubelet looks after their pods."""
        self.chronicle = Chronicle(api)
        self._pods: dict[str, Object] = {}
        self._began = time()
        self._server = _exposition(self)
        self._stop, self._changed = threading.Event(), threading.Event()
        self._all_pods = Watched(api, "/api/v1/pods", self._changed)
        self._kubelet = threading.Thread(target=self._attend, daemon=True)
        self._kubelet.start()

    def close(self) -> None:
        """Ends what this stage itself has started."""
        self._stop.set()
        self._all_pods.stop()
        self._kubelet.join(20)
        self._server.shutdown()
        self.chronicle.close()

    def exposition(self, namespace: str, pod: str) -> str:
        """What a pod exports."""
        return self.hostile.get(namespace, str)(self._honest(namespace, pod))

    def _honest(self, namespace: str, pod: str) -> str:
        found = self._pods.get(f"{namespace}/{pod}")
        if found is None:
            return ""
        labels = found["metadata"]["labels"]
        queues = {queue: count for (where, queue), count in self.load.items() if where == namespace}
        if labels[names.ROLE_LABEL] == "exporter":
            broker = _measured_broker(found)
            lines = [f'greenfleet_queue_up{{broker="{broker}"}} 1']
            for queue, count in queues.items():
                of = f'{{broker="{broker}",queue="{queue}"}}'
                lines += [f"greenfleet_queue_messages_ready{of} {count}", f"greenfleet_queue_messages_unacked{of} 0"]
            return "\n".join(lines) + "\n"
        pool, role = labels[names.POOL_LABEL], labels[names.ROLE_LABEL]
        of = f'{{pool="{namespace}/{pool}",role="{role}",worker="{pod}"}}'
        threads = int((found["metadata"].get("annotations") or {}).get(names.THREADS_ANNOTATION, 10))
        busy = threads if queues.get(pool) and role == "eventlet" else 0
        done = int(5 * (time() - self._began)) if busy else 0
        return (
            f"greenworker_threads_limit{of} {threads}\ngreenworker_threads_busy{of} {busy}\n"
            f"greenworker_tasks_reserved{of} 0\ngreenworker_started_total{of} {done + busy}\n"
            f"greenworker_finished_total{of} {done}\n"
        )

    def _attend(self) -> None:
        """Kubelet's part of a pod's life, without its processes: bound, ready, and gone when it is told to go."""
        done: set[tuple[str, str]] = set()
        while not self._stop.is_set():
            self._changed.wait(0.2)  # also without a change: what failed is tried again
            self._changed.clear()
            listed = list((self._all_pods.objects or {}).values())
            mine = [pod for pod in listed if pod["metadata"]["namespace"] in self.namespaces]
            self._pods = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod for pod in mine}
            for pod in mine:
                try:
                    self._attend_to(pod, done)
                except (Refused, urllib3.exceptions.HTTPError):
                    continue  # it has changed; the watch will say so

    def _attend_to(self, pod: Object, done: set[tuple[str, str]]) -> None:
        """One step of a pod's life; each is taken once, though the watch shows it a moment later."""
        metadata = pod["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        step = "end" if "deletionTimestamp" in metadata else "run" if pod["spec"].get("nodeName") else "bind"
        if (metadata["uid"], step) in done:
            return
        if step == "end":
            self.prometheus.remove(key)
            self.api.delete(path, gracePeriodSeconds=0)
        elif step == "bind":
            target = {"apiVersion": "v1", "kind": "Node", "name": STAND_IN}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
            self.api.create(f"{path}/binding", body)
        else:
            self.api.merge(f"{path}/status", {"status": _ready_status(pod)})
            of = {"namespace": metadata["namespace"], "pod": metadata["name"], "__metrics_path__": f"/{key}"}
            self.prometheus.add(key, self._server.server_address[1], of)
        done.add((metadata["uid"], step))

    def forget(self, namespace: str) -> None:
        """A life is over: its pods are no longer looked after, nor scraped."""
        self.namespaces.discard(namespace)
        for key in [key for key in self.prometheus.names() if key.startswith(f"{namespace}/")]:
            self.prometheus.remove(key)
        for one in [one for one in self.load if one[0] == namespace]:
            del self.load[one]


def _measured_broker(pod: Object) -> str:
    """The broker that an exporter is told to measure."""
    variables = [variable for container in pod["spec"]["containers"] for variable in container["env"]]
    return str(next(one["value"] for one in variables if one["name"] == "GREENWORKER_BROKER"))


def _ready_status(pod: Object) -> Object:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("PodScheduled", "ContainersReady", "Ready")
    ]
    containers = [
        {
            "name": container["name"], "image": container["image"], "imageID": "", "ready": True, "started": True,
            "restartCount": 0, "state": {"running": {"startedAt": now}}, "lastState": {},
            "resources": container.get("resources") or {},
        }
        for container in pod["spec"]["containers"]
    ]  # fmt: skip
    return {"phase": "Running", "conditions": conditions, "containerStatuses": containers}


def _exposition(stage: Stage) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, namespace, pod = self.path.split("?")[0].split("/", 2)
            body = stage.exposition(namespace, pod).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a scrape that took too long
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return server


class Chronicle:
    """Every object that was created or deleted, and every number of workers that a fleet was given, by namespace, from
    watches of the test's own.

    A version that has expired is a gap: all is listed anew, and what came and went meanwhile is not known. A watch that
    ends for another reason is `dead`, and what it would have told of proves nothing from then on.
    """

    def __init__(self, api: Api, paths: Sequence[str] = _WATCHED) -> None:
        self._api = api
        self.gaps = 0
        """Times that a version had expired."""
        self.dead: list[str] = []
        """Watches that have ended, and why."""
        self._lock = threading.Lock()
        self._born: dict[str, dict[str, str]] = {}
        self._died: dict[str, dict[str, str]] = {}
        self._sizes: dict[str, list[tuple[str, int]]] = {}
        self._closed = False
        self._versions: dict[str, str] = {}
        self._there: dict[str, dict[str, Object]] = {}
        """By path and uid: what a list has to be compared with after a gap."""
        self._told: Counter[tuple[str, str]] = Counter()
        for path in paths:
            self._list(path, first=True)
            threading.Thread(target=self._watch, args=(path,), daemon=True).start()

    def close(self) -> None:
        self._closed = True

    def of(self, namespace: str) -> dict[str, int]:
        """How often what was `created …` and `deleted …`."""
        with self._lock:
            born, died = self._born.get(namespace, {}), self._died.get(namespace, {})
            found = Counter(f"created {what}" for what in born.values())
            found.update(f"deleted {what}" for what in died.values())
        return dict(sorted(found.items()))

    def sizes(self, namespace: str) -> list[tuple[str, int]]:
        """Each version of each fleet's Deployment, in order: its name and how many workers it asks for; 0 where it was
        deleted.
        """
        with self._lock:
            return list(self._sizes.get(namespace, ()))

    def told(self, namespace: str, kind: str) -> int:
        """How many events there were about objects of a kind (`pods`)."""
        with self._lock:
            return self._told[namespace, kind]

    def _watch(self, path: str) -> None:
        expired = False
        while not self._closed:
            try:
                if expired:
                    self._list(path)
                    self.gaps += 1
                    expired = False
                expired = not self._read(path)
            except (urllib3.exceptions.HTTPError, OSError):
                sleep(0.2)
            except Refused as refusal:
                if refusal.status != 429 and refusal.status < 500:
                    self.dead.append(f"{path}: {refusal}")
                    return
                sleep(0.2)
            except Exception as error:
                self.dead.append(f"{path}: {error!r}")
                return

    def _list(self, path: str, *, first: bool = False) -> None:
        """What was there before the first watch is not news."""
        listed = self._api.get(path)
        # The items of a list have no kind.
        kind = listed["kind"].removesuffix("List")
        there = {item["metadata"]["uid"]: {**item, "kind": kind} for item in listed["items"]}
        before = self._there.setdefault(path, {})
        if first:
            before.update((uid, _kept(item)) for uid, item in there.items())
        else:
            for uid in [uid for uid in before if uid not in there]:
                self._take(path, "DELETED", before[uid])
            for uid, item in there.items():
                self._take(path, "MODIFIED" if uid in before else "ADDED", item)
        self._versions[path] = listed["metadata"]["resourceVersion"]

    def _read(self, path: str) -> bool:
        """Until the watch ends; False when its version has expired. Raises Refused, urllib3's HTTPError and OSError."""
        query = {"watch": "true", "resourceVersion": self._versions[path], "allowWatchBookmarks": "true"}
        answer = self._api._http.request(
            "GET", self._api.server + path, fields=query, preload_content=False, timeout=urllib3.Timeout(5, 600)
        )
        rest = b""
        try:
            if answer.status == 410:
                return False
            if answer.status >= 400:
                raise Refused(answer.status, answer.data.decode())
            for chunk in answer.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"]["code"] == 410:
                            return False
                        raise Refused(event["object"]["code"], json.dumps(event["object"]))
                    self._versions[path] = event["object"]["metadata"]["resourceVersion"]
                    self._take(path, event["type"], event["object"])
                    if event["type"] != "BOOKMARK":
                        with self._lock:
                            self._told[event["object"]["metadata"]["namespace"], path.rpartition("/")[2]] += 1
                if self._closed:
                    break
        finally:
            answer.close()
        return True

    def _take(self, path: str, kind: str, found: Object) -> None:
        if kind == "BOOKMARK":
            return
        metadata = found["metadata"]
        if kind == "DELETED":
            self._there[path].pop(metadata["uid"], None)
        else:
            self._there[path][metadata["uid"]] = _kept(found)
        if found.get("kind") == "Deployment" and metadata.get("labels", {}).get(names.ROLE_LABEL) != "exporter":
            count = 0 if kind == "DELETED" else found["spec"]["replicas"]
            with self._lock:
                self._sizes.setdefault(metadata["namespace"], []).append((metadata["name"], count))
        if kind not in ("ADDED", "DELETED"):
            return
        if metadata["name"] == "kube-root-ca.crt":
            return
        where = self._born if kind == "ADDED" else self._died
        with self._lock:
            where.setdefault(metadata["namespace"], {})[metadata["uid"]] = _masked_name(found)


def _kept(found: Object) -> Object:
    """Of an object what its deletion is told with."""
    metadata = {key: value for key, value in found["metadata"].items() if key in ("name", "namespace", "uid", "labels")}
    return {"kind": found.get("kind", ""), "metadata": metadata}


def _masked_name(found: Object) -> str:
    """Kind and name, without what a controller chose at random or by a hash."""
    metadata = found["metadata"]
    kind = found.get("kind", "")
    if kind in ("Pod", "ReplicaSet"):
        return f"{kind} {metadata['name'].split(metadata['labels'].get('pod-template-hash', '-'))[0]}*"
    return f"{kind} {metadata['name']}"


class Replica:
    """One replica of the operator behind a proxy of its own, so that its requests are told from those of others."""

    def __init__(self, stage: Stage, namespace: Namespace, directory: Path, name: str, **settings: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.stage, self.namespace, self.name = stage, namespace, name
        self.port = free_port()
        self.log, self.config = directory / "log", directory / "config.yaml"
        self.proxy = FaultyApi(namespace.api.kubeconfig, directory)
        self.proxy.judge = self._judged
        self.judge: Callable[[Seen], Any] = lambda seen: None
        """Asked about each request, in the proxy's thread."""
        self.starts = 0
        self.pid = 0
        """Of the process that was started last."""
        self._process: int | None = None
        self.configure(**settings)

    def _judged(self, seen: Seen) -> Any:
        return self.judge(seen)

    def configure(self, **settings: Any) -> None:
        """For the next start."""
        server = {"url": self.stage.prometheus.url, "scrapeInterval": "1s", "timeout": "2s"}
        chosen = {
            "prometheus": {"servers": {"default": server}},
            "namespaces": [self.namespace.name],
            "tick": f"{TICK_SECONDS * 1000:g}ms",
            "leaseDuration": f"{LEASE_SECONDS}s",
            "logFormat": "text",
            **settings,
        }
        self.config.write_text(yaml.safe_dump(chosen))

    def start(self) -> None:
        """Does not wait until it is ready."""
        arguments = ["operator", "--config", str(self.config), "--kubeconfig", str(self.proxy.kubeconfig)]
        environment = {"POD_NAME": self.name, "POD_NAMESPACE": self.namespace.name}
        self.pid = self.stage.nursery.start([*arguments, "--port", str(self.port)], environment, self.log)
        self._hold(os.pidfd_open(self.pid))
        self.starts += 1

    def send(self, number: signal.Signals) -> None:
        """To this very process, also if it has ended by now."""
        assert self._process is not None
        try:
            signal.pidfd_send_signal(self._process, number)
        except ProcessLookupError:
            return

    def gone(self) -> bool:
        """Whether its process has ended."""
        if self._process is None:
            return True
        try:
            signal.pidfd_send_signal(self._process, 0)
        except ProcessLookupError:
            return True
        return _has_ended(self._process)

    def leads(self) -> bool:
        return "\ngreenfleet_leader 1.0" in self.text("/metrics")

    def text(self, path: str) -> str:
        """The answer of its web server; "" where there is none."""
        try:
            answer = _HTTP.request("GET", f"http://127.0.0.1:{self.port}{path}", timeout=2, retries=False)
        except urllib3.exceptions.HTTPError:
            return ""
        return answer.data.decode() if answer.status == 200 else ""

    def await_gone(self) -> None:
        eventually(self.gone, f"{self.name} has ended", 20)

    def ready(self) -> bool:
        return http_status(f"http://127.0.0.1:{self.port}/readyz") == 200

    def close(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)
        self.proxy.close()  # before the descriptor: what it judges may send a signal
        self._hold(None)

    def _hold(self, process: int | None) -> None:
        """The descriptor of this process in place of the last one's: a long run starts a thousand operators."""
        before, self._process = self._process, process
        if before is not None:
            os.close(before)


_HTTP = urllib3.PoolManager(maxsize=4)


def _has_ended(process: int) -> bool:
    """A file descriptor of a process is readable when it has ended."""
    polled = select.poll()  # `select.select` takes no descriptor above 1,023
    polled.register(process, select.POLLIN)
    return bool(polled.poll(0))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    began = monotonic()
    while not condition():
        waited = monotonic() - began
        if waited > seconds:
            return False
        sleep(pause(waited))
    return True
