"""KEDA's operator with as many ScaledObjects, on the same control plane, fed by the same Prometheus.

Only the operator runs: at zero workers it alone asks Prometheus and makes the first worker; the metrics adapter and the
HPAs come in above one worker, which no pool here reaches. It is built by `bench-scaling` (cluster/kubelocal/keda.py),
never here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.operator.harness import REPOSITORY, Api, Refused, cluster, eventually, http_status
from tests.ports import free_port

sys.path.insert(0, str(REPOSITORY / "cluster"))

from kubelocal import keda  # noqa: E402

POLL_SECONDS = 30
"""KEDA's default."""
COOLDOWN_SECONDS = 5
OBJECTS = "/apis/keda.sh/v1alpha1"


def is_built() -> bool:
    """Whether somebody has built KEDA on this machine."""
    return (keda.directory() / "operator").exists() and (keda.directory() / "crds").is_dir()


def scaled_object(namespace: str, pool: str, prometheus: str) -> dict[str, Any]:
    """What a user of KEDA writes for the same queue."""
    query = f'sum(greenfleet_queue_messages_ready{{namespace="{namespace}",queue="{pool}"}})'
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": pool, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"name": f"{pool}-eventlet"},
            "minReplicaCount": 0,
            "maxReplicaCount": 10,
            "pollingInterval": POLL_SECONDS,
            "cooldownPeriod": COOLDOWN_SECONDS,
            "triggers": [
                {
                    "type": "prometheus",
                    "metadata": {"serverAddress": prometheus, "query": query, "threshold": "100"},
                }
            ],
        },
    }


class Keda:
    """KEDA's operator as a process."""

    def __init__(self, api: Api, directory: Path) -> None:
        self.api = api
        self.directory = directory / "keda"
        self.directory.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self._define()
        self._certify()

    def _define(self) -> None:
        command = [f"{cluster('path')}/kubectl", f"--kubeconfig={self.api.kubeconfig}"]
        crds = str(keda.directory() / "crds")
        subprocess.run([*command, "apply", "--server-side", "-f", crds], check=True, stdout=subprocess.DEVNULL)
        if self.api.find("/api/v1/namespaces/keda") is None:
            self.api.create("/api/v1/namespaces", {"metadata": {"name": "keda"}})
        eventually(self._is_served, "ScaledObjects are served", 60)

    def _is_served(self) -> bool:
        try:
            return self.api.find(f"{OBJECTS}/scaledobjects") is not None
        except Refused:  # the API server is still making room for them
            return False

    def _certify(self) -> None:
        """For the service that its metrics adapter would talk to."""
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-keyout", str(self.directory / "tls.key"), "-out", str(self.directory / "tls.crt")]
        subprocess.run(command, check=True, capture_output=True)
        (self.directory / "ca.crt").write_bytes((self.directory / "tls.crt").read_bytes())

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        probe = free_port()
        self.process = subprocess.Popen(
            [
                str(keda.directory() / "operator"),
                f"--metrics-bind-address=127.0.0.1:{free_port()}",
                f"--health-probe-bind-address=127.0.0.1:{probe}",
                f"--metrics-service-bind-address=127.0.0.1:{free_port()}",
                f"--cert-dir={self.directory}",
                "--enable-webhook-patching=false",
                "--enable-apiservice-patching=false",
                "--kube-api-qps=200",  # its default of 20 would make the bench wait for a quarter of an hour
                "--kube-api-burst=400",
                "--zap-log-level=error",
            ],
            env={
                **os.environ,
                "KUBECONFIG": str(self.api.kubeconfig),
                "WATCH_NAMESPACE": "",
                "POD_NAMESPACE": "keda",
                "KEDA_CLUSTER_OBJECT_NAMESPACE": "keda",
            },
            stdout=(self.directory / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        eventually(lambda: http_status(f"http://127.0.0.1:{probe}/healthz") == 200, "KEDA answers", 60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def writes(self) -> float:
        """Requests so far that write ScaledObjects, HPAs and their statuses, as the API server counts them (the HPA
        controller's too).
        """
        text = self.api._http.request("GET", f"{self.api.server}/metrics").data.decode()
        wanted = re.compile(
            r'apiserver_request_total\{(?=.*group="(keda\.sh|autoscaling)")(?=.*verb="(POST|PUT|PATCH|APPLY)")'
        )
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if wanted.match(line))

    def ready(self) -> int:
        """How many ScaledObjects KEDA has taken on."""
        count = 0
        for item in self.api.items(f"{OBJECTS}/scaledobjects"):
            conditions = (item.get("status") or {}).get("conditions") or []
            count += any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        return count
