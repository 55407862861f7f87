"""What all our pods share: Pod Security's "restricted" profile, probes, ports, and dropping what is not set."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from greenfleet.manifests.names import METRICS_PORT

Manifest = dict[str, Any]


def plain(model: BaseModel) -> Manifest:
    """A model as the Kubernetes API spells it, without the fields that say nothing."""
    return pruned(model.model_dump(by_alias=True, exclude_none=True))


def sparse(model: BaseModel) -> Manifest:
    """A model as the user wrote it, defaults left to Kubernetes: for its own types, whose defaults ours repeat."""
    return model.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)


def pruned(manifest: Manifest) -> Manifest:
    """Without the top-level fields that are None, or an empty list, map or string: server-side apply would own them for nothing."""
    return {key: value for key, value in manifest.items() if value not in (None, [], {}, "")}


def restricted_pod(user: int, group: int, fs_group: int) -> Manifest:
    """securityContext of a pod under Pod Security "restricted"."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": fs_group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def restricted_container(*, read_only_root: bool) -> Manifest:
    """securityContext of a container under Pod Security "restricted"."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": read_only_root,
        "capabilities": {"drop": ["ALL"]},
    }


def metrics_port() -> Manifest:
    """The one port of our pods."""
    return {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}


def http_probe(path: str, *, period_seconds: int, failure_threshold: int, **more: Any) -> Manifest:
    """A probe of the metrics port. It is answered by a real thread, so that a busy hub does not fail it."""
    return {
        "httpGet": {"path": path, "port": "metrics", "scheme": "HTTP"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 3,
        "failureThreshold": failure_threshold,
        **more,
    }


def secret_env(name: str, secret: str, key: str) -> Manifest:
    """An environment variable from a Secret: kubelet reads it, the operator never does."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
