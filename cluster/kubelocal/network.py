"""The node's own address and the pods' network.

Pods are attached with the `ptp` plugin: each has its own veth and is routed by the host. With the `bridge` plugin, the
answer of a Service's backend would go straight to the client on layer 2, past the address translation, unless the
kernel has br_netfilter.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from kubelocal.places import Places
from kubelocal.run import remove_if_empty, run, write_if_changed
from kubelocal.topology import NODE_ADDRESS, POD_CIDR

NODE_DEVICE = "greenfleet0"
CNI_PLUGINS = Path("/usr/lib/cni")
_CNI_NETWORK = "greenfleet"
_CNI_RESULTS = Path("/var/lib/cni/results")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_MTU = 1500


def ensure(places: Places) -> None:
    _ensure_node_address()
    _ensure_forwarding(places)
    write_if_changed(cni_directory(places) / "10-pods.conflist", _cni_configuration(places), mode=0o644)


def cni_directory(places: Places) -> Path:
    return places.config / "cni"


def remove(places: Places) -> None:
    """Take away devices, tables and leases. Pods' veths have gone with their network namespaces."""
    if _device_exists():
        run(["ip", "link", "delete", NODE_DEVICE])
    for family in ("ip", "ip6"):
        run(["nft", "delete", "table", family, "kube-proxy"], check=False)
    # libcni keeps what it attached in one place for everybody; ours are known by the network's name.
    for result in _CNI_RESULTS.glob(f"{_CNI_NETWORK}-*"):
        sandbox = result.name.split("-")[1]
        for leftover in _CNI_RESULTS.glob(f"*-{sandbox}-*"):
            leftover.unlink()
    remove_if_empty(_CNI_RESULTS, _CNI_RESULTS.parent)
    before = _forwarding_before(places)
    if before.exists():
        _IP_FORWARD.write_text(before.read_text())


def forget_leases(places: Places) -> None:
    """Only while no pod has a network."""
    shutil.rmtree(_leases(places), ignore_errors=True)


def _ensure_node_address() -> None:
    # A bridge without ports: the `dummy` device that is made for this is missing from some kernels.
    if not _device_exists():
        run(["ip", "link", "add", NODE_DEVICE, "type", "bridge"])
        run(["ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", NODE_DEVICE])
        run(["ip", "link", "set", NODE_DEVICE, "up"])


def _device_exists() -> bool:
    return Path("/sys/class/net", NODE_DEVICE).exists()


def _ensure_forwarding(places: Places) -> None:
    current = _IP_FORWARD.read_text()
    if current.strip() != "1":
        write_if_changed(_forwarding_before(places), current)
        _IP_FORWARD.write_text("1")


def _forwarding_before(places: Places) -> Path:
    return places.state / "ip_forward.before"


def _leases(places: Places) -> Path:
    return places.state / "cni"


def _cni_configuration(places: Places) -> str:
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "mtu": _MTU,
        "ipam": {
            "type": "host-local",
            "dataDir": str(_leases(places)),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": _CNI_NETWORK, "plugins": [plugin]}, indent=2) + "\n"
