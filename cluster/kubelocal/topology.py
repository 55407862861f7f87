"""Which addresses and ports a cluster uses. Chosen once, then kept in the cluster's state.

The full cluster lives in 198.18.0.0/15, the range that RFC 2544 sets aside for benchmarks: it cannot collide with a
network that the machine is really in. Pods and Services need the kernel's network, so there is one full cluster per
machine. A control plane alone needs nothing but loopback ports, and any number of them runs side by side.
"""

from __future__ import annotations

import json
import re
import socket
import zlib
from dataclasses import asdict, dataclass
from enum import StrEnum

from kubelocal.errors import ClusterError
from kubelocal.places import Places, known_clusters
from kubelocal.run import write_if_changed

POD_CIDR = "198.18.0.0/16"
SERVICE_CIDR = "198.19.0.0/17"
API_SERVICE_ADDRESS = "198.19.0.1"
NODE_ADDRESS = "198.19.255.1"
CLUSTER_DOMAIN = "cluster.local"

_PORTS_FROM, _PORTS_TO = 20_000, 29_900
"""Below Kubernetes' NodePorts (30000) and Linux' ephemeral ports (32768), either of which could take one while a
process is being restarted.
"""


class Kind(StrEnum):
    FULL = "full"
    CONTROL_PLANE = "control-plane-only"


@dataclass(frozen=True)
class Ports:
    """Loopback ports, except `api`, which is on the topology's `api_address`."""

    api: int
    etcd_client: int
    etcd_peer: int
    controller_manager: int
    scheduler: int
    kubelet_health: int
    proxy_health: int
    proxy_metrics: int
    dns_health: int
    dns_ready: int


@dataclass(frozen=True)
class Topology:
    name: str
    kind: Kind
    ports: Ports

    @property
    def full(self) -> bool:
        return self.kind is Kind.FULL

    @property
    def api_address(self) -> str:
        """What the API server listens on: pods must reach it in a full cluster, nobody but this machine otherwise."""
        return NODE_ADDRESS if self.full else "127.0.0.1"

    @property
    def server(self) -> str:
        return f"https://{self.api_address}:{self.ports.api}"


def default_name(kind: Kind) -> str:
    return "greenfleet" if kind is Kind.FULL else "greenfleet-control-plane"


def load(places: Places) -> Topology | None:
    try:
        data = json.loads(places.topology.read_text())
    except FileNotFoundError:
        return None
    return Topology(name=data["name"], kind=Kind(data["kind"]), ports=Ports(**data["ports"]))


def ensure(places: Places, kind: Kind) -> Topology:
    """The topology that the cluster has, or a new one."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", places.name):
        raise ClusterError(
            f"--name {places.name!r}: a cluster's name is also its node's name and a directory; "
            "use at most 40 lower-case letters, digits and hyphens."
        )
    existing = load(places)
    if existing is not None:
        if existing.kind is not kind:
            raise ClusterError(
                f"Cluster {places.name!r} is {existing.kind}, not {kind}. "
                f"Take another --name, or remove it first with `cluster/kube down --name {places.name}`."
            )
        return existing
    if kind is Kind.FULL:
        _refuse_second_full_cluster(places.name)
    topology = Topology(name=places.name, kind=kind, ports=_choose_ports(places.name, kind))
    write_if_changed(places.topology, json.dumps(asdict(topology), indent=2) + "\n")
    return topology


def _refuse_second_full_cluster(name: str) -> None:
    for other in known_clusters():
        topology = load(Places(other))
        if topology is not None and topology.full:
            raise ClusterError(
                f"Cluster {other!r} has this machine's pod network already, so {name!r} cannot have it too. "
                f"Remove it first with `cluster/kube down --name {other}`, or start {name!r} with --control-plane-only."
            )


def _choose_ports(name: str, kind: Kind) -> Ports:
    """Free ports that no other cluster has claimed, not even one that is stopped at the moment."""
    others = [load(Places(other)) for other in known_clusters()]
    claimed = {port for other in others if other is not None for port in asdict(other.ports).values()}
    fields = [field for field in Ports.__dataclass_fields__ if not (field == "api" and kind is Kind.FULL)]
    candidate = _PORTS_FROM + zlib.crc32(name.encode()) % (_PORTS_TO - _PORTS_FROM)
    chosen: dict[str, int] = {"api": 6443}
    for field in fields:
        while candidate in claimed or not _is_free(candidate):
            candidate = _next(candidate)
        chosen[field] = candidate
        candidate = _next(candidate)
    return Ports(**chosen)


def _next(port: int) -> int:
    return port + 1 if port < _PORTS_TO else _PORTS_FROM


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
