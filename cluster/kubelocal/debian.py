"""The Debian packages that the cluster and the tests need, installed only if they are missing.

None of their services is used: containerd, the brokers and Prometheus run with configurations of ours as our own
processes. So none may start on installation: a `policy-rc.d` says so for as long as apt runs, where the machine has
none of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubelocal.errors import ClusterError
from kubelocal.places import cache
from kubelocal.report import Report
from kubelocal.run import run, system_path

FOR_CONTROL_PLANE = {"openssl": "openssl"}
"""Package name to a program or file (a pattern) that shows it is there, however it was installed."""

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

FOR_TESTS = {
    "redis-server": "redis-server",
    "rabbitmq-server": "/usr/sbin/rabbitmq-server",
    "prometheus": "prometheus",
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
}

_POLICY = Path("/usr/sbin/policy-rc.d")
_FORBIDDEN = 101
"""Exit status of policy-rc.d for "do not start it" (Debian policy, invoke-rc.d)."""
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
    with report.step(f"installing {names}", usual_seconds=_STEP_SECONDS), _no_services():
        run(["apt-get", "update"], env=environment, log=log)
        run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], env=environment, log=log)


@contextmanager
def _no_services() -> Iterator[None]:
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(f"#!/bin/sh\nexit {_FORBIDDEN}\n", encoding="utf-8")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _present(evidence: str) -> bool:
    if evidence.startswith("/"):
        return any(Path("/").glob(evidence[1:]))
    return shutil.which(evidence, path=system_path()) is not None
