"""Keys to work on: each at most once in the queue, never twice at a time, again later when it fails.

The contract of client-go's workqueue. One broken key backs off by itself and never delays another. Namespaces take
turns, so that who makes a thousand pools waits for them alone.

Why not a library: kopf's queues have events of one object as their keys, and no other work (an exporter of several
pools, a doubt, a resync); job queues for asyncio have no keys that are worked on once at a time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from greenfleet.k8s.client import ApiError, NotLeaderError

_log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.5
_LAST_DELAY_SECONDS = 60.0
_BUG_DELAY_SECONDS = 300.0


class Key(Hashable, Protocol):
    """What is worked on, and the namespace whose turn it takes. Its text is for the log."""

    @property
    def namespace(self) -> str: ...


KeyT = TypeVar("KeyT", bound=Key)


class _Turns(Generic[KeyT]):
    """Keys in the order in which they came, but that of several namespaces each has its turn."""

    def __init__(self) -> None:
        self._keys: dict[str, deque[KeyT]] = {}
        """By namespace, the one whose turn is next first."""
        self._waiting: asyncio.Semaphore = asyncio.Semaphore(0)

    def put(self, key: KeyT) -> None:
        self._keys.setdefault(key.namespace, deque()).append(key)
        self._waiting.release()

    async def get(self) -> KeyT:
        await self._waiting.acquire()
        namespace = next(iter(self._keys))
        keys = self._keys.pop(namespace)
        key = keys.popleft()
        if keys:
            self._keys[namespace] = keys
        return key


class WorkQueue(Generic[KeyT]):
    """Keys that were added and are to be worked on, `workers` of them at a time."""

    def __init__(self, *, workers: int = 8) -> None:
        self._workers = workers
        self._ready = _Turns[KeyT]()
        self._queued: set[KeyT] = set()
        self._running: set[KeyT] = set()
        self._again: set[KeyT] = set()
        self._refused: set[KeyT] = set()
        """Keys that need a leader, and were worked on while this replica was none."""
        self._failures: dict[KeyT, int] = {}
        self._timers: dict[KeyT, asyncio.TimerHandle] = {}

    def add(self, key: KeyT) -> None:
        """Work on `key` soon."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put(key)

    def add_later(self, key: KeyT, seconds: float) -> None:
        """Work on `key` after a while, unless it is added before. Of two whiles the one that ends first counts."""
        if key in self._queued:
            return
        loop = asyncio.get_running_loop()
        before = self._timers.get(key)
        if before is not None:
            if before.when() <= loop.time() + seconds:
                return
            before.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry_refused(self) -> None:
        """Work again on what was refused for want of the Lease: it may have lapsed for a second that nobody else
        noticed.
        """
        refused, self._refused = self._refused, set()
        for key in refused:
            self.add(key)

    async def run(self, work: Callable[[KeyT], Awaitable[None]]) -> None:
        """Runs `work(key)` for every key, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._run_worker(work))

    async def _run_worker(self, work: Callable[[KeyT], Awaitable[None]]) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await work(key)
                self._failures.pop(key, None)
            except NotLeaderError:
                self._refused.add(key)
            except ApiError as error:
                delay = error.retry_after_seconds or self._backoff(key)
                _log.warning("%s: again in %.1f s: %s", key, delay, error)
                self.add_later(key, delay)
            except Exception:
                _log.exception("%s: a bug of ours; again in %.0f s", key, _BUG_DELAY_SECONDS)
                self.add_later(key, _BUG_DELAY_SECONDS)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)
            await asyncio.sleep(0)  # work that waits for nothing must not keep everything else waiting

    def _backoff(self, key: KeyT) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return min(_LAST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 10)) * random.uniform(0.75, 1.0)
