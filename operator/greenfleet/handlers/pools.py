"""Pools come and go: each event updates the registry and enqueues what has to be looked at.

`on.event` and not `on.create/update/resume`: the reconciler is level-triggered and retries by itself, so kopf need not
keep its progress in annotations of the user's objects, and the operator needs no right to patch them. Children do not
come through kopf: `k8s.reflector` says why.
"""

from __future__ import annotations

from typing import Any, Protocol

import kopf

from greenfleet.api import GROUP, PLURAL, VERSION


class PoolEvents(Protocol):
    """Who wants to know."""

    def pool_changed(self, body: dict[str, Any]) -> None:
        """A pool is there, new or changed."""

    def pool_removed(self, body: dict[str, Any]) -> None:
        """A pool is gone."""


def register(registry: kopf.OperatorRegistry, listener: PoolEvents) -> None:
    """Subscribes `listener` to all pools."""

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="pools")
    async def pools(event: kopf.RawEvent, **_: Any) -> None:
        body = dict(event["object"])
        if event["type"] == "DELETED":
            listener.pool_removed(body)
        else:
            listener.pool_changed(body)
