"""Applies the pools' ConfigMaps again, one after the other: their drift is repaired without ever reading one.

Every other child is watched, and repaired at once. To watch ConfigMaps takes the right to list them, and RBAC cannot
narrow that to ours: the operator could then read every ConfigMap of the cluster, where people keep what they should
not. An apply that changes nothing is one request and no write to etcd. What can be wrong in between is little: running
workers have their green threads from their own annotation, and the ConfigMap says only what a new pod starts with, and
which tasks go to prefork. Of a pool without workers nobody reads it: it is looked at as soon as the pool has workers
again, and else seldom, for the owner that its deletion needs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable

from greenfleet.controller.registry import Record, Registry
from greenfleet.k8s.client import ApiError, NotLeaderError

_log = logging.getLogger(__name__)

WORKING_INTERVAL_SECONDS = 30.0
"""A pool with workers has its ConfigMap applied again after so long, if that is not more than two pools a second."""
PAUSE_SECONDS = 0.5
IDLE_INTERVAL_SECONDS = 600.0
"""The same for an idle pool, if that is not more than one pool in `IDLE_PAUSE_SECONDS`."""
IDLE_PAUSE_SECONDS = 30.0
_LOOK_SECONDS = 1.0


class ConfigResync:
    """`repair` applies the ConfigMap of one settled pool."""

    def __init__(self, registry: Registry, repair: Callable[[Record], Awaitable[None]]) -> None:
        self._registry = registry
        self._repair = repair
        self._idle_at = -math.inf
        self._tried: dict[str, float] = {}
        """Monotonic time at which each pool was last due."""

    async def run(self, gained: asyncio.Event) -> None:
        """Goes round while leading."""
        while True:
            await gained.wait()
            record = self.next_due(self._registry, time.monotonic())
            if record is None:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            try:
                await self._repair(record)
            except NotLeaderError:
                pass
            except ApiError as error:
                _log.info("%s: its ConfigMap was not looked at, the next round will: %s", record.key, error)
            except Exception:
                _log.exception("%s: its ConfigMap was not looked at: a bug of ours", record.key)
            await asyncio.sleep(PAUSE_SECONDS)

    def next_due(self, records: Iterable[Record], now: float) -> Record | None:
        """The pool whose ConfigMap was longest not applied, if it is due; marked as tried at `now`."""
        working, idle = self._longest_ago(records)
        if working is not None and now - self._at(working) >= WORKING_INTERVAL_SECONDS:
            self._tried[working.key] = now
            return working
        if now - self._idle_at < IDLE_PAUSE_SECONDS:
            return None
        if idle is not None and now - self._at(idle) >= IDLE_INTERVAL_SECONDS:
            self._tried[idle.key] = self._idle_at = now
            return idle
        return None

    def _at(self, record: Record) -> float:
        return max(record.reconciliation.config_applied_at, self._tried.get(record.key, -math.inf))

    def _longest_ago(self, records: Iterable[Record]) -> tuple[Record | None, Record | None]:
        """Of the pools that are working, and of those that are idle, the one whose ConfigMap was longest not
        applied.
        """
        longest: dict[bool, Record] = {}
        tried = {}
        for record in records:
            if record.key in self._tried:
                tried[record.key] = self._tried[record.key]
            found = longest.setdefault(record.is_scaled_to_zero, record)
            if self._at(record) < self._at(found):
                longest[found.is_scaled_to_zero] = record
        self._tried = tried  # without those that are gone
        return longest.get(False), longest.get(True)
