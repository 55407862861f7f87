"""Tells Prometheus which pods to scrape, over HTTP service discovery.

Debian's Prometheus is built without Kubernetes discovery. This does what its configuration would do: it lists the pods
that carry `greenfleet.io/scrape=true`, and attaches the labels `namespace` and `pod` from the API server's answer, not from
anything that a pod says about itself. When the API does not answer, neither does this, and Prometheus keeps what it has.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PODS = "/api/v1/pods?labelSelector=greenfleet.io%2Fscrape%3Dtrue&resourceVersion=0"
PORT_NAME = "metrics"
TIMEOUT_SECONDS = 4


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pods as Prometheus wants them: every running pod's port `metrics`."""
    found = []
    for pod in pods:
        address = pod.get("status", {}).get("podIP")
        if not address or pod["status"].get("phase") in {"Succeeded", "Failed"}:
            continue
        labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                if port.get("name") == PORT_NAME:
                    found.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return found


class Cluster:
    """One connection to the API server, kept open, with the pod's own service account."""

    def __init__(self) -> None:
        self._trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        self._connection: http.client.HTTPSConnection | None = None

    def pods(self) -> list[dict[str, Any]]:
        """The pods that want to be scraped."""
        token = (ACCOUNT / "token").read_text(encoding="utf-8")  # kubelet renews it
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                os.environ["KUBERNETES_SERVICE_HOST"],
                int(os.environ["KUBERNETES_SERVICE_PORT"]),
                timeout=TIMEOUT_SECONDS,
                context=self._trust,
            )
        try:
            self._connection.request("GET", PODS, headers={"Authorization": f"Bearer {token}"})
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise
        if response.status != http.client.OK:
            raise OSError(f"the API server answered {response.status}")
        return list(json.loads(body)["items"])


class Handler(BaseHTTPRequestHandler):
    """`GET /targets`."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        """Answer with the targets, or with 503."""
        try:
            status, body = 200, json.dumps(targets(self.cluster.pods())).encode()
        except (OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"{error}\n")
            status, body = 503, b"[]"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent: it is asked every two seconds."""


def main() -> None:
    """Serve on the pod's own loopback address."""
    Handler.cluster = Cluster()
    HTTPServer(("127.0.0.1", 9091), Handler).serve_forever()


if __name__ == "__main__":
    main()
