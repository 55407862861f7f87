"""The PodDisruptionBudget of one fleet."""

from __future__ import annotations

from greenfleet.api import GreenWorkerPool
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.pods import Manifest


def disruption_budget(pool: GreenWorkerPool, role: Role) -> Manifest:
    """One worker at a time. `AlwaysAllow`, else a pool of one broken worker blocks a node's drain for ever."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": names.fleet_name(pool.name, role),
            "namespace": pool.namespace,
            "labels": names.fleet_labels(pool.name, role),
        },
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names.fleet_selector(pool.name, role)},
        },
    }
