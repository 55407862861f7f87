"""containerd with a configuration, directories and a socket of its own, and the removal of what its containers leave.

The machine's own containerd, if it has one, is neither used nor touched.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kubelocal import network
from kubelocal.places import Places
from kubelocal.processes import Supervisor, all_pids, command_line, terminate
from kubelocal.run import remove_if_empty, run, wait_until, write_if_changed

PAUSE_IMAGE = "localhost/greenfleet-pause:1"
NAMESPACE = "k8s.io"
"""The containerd namespace in which its Kubernetes plugin looks for images."""

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_SHIM = "containerd-shim-runc-v2"
_SHIM_SOCKETS = Path("/run/containerd/s")
_CLEAN_END_SECONDS = 5
_WEIGHTS = {"cpu.shares": 8 * 1024, "cpu.weight": 8 * 100}
"""All pods together weigh as much as eight processes; by default a build beside them would get as much CPU as all of
them.
"""

_CONFIGURATION = """\
version = 2
root = "{root}"
state = "{state}"
# Not in use, and each of them complains at every start.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{socket}"

[ttrpc]
  address = "{socket}.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Without CAP_SYS_RESOURCE nothing may lower its oom_score_adj, and no sandbox starts.
  restrict_oom_score_adj = true
  # So that everything to unmount is below one directory.
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{runc_root}"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{cni_configuration}"
"""


def ensure_configuration(places: Places) -> Path:
    path = places.config / "containerd.toml"
    places.run.mkdir(parents=True, exist_ok=True, mode=0o711)
    text = _CONFIGURATION.format(
        root=places.containerd_root,
        state=places.containerd_state,
        runc_root=places.run / "runc",
        socket=places.containerd_socket,
        pause_image=PAUSE_IMAGE,
        cni_plugins=network.CNI_PLUGINS,
        cni_configuration=network.cni_directory(places),
    )
    write_if_changed(path, text)
    return path


def ctr(places: Places, *arguments: str | Path, check: bool = True) -> str:
    return run(["ctr", "--address", places.containerd_socket, "--namespace", NAMESPACE, *arguments], check=check)


def answers(places: Places) -> bool:
    """Whether containerd serves its socket."""
    return places.containerd_socket.exists() and "Server" in ctr(places, "version", check=False)


def cgroup(places: Places) -> str:
    """The cgroup of all pods, so that what is in it is ours beyond doubt."""
    return f"/greenfleet-{places.name}"


def ensure_cgroup(places: Places) -> None:
    """kubelet insists that its cgroup root exists, in every hierarchy where cgroups are of version 1."""
    for hierarchy in _hierarchies():
        directory = hierarchy / cgroup(places).lstrip("/")
        _make_cgroup(hierarchy, directory)
        for setting, weight in _WEIGHTS.items():
            if (directory / setting).exists():
                (directory / setting).write_text(str(weight))


def _make_cgroup(hierarchy: Path, directory: Path) -> None:
    if not directory.exists():
        directory.mkdir()
        # A new version 1 cpuset has no CPUs and no memory nodes, and nothing can run in it.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            target = directory / setting
            if target.exists() and not target.read_text().strip():
                target.write_text((hierarchy / setting).read_text())


def remove_dead_sandboxes(places: Places, supervisor: Supervisor) -> None:
    """After a crash that no shim survived: make containerd find what it finds after a reboot.

    Mounts, network namespaces and addresses of containers that no longer run would otherwise stay, and containerd would
    wait for shims that never answer.
    """
    if supervisor.pid("containerd") is not None or _shims(places):
        return
    _kill_cgroup(places)
    _remove_shim_sockets(places)
    unmount_below(places.run, places.kubelet_root)
    shutil.rmtree(places.containerd_state, ignore_errors=True)
    network.forget_leases(places)


def remove_everything(places: Places, supervisor: Supervisor) -> None:
    """Containers, shims, mounts and cgroups, whether containerd is still there to help or not."""
    _kill_cgroup(places)
    if supervisor.pid("containerd") is not None:
        # It clears away after each container that has ended, and does it better than anybody else could.
        wait_until(lambda: not _shims(places), seconds=_CLEAN_END_SECONDS)
        supervisor.stop(["containerd"])
    terminate(_shims(places), grace_seconds=0)
    _kill_cgroup(places)
    _remove_shim_sockets(places)
    unmount_below(places.run, places.state)
    for hierarchy in _hierarchies():
        for directory in reversed(_tree(hierarchy / cgroup(places).lstrip("/"))):
            directory.rmdir()
    shutil.rmtree(places.run, ignore_errors=True)
    remove_if_empty(places.run.parent, _SHIM_SOCKETS, _SHIM_SOCKETS.parent)


def _remove_shim_sockets(places: Places) -> None:
    """A shim that was killed leaves its socket, in a place that all containerds share; it is named in the container's
    files.
    """
    for address in places.containerd_state.glob("io.containerd.runtime.v2.task/*/*/address"):
        socket = Path(address.read_text().removeprefix("unix://"))
        if socket.parent == _SHIM_SOCKETS:
            socket.unlink(missing_ok=True)


def unmount_below(*directories: Path) -> None:
    """Innermost first."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(directory in target.parents or directory == target for directory in directories):
            mounts.append(target)
    for target in reversed(mounts):
        run(["umount", "--lazy", target], check=False)


def _shims(places: Places) -> list[int]:
    """containerd's shims carry its socket among their arguments, and outlive it."""
    found = []
    for pid in all_pids():
        arguments = command_line(pid)
        if arguments and Path(arguments[0]).name == _SHIM and str(places.containerd_socket) in arguments:
            found.append(pid)
    return found


def _kill_cgroup(places: Places) -> None:
    """End every process of every pod. New ones may appear while we look, hence more than one round."""
    for _ in range(5):
        pids = _processes_in_cgroup(places)
        if not pids:
            return
        terminate(pids, grace_seconds=0)


def _processes_in_cgroup(places: Places) -> set[int]:
    pids: set[int] = set()
    for hierarchy in _hierarchies():
        for directory in _tree(hierarchy / cgroup(places).lstrip("/")):
            try:
                pids.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
            except OSError:
                continue
    return pids


def _tree(top: Path) -> list[Path]:
    """Parents first. Cgroups may disappear meanwhile, which `os.walk` does not mind."""
    return [Path(directory) for directory, _, _ in os.walk(top)]


def _hierarchies() -> list[Path]:
    """The mount points of cgroups: several of version 1, or one of version 2."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in {"cgroup", "cgroup2"}:
            found.append(Path(before.split()[4]))
    return [path for path in found if _CGROUP_ROOT in (path, *path.parents)]
