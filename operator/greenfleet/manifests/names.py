"""Names and labels of everything that the operator makes (docs/contract.md)."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from functools import lru_cache

from greenfleet import __version__

PREFIX = "greenfleet.io"
POOL_LABEL = f"{PREFIX}/pool"
ROLE_LABEL = f"{PREFIX}/role"
INSTANCE = "app.kubernetes.io/instance"
SCRAPE_LABEL = f"{PREFIX}/scrape"
THREADS_ANNOTATION = f"{PREFIX}/threads"
QUEUES_ANNOTATION = f"{PREFIX}/queues"
AGENT_ANNOTATION = f"{PREFIX}/agent-image"
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "greenfleet"
PART_OF = "app.kubernetes.io/part-of"
VERSION = "app.kubernetes.io/version"

METRICS_PORT = 9540
WORKER_CONTAINER = "worker"
AGENT_CONTAINER = "greenfleet-agent"
EXPORTER_CONTAINER = "queues"

POD_INFO_DIRECTORY = "/etc/greenfleet/pod"
POOL_CONFIG_DIRECTORY = "/etc/greenfleet/pool"
BROKER_DIRECTORY = "/etc/greenfleet/broker"
QUEUES_DIRECTORY = "/etc/greenfleet/queues"
BROKER_CA_DIRECTORY = "/etc/greenfleet/broker-ca"
RESULT_BACKEND_CA_DIRECTORY = "/etc/greenfleet/result-backend-ca"
CA_FILE = "ca.crt"
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


@lru_cache(4096)
def exporter_name(broker: str) -> str:
    """Name of the exporter for one broker of a namespace, by the broker's identity there."""
    return f"greenfleet-queues-{hashlib.sha256(broker.encode()).hexdigest()[:10]}"


def fleet_selector(pool: str, role: Role) -> dict[str, str]:
    """Labels that select exactly the pods of one role of a pool. Immutable in a Deployment: never add to it."""
    return {POOL_LABEL: pool, ROLE_LABEL: str(role)}


def fleet_labels(pool: str, role: Role) -> dict[str, str]:
    """All labels of a fleet's objects: the selector and the recommended ones."""
    return {**fleet_selector(pool, role), **_recommended("greenfleet-worker", pool, str(role))}


def pool_labels(pool: str) -> dict[str, str]:
    """Labels of what a pool has once, whatever its roles."""
    return {POOL_LABEL: pool, **_recommended("greenfleet-worker", pool, "pool")}


def exporter_selector(name: str) -> dict[str, str]:
    """Labels that select exactly the pods of one exporter."""
    return {ROLE_LABEL: str(Role.EXPORTER), INSTANCE: name}


def exporter_labels(name: str) -> dict[str, str]:
    """All labels of an exporter's objects."""
    return {**exporter_selector(name), **_recommended("greenfleet-queues", name, str(Role.EXPORTER))}


def pod_labels(labels: Mapping[str, str], users: Mapping[str, str] | None = None) -> dict[str, str]:
    """Labels of the pods of an object that has `labels`: what they are scraped by, and the user's own.

    Not the version: it would replace every pod when the operator is upgraded. What a pod is a part of, the user may say
    better.
    """
    fixed = {name: value for name, value in labels.items() if name not in (PART_OF, VERSION)}
    users = {name: value for name, value in (users or {}).items() if not name.startswith(f"{PREFIX}/")}
    return {PART_OF: MANAGER, **users, **fixed, SCRAPE_LABEL: "true"}


def _recommended(name: str, instance: str, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": name,
        INSTANCE: instance,
        "app.kubernetes.io/component": component,
        PART_OF: MANAGER,
        MANAGED_BY: MANAGER,
        VERSION: __version__,
    }


def selector_text(labels: dict[str, str]) -> str:
    """A label selector in the notation of `kubectl -l` and of `status.selector`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
