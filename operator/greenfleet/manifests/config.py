"""The pool's ConfigMap: the start value of green threads, and the tasks that auto-routing moved."""

from __future__ import annotations

import json
from collections.abc import Sequence

from greenfleet.api import GreenWorkerPool
from greenfleet.manifests import names
from greenfleet.manifests.pods import Manifest


def _config(pool: GreenWorkerPool, data: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.config_name(pool.name), "namespace": pool.namespace},
        "data": data,
    }


def pool_config(pool: GreenWorkerPool, blocking_tasks: Sequence[str] = ()) -> Manifest:
    """The reconciler's part: labels and routes."""
    manifest = _config(pool, {"routes": json.dumps(sorted(blocking_tasks))})
    manifest["metadata"]["labels"] = names.pool_labels(pool.name)
    return manifest


def start_threads(pool: GreenWorkerPool, threads: int) -> Manifest:
    """The autoscaler's part: green threads of a new pod."""
    return _config(pool, {"threads": str(threads)})
