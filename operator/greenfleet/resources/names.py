"""Names and labels of everything that the operator makes (docs/contract.md)."""

from __future__ import annotations

import enum
import hashlib

PREFIX = "greenfleet.io"
POOL_LABEL = f"{PREFIX}/pool"
ROLE_LABEL = f"{PREFIX}/role"
SCRAPE_LABEL = f"{PREFIX}/scrape"
THREADS_ANNOTATION = f"{PREFIX}/threads"
AGENT_ANNOTATION = f"{PREFIX}/agent-image"
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "greenfleet"

METRICS_PORT = 9540
WORKER_CONTAINER = "worker"
AGENT_CONTAINER = "greenfleet-agent"
EXPORTER_CONTAINER = "queues"

POD_INFO_DIRECTORY = "/etc/greenfleet/pod"
POOL_CONFIG_DIRECTORY = "/etc/greenfleet/pool"
BROKER_DIRECTORY = "/etc/greenfleet/broker"
AGENT_DIRECTORY = "/greenfleet"


class Role(enum.StrEnum):
    """What a pod of ours does."""

    EVENTLET = "eventlet"
    PREFORK = "prefork"
    EXPORTER = "exporter"


def fleet_name(pool: str, role: Role) -> str:
    """Name of the Deployment (and the disruption budget) of one role of a pool."""
    return f"{pool}-{role}"


def config_name(pool: str) -> str:
    """Name of the pool's ConfigMap."""
    return f"{pool}-greenfleet"


def exporter_name(secret: str, key: str) -> str:
    """Name of the exporter for one broker of a namespace."""
    return f"greenfleet-queues-{hashlib.sha256(f'{secret}/{key}'.encode()).hexdigest()[:10]}"


def fleet_selector(pool: str, role: Role) -> dict[str, str]:
    """Labels that select exactly the pods of one role of a pool. Immutable in a Deployment: never add to it."""
    return {POOL_LABEL: pool, ROLE_LABEL: str(role)}


def fleet_labels(pool: str, role: Role) -> dict[str, str]:
    """All labels of a fleet's objects: the selector and the recommended ones."""
    return {
        **fleet_selector(pool, role),
        "app.kubernetes.io/name": "greenfleet-worker",
        "app.kubernetes.io/instance": pool,
        "app.kubernetes.io/component": str(role),
        MANAGED_BY: MANAGER,
    }


def pool_labels(pool: str) -> dict[str, str]:
    """Labels of what a pool has once, whatever its roles."""
    return {
        POOL_LABEL: pool,
        "app.kubernetes.io/name": "greenfleet-worker",
        "app.kubernetes.io/instance": pool,
        MANAGED_BY: MANAGER,
    }


def exporter_selector(name: str) -> dict[str, str]:
    """Labels that select exactly the pods of one exporter."""
    return {ROLE_LABEL: str(Role.EXPORTER), "app.kubernetes.io/instance": name}


def exporter_labels(name: str) -> dict[str, str]:
    """All labels of an exporter's objects."""
    return {
        **exporter_selector(name),
        "app.kubernetes.io/name": "greenfleet-queues",
        "app.kubernetes.io/component": str(Role.EXPORTER),
        MANAGED_BY: MANAGER,
    }


def selector_text(labels: dict[str, str]) -> str:
    """A label selector in the notation of `kubectl -l` and of `status.selector`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
