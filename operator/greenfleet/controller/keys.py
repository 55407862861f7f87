"""What the work queue is asked for: a frozen value for each kind of work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenfleet.api import GreenWorkerPool


@dataclass(frozen=True, slots=True)
class PoolKey:
    """A pool has to be reconciled."""

    namespace: str
    name: str

    @classmethod
    def of(cls, body: dict[str, Any]) -> PoolKey:
        """Of an object from the API server."""
        return cls(body["metadata"]["namespace"], body["metadata"]["name"])

    @property
    def text(self) -> str:
        """As the registry calls the pool: `GreenWorkerPool.key`."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return f"pool:{self.text}"


@dataclass(frozen=True, slots=True)
class DoubtfulPoolKey:
    """The API server has to be asked for a pool: it may have gone."""

    pool: PoolKey

    @property
    def namespace(self) -> str:
        return self.pool.namespace

    def __str__(self) -> str:
        return f"doubt:{self.pool.text}"


@dataclass(frozen=True, slots=True)
class ExporterKey:
    """The queue exporter of a broker has to be reconciled."""

    namespace: str
    broker: str
    """The broker's identity in its namespace."""

    @classmethod
    def of(cls, pool: GreenWorkerPool) -> ExporterKey:
        """The exporter that a pool needs."""
        return cls(pool.namespace, pool.spec.broker.identity)

    @property
    def broker_key(self) -> str:
        """As the registry calls the broker: `GreenWorkerPool.broker_key`."""
        return f"{self.namespace}/{self.broker}"

    def __str__(self) -> str:
        return f"exporter:{self.broker_key}"


Key = PoolKey | DoubtfulPoolKey | ExporterKey
