"""Paths of objects in the REST API."""

from __future__ import annotations

from typing import Any

from greenfleet.api import API_VERSION, KIND, PLURAL

_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "PodMonitor": "podmonitors",
    KIND: PLURAL,
    "Lease": "leases",
    "Pod": "pods",
    "Event": "events",
}


def collection(api_version: str, kind: str, namespace: str | None) -> str:
    """Path of all objects of a kind, in one namespace or in all."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{_PLURALS[kind]}"


def of(manifest: dict[str, Any]) -> str:
    """Path of the object that a manifest describes."""
    metadata = manifest["metadata"]
    return f"{collection(manifest['apiVersion'], manifest['kind'], metadata.get('namespace'))}/{metadata['name']}"


def pod(namespace: str, name: str) -> str:
    """Path of a pod."""
    return f"{collection('v1', 'Pod', namespace)}/{name}"


def pools(namespace: str | None) -> str:
    """Path of all GreenWorkerPools, in one namespace or in all."""
    return collection(API_VERSION, KIND, namespace)


def pool(namespace: str, name: str) -> str:
    """Path of a GreenWorkerPool."""
    return f"{pools(namespace)}/{name}"
