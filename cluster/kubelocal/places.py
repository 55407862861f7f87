"""Where things live: this checkout, the cache that outlives every cluster, and one state directory per cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
"""The `cluster/` directory of this checkout."""

REPOSITORY = SOURCE.parent

_RUNTIME_ROOT = Path("/run/greenfleet")
"""Unix sockets live here: a path under a home directory may be longer than the 107 bytes that a socket address
takes.
"""


def cache() -> Path:
    return _xdg("XDG_CACHE_HOME", ".cache") / "greenfleet"


def state_root() -> Path:
    return _xdg("XDG_STATE_HOME", ".local/state") / "greenfleet"


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


@dataclass(frozen=True)
class Places:
    """The files of one cluster."""

    name: str

    @property
    def state(self) -> Path:
        return state_root() / self.name

    @property
    def run(self) -> Path:
        """Sockets and mounts; only the full cluster has them."""
        return _RUNTIME_ROOT / self.name

    @property
    def lock(self) -> Path:
        """In the cache, because `down` removes the state while it holds the lock."""
        return cache() / "locks" / f"{self.name}.lock"

    @property
    def topology(self) -> Path:
        return self.state / "topology.json"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        return self.state / "containerd"

    @property
    def containerd_state(self) -> Path:
        return self.run / "containerd"

    @property
    def kubelet_root(self) -> Path:
        return self.state / "kubelet"


def known_clusters() -> list[str]:
    """Names of the clusters that have state, running or not."""
    root = state_root()
    return sorted(path.name for path in root.iterdir() if (path / "topology.json").exists()) if root.is_dir() else []
