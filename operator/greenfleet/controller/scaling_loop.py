"""When pools are looked at: all of them once a tick, and between two ticks those that are idle and for which something
waits.

What is asked is `prometheus.poller`'s, what becomes of an answer `controller.pool_scaler`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from greenfleet.api import GreenWorkerPool
from greenfleet.controller.background import Background
from greenfleet.controller.pool_scaler import PoolScaler
from greenfleet.controller.registry import Record, Registry
from greenfleet.manifests.worker import queues_of
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.prometheus.poller import Answers, Poller, scopes_of, source_of

_log = logging.getLogger(__name__)


class ScalingLoop:
    """Looks at all pools every `tick_seconds` while `acts()`: this replica leads, and knows the cluster."""

    def __init__(
        self,
        *,
        registry: Registry,
        poller: Poller,
        scaler: PoolScaler,
        metrics: OperatorMetrics,
        background: Background,
        acts: Callable[[], bool],
        tick_seconds: float,
    ) -> None:
        self._registry = registry
        self._poller = poller
        self._scaler = scaler
        self._metrics = metrics
        self._background = background
        self._acts = acts
        self._tick_seconds = tick_seconds
        self._acted = False
        self._rounds: set[str] = set()
        """Servers that are being asked."""
        self.ticked_at = time.monotonic()
        """Monotonic time of the last tick: what the liveness probe looks at."""

    async def run(self) -> None:
        """Ticks until cancelled. A tick that fails is logged and does not end the loop."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            self._metrics.loop_lag.set(max(0.0, clock() - due))
            self.ticked_at = time.monotonic()
            try:
                await self.tick()
            except Exception:
                _log.exception("a tick of the scaling loop failed: a bug of ours")
            due = max(due + self._tick_seconds, clock())
            await asyncio.sleep(due - clock() - self._tick_seconds / 2)
            self.poll_idle_pools()
            await asyncio.sleep(due - clock())

    async def tick(self) -> None:
        """Looks at every pool once. On a standby: forgets what it decided, and waits."""
        acts = self._acts()
        self._metrics.leader.set(acts)
        self._metrics.pools.set(len(self._registry))
        if not acts or not self._acted:
            self._registry.forget_decisions()
            self._acted = acts
            if not acts:
                return
        for record in self._registry:
            if record.pool is None:
                self._scaler.report(record)
        for server in self._referred() - self._rounds:
            self._background.spawn(self._round(server))

    def poll_idle_pools(self) -> None:
        """Between two ticks: looks at the idle pools for which something waits now, and at nobody else."""
        if self._acted:
            for server in self._referred() - self._rounds:
                self._background.spawn(self._activate(server))

    def _referred(self) -> set[str]:
        """Every server that some pool refers to."""
        return {self._poller.server_of(record.pool) for record in self._registry if record.pool is not None}

    async def _round(self, server: str) -> None:
        """Asks one server and looks at its pools. A server that is slow to answer delays nobody else's pools."""
        self._rounds.add(server)
        try:
            await asyncio.sleep(self._poller.offset_seconds(server))
            with self._metrics.loop_seconds.time():
                answers = await self._ask(server)
                now = time.time()
                for record in self._registry:
                    self._look_at(record, answers, now)
        finally:
            self._rounds.discard(server)

    async def _activate(self, server: str) -> None:
        await asyncio.sleep(self._poller.offset_seconds(server))
        now = time.time()
        idle = [(record, pool) for record, pool in self._pools(server) if record.is_idle(now)]
        waiting = await self._poller.waiting(server, [pool for _, pool in idle])
        activated = [record for record, pool in idle if not waiting.isdisjoint(_queue_keys(pool))]
        if activated:
            answers = await self._ask(server)
            for record in activated:
                self._look_at(record, answers, time.time())

    async def _ask(self, server: str) -> Answers:
        return await self._poller.ask(server, [pool for _, pool in self._pools(server)])

    def _look_at(self, record: Record, answers: Answers, now: float) -> None:
        pool = record.pool
        if pool is None or self._poller.server_of(pool) != answers.server or source_of(pool) not in answers.depths:
            return  # another round's, or changed since this one began
        self._scaler.look_at(record, pool, answers, now)

    def _pools(self, server: str) -> Iterator[tuple[Record, GreenWorkerPool]]:
        """The pools that refer to this server."""
        for record in self._registry:
            if record.pool is not None and self._poller.server_of(record.pool) == server:
                yield record, record.pool


def _queue_keys(pool: GreenWorkerPool) -> Iterator[tuple[str, str, str]]:
    """(source, scope, queue) of all that a pool works off."""
    for queue in queues_of(pool):
        for scope in scopes_of(pool):
            yield source_of(pool), scope, queue
