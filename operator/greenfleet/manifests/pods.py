"""What all our pods share: Pod Security's "restricted" profile, probes, ports, and dropping what is not set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from greenfleet.api import quantity
from greenfleet.api.pool import ResourceAmounts, SecurityContext, UrlOrParts, number_of
from greenfleet.manifests.names import METRICS_PORT

Manifest = dict[str, Any]


def plain(model: BaseModel) -> Manifest:
    """A model as the Kubernetes API spells it, without the fields that say nothing."""
    return pruned(model.model_dump(by_alias=True, exclude_none=True))


def sparse(model: BaseModel) -> Manifest:
    """A model as the user wrote it, defaults left to Kubernetes: for its own types, whose defaults ours repeat."""
    return model.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)


def pruned(manifest: Manifest) -> Manifest:
    """Without the top-level fields that are None, or an empty list, map or string: server-side apply would own them for
    nothing.
    """
    return {key: value for key, value in manifest.items() if value not in (None, [], {}, "")}


NON_ROOT = 65532
"""User and groups of the pods, by number: "nonroot" of distroless images."""


@dataclass(frozen=True, slots=True)
class PodDefaults:
    """What the administrator decides for the pods of all pools."""

    user: int | None = NON_ROOT
    """None: the image's own user, or the one that OpenShift gives."""
    group: int | None = NON_ROOT
    """The same for the user's group. It counts where the user is a number."""
    fs_group: int | None = NON_ROOT
    """The group of mounted volumes. None: none, or the one that OpenShift gives."""
    allow_patch: bool = False
    """Whether `worker.podTemplatePatch` counts."""


USUAL = PodDefaults()
"""Where the administrator says nothing."""


def restricted_pod(defaults: PodDefaults, chosen: SecurityContext | None = None) -> Manifest:
    """securityContext of a pod under Pod Security "restricted". What a pool does not mention is the administrator's
    choice.
    """

    user, group, fs_group = _ids(defaults, chosen)
    return pruned(
        {
            "runAsNonRoot": True,
            "runAsUser": user,
            # containerd makes no sandbox for a group without a user: "user group … is specified without user".
            "runAsGroup": None if user is None else group,
            "fsGroup": fs_group,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )


def group_without_user(defaults: PodDefaults, chosen: SecurityContext) -> int | None:
    """The group that a pool asks for where the image, or OpenShift, chooses the user."""
    user, group, _ = _ids(defaults, chosen)
    return group if user is None and "run_as_group" in chosen.model_fields_set else None


def _ids(defaults: PodDefaults, chosen: SecurityContext | None) -> tuple[int | None, int | None, int | None]:
    """User, group and group of volumes; None where the image or OpenShift chooses."""

    def pick(field: str, default: int | None) -> int | None:
        if chosen is None or field not in chosen.model_fields_set:
            return default
        return number_of(getattr(chosen, field))

    return (
        pick("run_as_user", defaults.user),
        pick("run_as_group", defaults.group),
        pick("fs_group", defaults.fs_group),
    )


def with_requests(amounts: ResourceAmounts, requests: Mapping[str, str], limits: Mapping[str, str]) -> Manifest:
    """Resources, with `requests` and `limits` (cpu, memory) for what the pool says nothing about. A limit
    counts as a request too, by Kubernetes' own default.
    """
    found = plain(amounts)
    named = {*found.get("requests", ()), *found.get("limits", ())}
    found["requests"] = {
        **{name: amount for name, amount in requests.items() if name not in named},
        **found.get("requests", {}),
    }
    found["limits"] = {
        **{name: amount for name, amount in limits.items() if name not in named},
        **found.get("limits", {}),
    }
    return pruned(found)


QUOTA_NAMES = ("cpu", "memory")
"""Resources that a quota on them asks for in each container, init containers too (k8s.io/kubernetes
pkg/quota/v1/evaluator/core/pods.go).
"""


Amount = str | int | float
"""A quantity, as the resource writes it."""


def larger(one: Amount, other: Amount) -> Amount:
    """The larger of two quantities."""
    return one if quantity(str(one)) >= quantity(str(other)) else other


def smaller(one: Amount, other: Amount) -> Amount:
    """The smaller of two quantities."""
    return one if quantity(str(one)) <= quantity(str(other)) else other


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


def url_env(whole: str, prefix: str, source: UrlOrParts) -> list[Manifest]:
    """The variables of a URL: `whole`, or one for each of its parts, whose names begin with `prefix`."""
    if source.url_from is not None:
        reference = source.url_from.secret_key_ref
        return [secret_env(whole, reference.name, reference.key)]
    return [
        {"name": f"{prefix}_{name.upper()}", "value": part.replace("$", "$$")}  # kubelet expands $(NAME)
        if isinstance(part, str)
        else secret_env(f"{prefix}_{name.upper()}", part.name, part.key)
        for name, part in source.parts.items()
    ]


def secret_env(name: str, secret: str, key: str) -> Manifest:
    """An environment variable from a Secret: kubelet reads it, the operator never does."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
