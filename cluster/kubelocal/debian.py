"""The Debian packages that the cluster needs, installed only if they are missing.

None of their services is used: containerd runs with its own configuration as our own process. Where a package starts its
service on installation (some machines forbid that, most do not), the service is stopped again, by pid.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from kubelocal.errors import ClusterError
from kubelocal.places import cache
from kubelocal.report import Report
from kubelocal.run import run, system_path

FOR_CONTROL_PLANE = {"openssl": "openssl"}
"""Package name to a program or file that shows it is there, however it was installed."""

FOR_NODE = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "nftables": "nft",
    "iproute2": "ip",
    "conntrack": "conntrack",
    "mount": "mount",
}

FOR_IMAGES = {
    "buildah": "buildah",
    "runc": "runc",
    "debootstrap": "debootstrap",
}

_SERVICE_PROGRAMS = {"/usr/bin/containerd"}
_STEP_SECONDS = 40


def ensure(packages: dict[str, str], report: Report) -> None:
    """Install those whose program or file is not there."""
    missing = [package for package, evidence in packages.items() if not _present(evidence)]
    if missing:
        install(missing, report)


def install(packages: list[str], report: Report) -> None:
    names = ", ".join(packages)
    if os.geteuid() != 0:
        raise ClusterError(
            f"These Debian packages are missing: {names}. "
            f"Only root can install them: `apt-get install {' '.join(packages)}`."
        )
    log = cache() / "logs" / "apt.log"
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    before = _service_processes()
    with report.step(f"installing {names}", usual_seconds=_STEP_SECONDS):
        run(["apt-get", "update"], env=environment, log=log)
        run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], env=environment, log=log)
    for pid in _service_processes() - before:
        os.kill(pid, signal.SIGTERM)


def _present(evidence: str) -> bool:
    return (
        Path(evidence).exists() if evidence.startswith("/") else shutil.which(evidence, path=system_path()) is not None
    )


def _service_processes() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if str((entry / "exe").readlink()) in _SERVICE_PROGRAMS:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found
