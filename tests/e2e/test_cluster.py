"""The promises of `cluster/` itself: what the other end-to-end tests take for granted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.polling import pause

KUBE = Path(__file__).resolve().parents[2] / "cluster" / "kube"
NAMESPACE = "cluster-test"
IMAGE = "localhost/greenfleet-cluster-test:dev"

SERVER = '''
import http.client, http.server, os, socket, ssl
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

def own_pod(_):
    """The API server's status for a read of this pod with the pod's own token, by the API's name in DNS."""
    tls = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    connection = http.client.HTTPSConnection("kubernetes.default", context=tls, timeout=5)
    token = (ACCOUNT / "token").read_text()
    path = f"/api/v1/namespaces/{(ACCOUNT / 'namespace').read_text()}/pods/{socket.gethostname()}"
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    return connection.getresponse().status

def resolve(name):
    try:
        return socket.gethostbyname(name)
    except socket.gaierror:
        return "unknown"

PAGES = {
    "ready": lambda _: "yes",
    "annotation": lambda _: Path("/podinfo/threads").read_text(),
    "own-pod": own_pod,
    "resolve": resolve,
    "user": lambda _: os.getuid(),
}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page, _, argument = self.path.strip("/").partition("/")
        body = str(PAGES[page](argument)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
'''

DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY server.py /server.py
USER 65532:65532
CMD ["python3", "/server.py"]
"""


@dataclass(frozen=True)
class Cluster:
    environment: dict[str, str]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], env=self.environment, input=stdin, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.kubectl(
            "apply",
            "--server-side",
            "-f",
            "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
        )

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))


def kube(*arguments: str) -> str:
    done = subprocess.run([str(KUBE), *arguments], text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"kube {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def environment(*which: str) -> dict[str, str]:
    binaries = kube("path")
    return {**os.environ, "KUBECONFIG": kube("kubeconfig", *which), "PATH": f"{binaries}:{os.environ['PATH']}"}


def eventually(condition: Callable[[], bool], *, seconds: float) -> bool:
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            return False
        time.sleep(pause(waited))
    return True


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The full cluster with one pod behind one Service. The cluster stays: others use it too."""
    kube("up", "--quiet")
    context = tmp_path_factory.mktemp("image")
    (context / "server.py").write_text(SERVER)
    (context / "Dockerfile").write_text(DOCKERFILE)
    kube(
        "image",
        "build",
        "test",
        f"--file={context / 'Dockerfile'}",
        f"--context={context}",
        f"--tag={IMAGE}",
        "--quiet",
    )
    running = Cluster(environment())
    running.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    running.apply(*manifests())
    running.kubectl("wait", "-n", NAMESPACE, "pod/probe", "--for=condition=Ready", "--timeout=60s")
    yield running
    running.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def manifests() -> list[dict[str, Any]]:
    meta = {"namespace": NAMESPACE, "name": "probe"}
    group = "rbac.authorization.k8s.io"
    container = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
        "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "podinfo", "mountPath": "/podinfo"}],
    }
    annotation = {"path": "threads", "fieldRef": {"fieldPath": "metadata.annotations['greenfleet.io/threads']"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta, "labels": {"app": "probe"}, "annotations": {"greenfleet.io/threads": "100"}},
        "spec": {
            "containers": [container],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "podinfo", "downwardAPI": {"items": [annotation]}}],
            "terminationGracePeriodSeconds": 0,
        },
    }
    reader = {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
    binding = {
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "probe"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE}],
    }
    service = {"selector": {"app": "probe"}, "ports": [{"port": 80, "targetPort": 8080}]}
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}},
        # Until the controller has made it, a bare pod of a new namespace is refused.
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": NAMESPACE, "name": "default"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, **reader},
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta, **binding},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        pod,
    ]


@pytest.fixture(scope="module")
def page(cluster: Cluster) -> Callable[[str], str]:
    """Read a page of the pod, through the Service's address and kube-proxy."""
    address = cluster.get("service", "probe", "-n", NAMESPACE)["spec"]["clusterIP"]

    def read(path: str) -> str:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=10) as response:
            return str(response.read(), "utf-8")

    def answers() -> bool:
        try:
            return read("ready") == "yes"
        except OSError:
            return False

    # A pod is Ready a moment before kube-proxy knows it.
    assert eventually(answers, seconds=5)
    return read


def test_a_restricted_pod_with_limits_and_a_probe_runs_behind_a_service(page: Callable[[str], str]) -> None:
    assert page("user") == "65532"


def test_a_pod_reads_the_api_with_its_own_token(page: Callable[[str], str]) -> None:
    assert page("own-pod") == "200"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, page: Callable[[str], str]) -> None:
    """The hardest way for the network: translated there and back on one and the same node."""
    # Not plain `probe`: that is the pod's own host name, and would not leave it.
    url = f"http://probe.{NAMESPACE}/ready"
    code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
    assert cluster.kubectl("exec", "-n", NAMESPACE, "probe", "--", "python3", "-c", code).strip() == "yes"


def test_names_of_services_resolve_and_names_of_the_internet_do_not(
    cluster: Cluster, page: Callable[[str], str]
) -> None:
    address = cluster.get("service", "probe", "-n", NAMESPACE)["spec"]["clusterIP"]
    assert page(f"resolve/probe.{NAMESPACE}.svc.cluster.local") == address
    assert page(f"resolve/probe.{NAMESPACE}") == address
    assert page("resolve/example.com") == "unknown"


def test_an_annotation_patched_through_pods_status_reaches_the_container_within_seconds(
    cluster: Cluster, page: Callable[[str], str]
) -> None:
    """The operator resizes green threads this way, and its role allows nothing else on pods."""

    def arrived(value: str) -> bool:
        return page("annotation") == value

    for value in ("250", "90"):
        patch = json.dumps({"metadata": {"annotations": {"greenfleet.io/threads": value}}})
        cluster.kubectl(
            "patch", "pod", "probe", "-n", NAMESPACE, "--subresource=status", "--type=merge", f"--patch={patch}"
        )
        assert eventually(partial(arrived, value), seconds=5)


def test_logs_of_a_container_can_be_read(cluster: Cluster, page: Callable[[str], str]) -> None:
    page("ready")
    assert "GET /ready" in cluster.kubectl("logs", "-n", NAMESPACE, "probe")


def test_an_image_is_built_again_only_if_what_it_copies_has_changed(tmp_path: Path) -> None:
    tag = "localhost/greenfleet-cluster-test-copy:dev"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY kept /kept\n")
    (tmp_path / "kept").write_text("1")

    def archive() -> str:
        kube("image", "build", "copy", f"--file={tmp_path / 'Dockerfile'}", f"--context={tmp_path}", f"--tag={tag}")
        archives = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "greenfleet" / "images" / "archives"
        )
        [found] = archives.glob("localhost_greenfleet-cluster-test-copy_dev@*.tar")
        return f"{found.name} {found.stat().st_mtime_ns}"

    first = archive()
    (tmp_path / "not copied").write_text("2")
    assert archive() == first
    (tmp_path / "kept").write_text("2")
    assert archive() != first


def test_a_node_whose_kubelet_and_runtime_were_killed_is_repaired_and_its_pods_live_on(
    cluster: Cluster, page: Callable[[str], str]
) -> None:
    processes = status("greenfleet")["processes"]
    for name in ("kubelet", "containerd"):
        os.kill(processes[name], signal.SIGKILL)
    kube("up", "--quiet")
    assert status("greenfleet")["healthy"]
    assert page("ready") == "yes"
    pod = cluster.get("pod", "probe", "-n", NAMESPACE)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0

    def can_be_entered() -> bool:
        """Not at once: kubelet gets its pods a moment after it is healthy."""
        command = ["kubectl", "exec", "-n", NAMESPACE, "probe", "--", "true"]
        return subprocess.run(command, env=cluster.environment, capture_output=True, check=False).returncode == 0

    assert eventually(can_be_entered, seconds=10)


@pytest.fixture(scope="module")
def control_plane() -> Iterator[str]:
    name = "cluster-test"
    kube("up", "--control-plane-only", f"--name={name}", "--quiet")
    yield name
    kube("down", f"--name={name}", "--quiet")


def status(name: str) -> Any:
    done = subprocess.run(
        [str(KUBE), "status", "--json", f"--name={name}"], text=True, capture_output=True, check=False
    )
    return json.loads(done.stdout)


def test_a_control_plane_alone_turns_a_deployment_into_pods(control_plane: str) -> None:
    api = Cluster(environment(f"--name={control_plane}"))
    api.kubectl("create", "deployment", "web", "--image=web", "--replicas=2")
    assert eventually(lambda: len(api.get("pods", "-l", "app=web")["items"]) == 2, seconds=20)


def test_up_leaves_alone_what_runs_and_replaces_what_was_killed(control_plane: str) -> None:
    before = status(control_plane)["processes"]
    kube("up", "--control-plane-only", f"--name={control_plane}", "--quiet")
    assert status(control_plane)["processes"] == before

    os.kill(before["etcd"], signal.SIGKILL)
    assert eventually(lambda: not status(control_plane)["healthy"], seconds=10)
    kube("up", "--control-plane-only", f"--name={control_plane}", "--quiet")
    after = status(control_plane)
    assert after["healthy"]
    assert after["processes"]["etcd"] != before["etcd"]


def test_a_pid_file_whose_pid_belongs_to_somebody_else_stops_nobody(control_plane: str) -> None:
    pid_file = Path(kube("kubeconfig", f"--name={control_plane}")).parent / "pids" / "etcd.json"
    record = json.loads(pid_file.read_text())
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text(json.dumps({**record, "pid": bystander.pid}))
        kube("up", "--control-plane-only", f"--name={control_plane}", "--quiet")
        assert bystander.poll() is None
        assert status(control_plane)["healthy"]
    finally:
        bystander.kill()
        bystander.wait()


def test_down_leaves_no_process_and_no_state() -> None:
    name = "cluster-test-down"
    kube("up", "--control-plane-only", f"--name={name}", "--quiet")
    state = Path(kube("kubeconfig", f"--name={name}")).parent
    pids = status(name)["processes"].values()
    kube("down", f"--name={name}", "--quiet")
    assert not state.exists()
    assert not [
        pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text()
    ]
