"""Events about a pool (events.k8s.io/v1). One per change of what is said: a repeated statement is not repeated here."""

from __future__ import annotations

import datetime
import logging
import uuid

from greenfleet.api import API_VERSION, KIND, GreenWorkerPool
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client
from greenfleet.redaction import redacted

_log = logging.getLogger(__name__)

_NOTE_BYTES = 1024
"""The API server counts bytes, and refuses what is longer."""


class EventRecorder:
    """Writes Events. An Event is never worth failing for: errors are logged and forgotten.

    `low_priority` is for what many pools may have to say at once (k8s.client).
    """

    def __init__(self, client: Client, instance: str, *, low_priority: bool = False) -> None:
        self._client = client
        self._instance = instance
        self._low_priority = low_priority

    async def normal(self, pool: GreenWorkerPool, reason: str, note: str) -> None:
        """Something happened."""
        await self._write(pool, "Normal", reason, note)

    async def warning(self, pool: GreenWorkerPool, reason: str, note: str) -> None:
        """Somebody should look."""
        await self._write(pool, "Warning", reason, note)

    async def _write(self, pool: GreenWorkerPool, kind: str, reason: str, note: str) -> None:
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{pool.name}.{uuid.uuid4().hex[:16]}", "namespace": pool.namespace},
            "eventTime": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": "greenfleet.io/operator",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": kind,
            "reason": reason,
            "note": redacted(note).encode()[:_NOTE_BYTES].decode(errors="ignore"),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": pool.namespace,
                "name": pool.name,
                "uid": pool.uid,
            },
        }
        try:
            path = paths.collection("events.k8s.io/v1", "Event", pool.namespace)
            await self._client.create(path, event, low_priority=self._low_priority)
        except ApiError as error:
            _log.info("an Event of %s was not written: %s", pool.key, error)
