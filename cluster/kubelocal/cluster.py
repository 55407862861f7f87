"""Up, down and status: every step looks first, so that `up` repairs whatever is missing and leaves the rest alone."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kubelocal import binaries, debian, images, network, pki, runtime, topology
from kubelocal.api import Api
from kubelocal.components import Components
from kubelocal.errors import ClusterError
from kubelocal.places import Places
from kubelocal.processes import Process, Supervisor, terminate
from kubelocal.report import Report
from kubelocal.run import locked, remove_if_empty, wait_until
from kubelocal.topology import Kind, Topology

_READY_SECONDS = 180
_DOWN_GRACE_SECONDS = 0.5

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")
NODE = ("kube-scheduler", "containerd", "kubelet", "kube-proxy", "coredns")

_KUBELET_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_KUBELET_LOG_LINKS = Path("/var/log/containers")


@dataclass(frozen=True)
class Status:
    topology: Topology
    processes: dict[str, int | None]
    ready: bool

    @property
    def healthy(self) -> bool:
        return self.ready and all(self.processes.values())


class Cluster:
    def __init__(self, name: str, report: Report) -> None:
        self.places = Places(name)
        self._report = report
        self._supervisor = Supervisor(self.places)

    def up(self, kind: Kind) -> Topology:
        """Have the cluster running and ready."""
        full = kind is Kind.FULL
        if full and os.geteuid() != 0:
            raise ClusterError(
                "A full cluster makes network devices, mounts and cgroups, which takes root. "
                "Run this as root, or start only the API with --control-plane-only."
            )
        debian.ensure(debian.FOR_CONTROL_PLANE | (debian.FOR_NODE if full else {}), self._report)
        programs = binaries.ensure(binaries.PROGRAMS if full else binaries.CONTROL_PLANE_PROGRAMS, self._report)
        with locked(self.places.lock, waiting=lambda: self._report.say("  … another command works on this cluster")):
            chosen = topology.ensure(self.places, kind)
            keys = pki.ensure(self.places, chosen)
            components = Components(self.places, chosen, keys, programs)
            api = Api(chosen, keys)
            if full:
                # First, because the API server listens on the node's address.
                network.ensure(self.places)
            self._start_control_plane(components, api)
            if full:
                self._start_node(components, api, programs)
        return chosen

    def down(self) -> bool:
        """Remove the cluster, whatever is left of it. False if there was nothing."""
        with locked(self.places.lock):
            existed = self.places.state.exists() or self.places.run.exists() or bool(self._supervisor.marked())
            if not existed:
                return False
            chosen = topology.load(self.places)
            # The ones that would start containers again go first. Nothing that they could still write is kept.
            others = [name for name in self._supervisor.names() if name != "containerd"]
            self._supervisor.stop(others, grace_seconds=_DOWN_GRACE_SECONDS)
            if chosen is None or chosen.full:
                runtime.remove_everything(self.places, self._supervisor)
            self._supervisor.stop(self._supervisor.names())
            terminate(self._supervisor.marked())
            if chosen is not None and chosen.full:
                network.remove(self.places)
                _remove_kubelet_leftovers(self.places)
            shutil.rmtree(self.places.state, ignore_errors=True)
            if self.places.state.exists():
                raise ClusterError(f"{self.places.state} cannot be removed; is something still using it?")
        return True

    def status(self) -> Status | None:
        chosen = topology.load(self.places)
        if chosen is None:
            return None
        names = CONTROL_PLANE + (NODE if chosen.full else ())
        processes = {name: self._supervisor.pid(name) for name in names}
        ready = processes["kube-apiserver"] is not None and self._is_ready(chosen)
        return Status(chosen, processes, ready)

    def _is_ready(self, chosen: Topology) -> bool:
        api = Api(chosen, pki.Pki(self.places.pki))
        return api.ready() and (not chosen.full or _node_ready(api, chosen))

    def _start_control_plane(self, components: Components, api: Api) -> None:
        started = self._ensure(components.etcd())
        started |= self._ensure(components.api_server())
        self._wait("kube-apiserver", api.ready, "the API server answers", announce=started)
        self._ensure(components.controller_manager())
        self._wait(
            "kube-controller-manager",
            lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            "the controllers work",
            announce=started,
        )

    def _start_node(self, components: Components, api: Api, programs: Path) -> None:
        chosen = topology.ensure(self.places, Kind.FULL)
        runtime.ensure_cgroup(self.places)
        runtime.remove_dead_sandboxes(self.places, self._supervisor)
        self._ensure(components.scheduler())
        started = self._ensure(components.containerd())
        self._wait("containerd", lambda: runtime.answers(self.places), "containerd answers", announce=started)
        images.load(self.places, images.pause(programs))
        started |= self._ensure(components.kubelet())
        self._ensure(components.proxy())
        _grant_dns(api)
        started |= self._ensure(components.dns())
        # Both, because after a crash the node's last status still says Ready.
        kubelet_ready = partial(_answers_ok, chosen.ports.kubelet_health, "/healthz")
        self._wait(
            "kubelet",
            lambda: kubelet_ready() and _node_ready(api, chosen),
            f"node {chosen.name} is Ready",
            announce=started,
        )
        self._wait("coredns", partial(_answers_ok, chosen.ports.dns_ready, "/ready"), "names resolve", announce=started)
        for name, port in (("kube-scheduler", chosen.ports.scheduler), ("kube-proxy", chosen.ports.proxy_health)):
            self._wait(name, partial(_listens, port), f"{name} listens", announce=False)

    def _ensure(self, process: Process) -> bool:
        return self._supervisor.ensure(process)

    def _wait(self, name: str, condition: Callable[[], bool], text: str, *, announce: bool) -> None:
        """Until it is so; fail at once if the process that must make it so has ended."""

        def settled() -> bool:
            self._supervisor.check(name)
            return condition()

        if not announce:
            if not wait_until(settled, seconds=_READY_SECONDS):
                raise self._timeout(name, text)
            return
        with self._report.step(text):
            if not wait_until(settled, seconds=_READY_SECONDS):
                raise self._timeout(name, text)

    def _timeout(self, name: str, text: str) -> ClusterError:
        return ClusterError(f"Waited {_READY_SECONDS} s in vain until {text}. {self._supervisor.explain(name)}")


def _node_ready(api: Api, chosen: Topology) -> bool:
    node = api.get(f"/api/v1/nodes/{pki.node_name(chosen)}")
    if node is None:
        return False
    conditions = {condition["type"]: condition["status"] for condition in node["status"].get("conditions", [])}
    # The taint of a node that is not ready outlives the condition for a moment, and pods wait for it.
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers_ok(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _grant_dns(api: Api) -> None:
    """CoreDNS reads Services, their endpoints, pods and namespaces; no bootstrap role of Kubernetes grants that
    to it.
    """
    name = "system:coredns"
    group = "rbac.authorization.k8s.io"
    path = f"/apis/{group}/v1"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    api.apply(
        f"{path}/clusterroles/{name}",
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
    )
    api.apply(
        f"{path}/clusterrolebindings/{name}",
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "apiGroup": group, "name": name}],
        },
    )


def _remove_kubelet_leftovers(places: Places) -> None:
    """kubelet makes these in fixed places, whatever its root directory is."""
    (_KUBELET_DEVICE_PLUGINS / "kubelet.sock").unlink(missing_ok=True)
    for link in _KUBELET_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and places.state in link.readlink().parents:
            link.unlink()
    remove_if_empty(_KUBELET_DEVICE_PLUGINS, _KUBELET_DEVICE_PLUGINS.parent, _KUBELET_LOG_LINKS)
