"""Asks the Prometheus servers about pools: each once for every source and once for all workers, however many pools
refer to it, and once for dead letters where no source has them.

One answer is for everybody. If a namespace makes it too large or late, that namespace is left out for a while, and the
question is asked again. An answer that does not come is a value, `QueryError`, with the reason that its pools will
show. A query that a pool brings itself is asked beside them (`custom_queries`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from greenfleet.api import GreenWorkerPool
from greenfleet.autoscaling.model import MetricsIssue
from greenfleet.autoscaling.validation import stale_after_seconds
from greenfleet.prometheus import sources
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.collect import DepthReader, Depths, WaitingReader, WorkerReader, Workers
from greenfleet.prometheus.crowded import (
    USUAL_CHARACTERS,
    USUAL_SERIES,
    Crowded,
    to_leave_out,
    too_many_for_their_number,
)
from greenfleet.prometheus.custom_queries import CustomQueries, OneSeries
from greenfleet.prometheus.series import AnswerTooLargeError, LateAnswerError, QueryError, Series
from greenfleet.settings import Prometheus

_log = logging.getLogger(__name__)

Known_co = TypeVar("Known_co", covariant=True)
WORKERS = "the workers"
"""Stands beside the names of sources, which an administrator chooses: nobody chooses this one."""
_DEAD_LETTERS = "dead letters"
_UNKNOWN_SERVER = ""
MOST_TRIES = 4
"""How often one answer is asked for in one round, each time without the namespaces that made it too large, or late."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one server said in one round: each answer, or why there is none."""

    server: str
    depths: Mapping[str, Depths | QueryError | None]
    """By source; a pool's own query is a source called `query:NAMESPACE:…`. None: the configuration has no such
    source.
    """
    workers: Workers | QueryError
    dead_letters: Mapping[tuple[str, str], int]
    """By (broker, queue), as our exporters say, whatever the source of the depths."""
    crowded: Mapping[str, frozenset[str]]
    """By source, and for the workers: namespaces that were left out because they export too much."""
    scrape_seconds: float
    """The server's scrape interval, as the configuration claims it."""
    spoke_for_others: frozenset[str] = frozenset()
    """Namespaces whose targets spoke for another one's pools or brokers, and were not believed."""


class _Reader(Protocol[Known_co]):
    """Takes the series of one answer and says what they mean."""

    def take(self, series: Series) -> None:
        """One series."""

    def result(self) -> Known_co:
        """What all of them say together."""


