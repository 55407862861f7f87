"""The Kubernetes API, and through its proxy the services inside the cluster: no port-forward, no second address.

Plain dictionaries in and out; the official client does what is hard, which is kubeconfigs and credentials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import config
from kubernetes.client.exceptions import ApiException

GROUP = "/apis/greenfleet.io/v1alpha1"
FIELD_MANAGER = "greenfleet-demo"
TIMEOUT_SECONDS = 5.0


class ApiError(RuntimeError):
    """The API server, or what is behind its proxy, did not do what was asked. `status` is 0 if nobody answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """One cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client: Any = config.new_client_from_config(config_file=str(kubeconfig))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Any:
        """One request; the answer as JSON, or as text where it is none. Raises ApiError."""
        url = f"{path}?{urlencode(query)}" if query else path
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        prepared = self._client.param_serialize(
            method, url, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = self._client.call_api(*prepared, _request_timeout=timeout_seconds)
            status, content = response.status, response.read()
        except ApiException as error:
            raise ApiError(error.status or 0, f"{method} {path}: {error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {type(error).__name__}") from None
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content or "")
        if status >= HTTPStatus.BAD_REQUEST:
            raise ApiError(status, f"{method} {path}: {status} {_message(text)}")
        try:
            return json.loads(text)
        except ValueError:
            return text

    def get(self, path: str, **query: str) -> Any:
        """GET."""
        return self.request("GET", path, query=query)

    def find(self, path: str, **query: str) -> Any | None:
        """GET, and None where there is nothing."""
        try:
            return self.get(path, **query)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """The items of a list."""
        return list(self.get(path, **query)["items"])

    def delete(self, path: str, **query: str) -> None:
        """DELETE; what is not there is deleted."""
        try:
            self.request("DELETE", path, query=query)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def apply(self, path: str, manifest: Mapping[str, Any]) -> Any:
        """Server-side apply: JSON is YAML."""
        return self.request(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=dict(manifest),
            content_type="application/apply-patch+yaml",
        )

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Set the replicas of a Deployment."""
        self.request(
            "PATCH",
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale",
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    def service(self, namespace: str, service: str, port: int, path: str, **query: str) -> Any:
        """GET from a service inside the cluster."""
        return self.request("GET", f"{_service(namespace, service, port)}{path}", query=query)

    def post(self, namespace: str, service: str, port: int, path: str, body: Any = None) -> Any:
        """POST to a service inside the cluster."""
        return self.request("POST", f"{_service(namespace, service, port)}{path}", body={} if body is None else body)

    def pod(self, namespace: str, pod: str, port: int, path: str) -> Any:
        """GET from one pod."""
        return self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")


def pool_path(namespace: str, name: str) -> str:
    """Path of a GreenWorkerPool."""
    return f"{GROUP}/namespaces/{namespace}/greenworkerpools/{name}"


def load(path: Path) -> dict[str, Any]:
    """A manifest with one object."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{path} does not hold one object")
    return content


def condition(pool: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """One condition of an object, if it is there."""
    conditions = (pool.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == kind), None)


def _service(namespace: str, service: str, port: int) -> str:
    return f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy"


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
