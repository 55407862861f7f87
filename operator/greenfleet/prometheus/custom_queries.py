"""Queries that pools bring themselves: they are asked beside the rounds of the scaling loop, and hold up nobody else.

How long such a query takes, and how many there are, is up to whoever writes pools. So a round takes the answers that
are there, and an answer that comes later is the next round's. Each answer has the time of its evaluation, by which it
grows too old like every other sample.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.prometheus.collect import DepthReader, Depths
from greenfleet.prometheus.series import QueryError, Series

OF_NAMESPACE_AT_ONCE = 2
"""Queries of pools of one namespace that are under way at once at one server."""
AT_ONCE = 10
"""Queries of all pools that are under way at once at one server: half of those that Prometheus evaluates at once
(`--query.max-concurrency`, 20 by default), so that the questions for everybody wait for none.
"""
_WAITS_TICKS = 0.1
"""So long a round waits for answers after all others are there: queries that are as quick as those are in time."""

Answer = Depths | QueryError | None


class OneSeries:
    """Of a query that a pool brought, one number is wanted. More is refused at the second series, and never kept."""

    def __init__(self, reader: DepthReader) -> None:
        self._reader = reader
        self._taken = False

    def take(self, series: Series) -> None:
        """Raises QueryError for the second."""
        if self._taken:
            raise QueryError(
                MetricsIssue.BAD_ANSWER,
                "The query of scaling.prometheus.query yields more than one series: write one expression whose sum is "
                "the number of messages, without parentheses that end it early.",
            )
        self._taken = True
        self._reader.take(series)

    def result(self) -> Depths:
        """What the reader made of it."""
        return self._reader.result()


class CustomQueries:
    """Asks with `ask_one(server, pool)`, which raises nothing, and remembers the last answer of each query."""

    def __init__(self, ask_one: Callable[[str, GreenWorkerPool], Awaitable[Answer]], tick_seconds: float) -> None:
        self._ask_one = ask_one
        self._wait_seconds = _WAITS_TICKS * tick_seconds
        self._answers: dict[str, dict[str, Answer]] = defaultdict(dict)
        self._under_way: dict[str, dict[str, asyncio.Task[None]]] = defaultdict(dict)
        self._slots = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(AT_ONCE))
        self._namespace_slots = defaultdict[tuple[str, str], asyncio.Semaphore](
            lambda: asyncio.Semaphore(OF_NAMESPACE_AT_ONCE)
        )

    def ask(self, server: str, queries: Mapping[str, GreenWorkerPool]) -> None:
        """Begins to ask what is not being asked already. *queries*: all of this server, each with a pool that has
        it; any other is forgotten.
        """
        known, under_way = self._answers[server], self._under_way[server]
        for name in known.keys() - queries.keys():
            del known[name]
        for name in under_way.keys() - queries.keys():
            under_way.pop(name).cancel()
        for name, pool in queries.items():
            if name not in under_way:
                under_way[name] = asyncio.create_task(self._run(server, name, pool))

    async def answers(self, server: str) -> dict[str, Answer]:
        """The last answer of each query that has had one: those that come within a moment included."""
        under_way = list(self._under_way[server].values())
        if under_way:
            await asyncio.wait(under_way, timeout=self._wait_seconds)
        return dict(self._answers[server])

    async def _run(self, server: str, name: str, pool: GreenWorkerPool) -> None:
        me = asyncio.current_task()
        try:
            async with self._namespace_slots[server, pool.namespace], self._slots[server]:
                answer = await self._ask_one(server, pool)
            if self._under_way[server].get(name) is me:
                self._answers[server][name] = answer
        finally:
            if self._under_way[server].get(name) is me:
                del self._under_way[server][name]