class _Counts:
    """Takes a number for each namespace."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def take(self, series: Series) -> None:
        self._counts[series.labels.get("namespace", "")] = int(series.value)

    def result(self) -> None:
        """All are taken."""


class Poller:
    """Knows the administrator's servers and sources. `workers_of` says how many workers of a pool there are."""

    def __init__(
        self,
        servers: Mapping[str, PrometheusServer],
        settings: Prometheus,
        workers_of: Callable[[GreenWorkerPool], int],
        *,
        tick_seconds: float,
    ) -> None:
        self._servers = servers
        self._settings = settings
        self._workers_of = workers_of
        self._tick_seconds = tick_seconds
        self._crowded = Crowded(time.monotonic)
        self._custom = CustomQueries(self._custom_depths, tick_seconds)

    def server_of(self, pool: GreenWorkerPool) -> str:
        """The name of the server that a pool refers to. All that the configuration does not name are one: a pool may
        name any, and each that is asked costs a look at all pools.
        """
        named = pool.spec.scaling.prometheus.server or self._settings.default_server
        return named if named in self._servers else _UNKNOWN_SERVER

    def offset_seconds(self, server: str) -> float:
        """When within a tick a server is asked."""
        return query_offset(server, self._servers, self._tick_seconds)

    async def ask(self, server: str, pools: Collection[GreenWorkerPool]) -> Answers:
        """What a server says of these pools, which are all that refer to it."""
        by_source = {source_of(pool): pool for pool in pools}
        custom = {name: pool for name, pool in by_source.items() if pool.spec.scaling.prometheus.query}
        shared = {name: pool for name, pool in by_source.items() if name not in custom}
        self._custom.ask(server, custom)
        workers, dead, found = await asyncio.gather(
            self._workers(server, pools),
            self._dead_letters(server, pools, asked=sources.GREENFLEET not in by_source),
            asyncio.gather(*(self._depths(server, name, pools, pool) for name, pool in shared.items())),
        )
        depths = dict(zip(shared, found, strict=True)) | await self._custom.answers(server)
        crowded = {name: self._crowded.of(server, name) for name in (WORKERS, *by_source)}
        named = depths.get(sources.GREENFLEET)
        dead_letters = named.dead_letters if isinstance(named, Depths) else dead
        known = [answer for answer in (workers, *depths.values()) if isinstance(answer, Depths | Workers)]
        intruders = frozenset[str]().union(*(answer.spoke_for_others for answer in known))
        return Answers(server, depths, workers, dead_letters, crowded, self._scrape_seconds(server), intruders)

    async def waiting(self, server: str, pools: Iterable[GreenWorkerPool]) -> frozenset[tuple[str, str, str]]:
        """(source, scope, queue) wherever something waits. An answer that does not come is the next round's
        business.
        """
        by_source = {source_of(pool): pool for pool in pools}
        verify = self._settings.verify_namespace

        async def ask(name: str, pool: GreenWorkerPool) -> frozenset[tuple[str, str, str]]:
            query = self._depth_query(pool, self._crowded.of(server, name))
            if query is None or not query.waiting:
                return frozenset()
            answer = await self._read(server, query.waiting, WaitingReader(query, verify_namespace=verify))
            return frozenset() if isinstance(answer, QueryError) else frozenset((name, *key) for key in answer)

        answers = await asyncio.gather(*(ask(name, pool) for name, pool in by_source.items()))
        return frozenset().union(*answers)

    async def _dead_letters(
        self, server: str, pools: Collection[GreenWorkerPool], *, asked: bool
    ) -> Mapping[tuple[str, str], int]:
        """What our exporters count, where no depth is read from them. No answer is no count."""
        if not asked:
            return {}
        window, verify = self._window_seconds(server), self._settings.verify_namespace
        answer = await self._isolated(
            server,
            _DEAD_LETTERS,
            pools,
            lambda without: sources.dead_letters(window, without).expression,
            lambda: DepthReader(sources.dead_letters(window), verify_namespace=verify),
        )
        return {} if isinstance(answer, QueryError) else answer.dead_letters

    async def _workers(self, server: str, pools: Collection[GreenWorkerPool]) -> Workers | QueryError:
        verify = self._settings.verify_namespace
        return await self._isolated(
            server,
            WORKERS,
            pools,
            lambda without: sources.workers(self._window_seconds(server), without),
            lambda: WorkerReader(verify_namespace=verify),
        )

    async def _depths(
        self, server: str, name: str, pools: Collection[GreenWorkerPool], pool: GreenWorkerPool
    ) -> Depths | QueryError | None:
        """What a source says; `pool` is any that refers to it."""
        query, verify = self._depth_query(pool), self._settings.verify_namespace
        if query is None:
            return None

        def expression(without: frozenset[str]) -> str:
            asked = self._depth_query(pool, without)
            return asked.expression if asked else ""

        return await self._isolated(
            server,
            name,
            pools,
            expression,
            lambda: DepthReader(query, verify_namespace=verify),
            trusted=query.namespaces,
        )

    async def _custom_depths(self, server: str, pool: GreenWorkerPool) -> Depths | QueryError | None:
        """What the query says that a pool brought itself."""
        query = self._depth_query(pool)
        if query is None:
            return None
        reader = OneSeries(DepthReader(query, verify_namespace=False))
        return await self._read(server, query.expression, reader, of_a_pool=True)

    async def _isolated(
        self,
        server: str,
        name: str,
        pools: Collection[GreenWorkerPool],
        expression: Callable[[frozenset[str]], str],
        reader: Callable[[], _Reader[Known_co]],
        *,
        trusted: frozenset[str] = frozenset(),
    ) -> Known_co | QueryError:
        """One answer, if need be without the namespaces that make it too large, or too late. Those that may speak for
        other namespaces (*trusted*, or all) are not to blame for a late one: their size follows from no pool.
        """
        expected = self._expected(name, pools)
        blamed: frozenset[str] = frozenset()
        """Left out because it was late."""
        for _ in range(MOST_TRIES):
            without = self._crowded.of(server, name)
            answer = await self._read(server, expression(without), reader())
            if isinstance(answer, AnswerTooLargeError):
                found = _can_be_left_out({to_leave_out(answer.sizes, expected) or answer.namespace})
            elif not isinstance(answer, LateAnswerError):
                return answer
            elif blamed:  # without them too: it was not due to them
                self._crowded.remove(server, name, blamed)
                return answer
            else:
                if not self._settings.verify_namespace:
                    return answer
                late_for = await self._late_for(server, answer, expression(without), expected)
                found = blamed = _can_be_left_out(late_for - trusted)
            if not found:
                return answer
            for namespace in found:
                _log.warning("Prometheus %r, %s: left out %s for a while: %s", server, name, namespace, answer.message)
                self._crowded.add(server, name, namespace)
        return answer

    async def _late_for(
        self, server: str, answer: LateAnswerError, expression: str, expected: Mapping[str, int]
    ) -> frozenset[str]:
        """The namespaces for whose series an answer did not come in time; none if it is the server's doing. What has
        come of the answer tells, or how many series there are, which is asked for once.
        """
        found = too_many_for_their_number(answer.sizes, expected, USUAL_CHARACTERS)
        if found:
            return found
        counts: dict[str, int] = {}
        failed = await self._read(server, sources.series_count(expression), _Counts(counts))
        return frozenset() if failed else too_many_for_their_number(counts, expected, USUAL_SERIES)

    def _expected(self, name: str, pools: Iterable[GreenWorkerPool]) -> Mapping[str, int]:
        """How much of an answer is to be expected of each namespace: workers of its pools, or their queues."""
        found: Counter[str] = Counter()
        for pool in pools:
            found[pool.namespace] += self._workers_of(pool) if name == WORKERS else len(pool.spec.queues)
        return found

    async def _read(
        self, server: str, expression: str, reader: _Reader[Known_co], *, of_a_pool: bool = False
    ) -> Known_co | QueryError:
        found = self._servers.get(server)
        if found is None:
            return QueryError(
                MetricsIssue.UNREACHABLE,
                "The operator's configuration does not name the Prometheus server of scaling.prometheus.server.",
            )
        try:
            await found.read(expression, reader.take, of_a_pool=of_a_pool)
            return reader.result()
        except QueryError as error:
            return error

    def _scrape_seconds(self, server: str) -> float:
        found = self._servers.get(server)
        return found.scrape_interval_seconds if found else self._tick_seconds

    def _window_seconds(self, server: str) -> float:
        """How far back samples are asked for: one scrape more than they may be old."""
        scrape_seconds = self._scrape_seconds(server)
        return stale_after_seconds(scrape_seconds) + scrape_seconds

    def _depth_query(self, pool: GreenWorkerPool, without: frozenset[str] = frozenset()) -> sources.DepthQuery | None:
        reference = pool.spec.scaling.prometheus
        if reference.query:
            return sources.custom_query(reference.query) if self._settings.allow_query else None
        window_seconds = self._window_seconds(self.server_of(pool))
        if reference.source == sources.GREENFLEET:
            return sources.greenfleet_depth(window_seconds, without)
        source = self._settings.source(reference.source)
        return sources.selected_depth(source, window_seconds, without) if source else None


def _can_be_left_out(namespaces: Iterable[str]) -> frozenset[str]:
    return frozenset(filter(sources.can_leave_out, namespaces))


def source_of(pool: GreenWorkerPool) -> str:
    """Where a pool's depths are found in `Answers.depths`."""
    reference = pool.spec.scaling.prometheus
    return f"query:{pool.namespace}:{reference.query}" if reference.query else reference.source


def scopes_of(pool: GreenWorkerPool) -> tuple[str, ...]:
    """Under what the depths of a pool's queues are found in the answer of its source: see `Depths.queues`."""
    reference = pool.spec.scaling.prometheus
    if not reference.query and reference.source == sources.GREENFLEET:
        return (pool.broker_key,)
    return "", pool.namespace


def query_offset(server: str, servers: Collection[str], tick_seconds: float) -> float:
    """Seconds into a tick at which a server is asked: spread, so that several servers are not asked in the same
    moment.
    """
    servers_in_order = sorted(servers)
    return tick_seconds * servers_in_order.index(server) / len(servers_in_order) if server in servers else 0.0
