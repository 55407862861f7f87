"""The few requests to the API server that starting a cluster needs, without kubectl or a client library."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from kubelocal.errors import ClusterError
from kubelocal.pki import Authority, Pki
from kubelocal.topology import Topology

_TIMEOUT_SECONDS = 5
_FIELD_MANAGER = "greenfleet-cluster"


class Api:
    def __init__(self, topology: Topology, pki: Pki) -> None:
        self._topology = topology
        self._tls = ssl.create_default_context(cafile=str(pki.certificate(Authority.CLUSTER)))
        self._tls.load_cert_chain(pki.certificate("admin"), pki.key("admin"))

    def ready(self) -> bool:
        try:
            status, _ = self._request("GET", "/readyz")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def get(self, path: str) -> dict[str, Any] | None:
        """The object, or None where there is none, or no server that answers."""
        try:
            status, body = self._request("GET", path)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if status == 200 else None

    def apply(self, path: str, manifest: dict[str, Any]) -> None:
        """Server-side apply; JSON is a subset of the YAML that the server expects."""
        status, body = self._request(
            "PATCH",
            f"{path}?fieldManager={_FIELD_MANAGER}&force=true",
            body=json.dumps(manifest),
            content_type="application/apply-patch+yaml",
        )
        if status not in {200, 201}:
            raise ClusterError(f"The API server refused {path} ({status}): {body.decode(errors='replace')}")

    def _request(self, method: str, path: str, *, body: str | None = None, content_type: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            self._topology.api_address, self._topology.ports.api, context=self._tls, timeout=_TIMEOUT_SECONDS
        )
        try:
            connection.request(method, path, body=body, headers={"Content-Type": content_type} if content_type else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
