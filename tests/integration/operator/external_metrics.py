"""Test equipment: an external metrics API with values that a test sets, so that a real HPA has something to follow.

Nothing of this is in the product: in a cluster it is KEDA's or Prometheus' adapter. The API server reaches it through
an EndpointSlice, whose addresses must not be loopback ones: one more address of the range for benchmarks, on the
loopback device, does.
"""

from __future__ import annotations

import datetime
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.integration.operator.harness import Api, Object, eventually, program

ADDRESS = "198.19.255.17"
GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
NAME = f"{VERSION}.{GROUP}"
_APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


class ExternalMetrics:
    """Serves `values[metric]` for every namespace, registered with the API server until `close`."""

    def __init__(self, api: Api, namespace: str, directory: Path) -> None:
        self.values: dict[str, int] = {}
        self._api = api
        self._namespace = namespace
        subprocess.run([program("ip"), "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True)
        self._server = ThreadingHTTPServer((ADDRESS, 0), self._handler())
        self._server.socket = _tls(directory).wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._register()

    def close(self) -> None:
        """Takes the API back first: while it is registered and gone, no namespace can be deleted."""
        self._api.delete(f"{_APISERVICES}/{NAME}")
        self._server.shutdown()
        self._server.server_close()
        subprocess.run([program("ip"), "address", "del", f"{ADDRESS}/32", "dev", "lo"], check=True)

    def _register(self) -> None:
        port = self._server.server_address[1]
        root = f"/namespaces/{self._namespace}"
        self._api.create(
            f"/api/v1{root}/services",
            {"metadata": {"name": "metrics"}, "spec": {"clusterIP": "None", "ports": [{"name": "https", "port": 443}]}},
        )
        self._api.create(
            f"/apis/discovery.k8s.io/v1{root}/endpointslices",
            {
                "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}},
                "addressType": "IPv4",
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
            },
        )
        self._api.create(
            _APISERVICES,
            {
                "metadata": {"name": NAME},
                "spec": {
                    "group": GROUP,
                    "version": VERSION,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                    "service": {"namespace": self._namespace, "name": "metrics", "port": 443},
                },
            },
        )

        def available() -> bool:
            status = self._api.get(f"{_APISERVICES}/{NAME}").get("status") or {}
            return ("Available", "True") in [(one["type"], one["status"]) for one in status.get("conditions", ())]

        eventually(available, "the external metrics API is available", 40)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        values = self.values

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].strip("/").split("/")
                body: Object | None = None
                if parts == ["apis", GROUP, VERSION]:
                    resource = {"name": "*", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList"}
                    body = {
                        "kind": "APIResourceList",
                        "apiVersion": "v1",
                        "groupVersion": f"{GROUP}/{VERSION}",
                        "resources": [{**resource, "verbs": ["get"]}],
                    }
                elif parts[:3] == ["apis", GROUP, VERSION] and parts[-1] in values:
                    body = _values(parts[-1], values[parts[-1]])
                content = json.dumps(body or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        return Handler


def _values(metric: str, value: int) -> Object:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {},
        "items": [{"metricName": metric, "metricLabels": {}, "timestamp": now, "value": str(value)}],
    }


def _tls(directory: Path) -> ssl.SSLContext:
    key, certificate = directory / "metrics.key", directory / "metrics.crt"
    subprocess.run(
        [
            *[program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"],
            *["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=metrics"],
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
