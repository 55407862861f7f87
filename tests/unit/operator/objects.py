"""Objects that the tests talk about, as the API server would hand them over."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import yaml

from greenfleet.api import GreenWorkerPool, parse_pool
from greenfleet.api.crd import custom_resource_definition
from greenfleet.controller.registry import Record, Registry

Object = dict[str, Any]

MINIMAL = {
    "app": "proj",
    "image": "registry.example/proj:1.4",
    "broker": {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}},
    "queues": ["feeds"],
}


def body(name: str = "feeds", *, namespace: str = "shop", generation: int = 1, **spec: Any) -> Object:
    """A GreenWorkerPool as the API server stores it; `spec` is added to the minimal one."""
    return {
        "apiVersion": "greenfleet.io/v1alpha1",
        "kind": "GreenWorkerPool",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-of-{namespace}-{name}",
            "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {**copy.deepcopy(MINIMAL), **spec},
    }


def pool(name: str = "feeds", *, namespace: str = "shop", **spec: Any) -> GreenWorkerPool:
    """The same, parsed."""
    return parse_pool(body(name, namespace=namespace, **spec))


def pool_of_yaml(text: str) -> GreenWorkerPool:
    """A pool as a user writes it."""
    written = yaml.safe_load(text)
    return parse_pool(body(written["metadata"]["name"], **written["spec"]))


def record(name: str = "feeds", **spec: Any) -> Record:
    """The registry's record of a pool."""
    return Registry().put(body(name, **spec))


def waiting(reason: str, message: str = "", *, container: str = "worker", image: str = "proj:1.4") -> Object:
    """A pod whose container waits."""
    status = {"name": container, "image": image, "state": {"waiting": {"reason": reason, "message": message}}}
    return {"metadata": {"name": "feeds-abc"}, "status": {"containerStatuses": [status]}}


def crashed(*, message: str = "", exit_code: int = 1, reason: str = "Error", container: str = "worker") -> Object:
    """A pod whose container ended and is held back."""
    status = {
        "name": container,
        "image": "proj:1.4",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}},
    }
    return {"metadata": {"name": "feeds-abc"}, "status": {"containerStatuses": [status]}}


def running_again(*, restarts: int = 1, message: str = "", exit_code: int = 1, ready: bool = False) -> Object:
    """A pod whose worker ended and was started again."""
    pod = crashed(message=message, exit_code=exit_code)
    status = pod["status"]["containerStatuses"][0]
    status.update(state={"running": {"startedAt": "2026-01-01T00:00:00Z"}}, ready=ready, restartCount=restarts)
    return pod


def leaves(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every field of a structural schema with its path, parents included."""
    for name, child in (schema.get("properties") or {}).items():
        yield f"{path}.{name}", child
        yield from leaves(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield f"{path}[]", schema["items"]
        yield from leaves(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield f"{path}{{}}", schema["additionalProperties"]
        yield from leaves(schema["additionalProperties"], f"{path}{{}}")


def crd_schema(part: str) -> Object:
    """The structural schema of `spec` or `status`."""
    version = custom_resource_definition()["spec"]["versions"][0]
    schema: Object = version["schema"]["openAPIV3Schema"]["properties"][part]
    return schema
