"""Several Redis URLs with ``;`` between them as one broker.

Producers and workers use the first that answers when they connect, and stay there: after a failover some are on one
server and some on another. So the depth of a queue is the sum over all servers that answer. A replica shows what its
master has, and is left out; so is a server that two URLs name. One that is down is tried again in the background, and
holds nobody up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

from greenworker.brokers.dead_letters import DeadLetter
from greenworker.exporter.broker import Depth, Letters, Queue

AGAIN_SECONDS = 10.0
"""Between two attempts to reach the servers that are down."""


class Member(Protocol):
    """One server."""

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`."""

    def dead_letters(self, queue: Queue) -> Letters:
        """See `Broker.dead_letters`."""

    def identity(self) -> str:
        """The data set that it is master of; empty for a replica."""

    def close(self) -> None:
        """See `Broker.close`."""


class Failover:
    """A broker of several members; those that are down are None."""

    at_once = 1_000_000

    def __init__(self, urls: Sequence[str], connect: Callable[[str], Member]) -> None:
        """Raises the last error of *connect* if no server answers."""
        self._connect = connect
        self._members: dict[str, Member | None] = dict.fromkeys(url for url in urls if url)
        self._error: Exception = ConnectionError("no server answers")
        self._tried_at = 0.0
        self._closed = False
        for thread in self._reach():
            thread.join()
        if not any(self._members.values()):
            raise self._error

    def depths(self, queues: tuple[Queue, ...]) -> dict[str, Depth]:
        """See `Broker.depths`. Raises the last error if no master answers."""
        found: dict[str, Mapping[str, Depth]] = {}
        for url, member in list(self._members.items()):
            if member is None:
                continue
            try:
                identity = member.identity()
                if identity and identity not in found:
                    found[identity] = member.depths(queues)
            except Exception as error:
                self._error = error
                self._members[url] = None
                member.close()
        if monotonic() - self._tried_at > AGAIN_SECONDS:
            self._reach()
        if not found:
            raise self._error
        return {queue.name: total([depths[queue.name] for depths in found.values()]) for queue in queues}

    def count_dead_letters(self, queues: tuple[Queue, ...]) -> None:
        """See `Broker.count_dead_letters`: `depths` has asked."""

    def dead_letters(self, queue: Queue) -> SeveralLetters:
        """See `Broker.dead_letters`: those of every master that answers."""
        masters = {member.identity(): member for member in self._members.values() if member is not None}
        return SeveralLetters([member.dead_letters(queue) for identity, member in masters.items() if identity])

    def close(self) -> None:
        """See `Broker.close`."""
        self._closed = True
        for member in list(self._members.values()):
            if member is not None:
                member.close()

    def _reach(self) -> list[threading.Thread]:
        self._tried_at = monotonic()
        threads = [
            threading.Thread(target=self._try, args=(url,), daemon=True)
            for url, member in self._members.items()
            if member is None
        ]
        for thread in threads:
            thread.start()
        return threads

    def _try(self, url: str) -> None:
        try:
            member = self._connect(url)
        except Exception as error:
            self._error = error
            return
        self._members[url] = member
        if self._closed:
            with suppress(Exception):
                member.close()


def total(depths: Sequence[Depth]) -> Depth:
    """Their sum; what one of them cannot tell, the sum cannot."""
    unacked = [depth.unacked for depth in depths]
    dead = [depth.dead for depth in depths]
    return Depth(
        sum(depth.ready for depth in depths),
        None if None in unacked else sum(count for count in unacked if count is not None),
        dead=None if None in dead else sum(count for count in dead if count is not None),
    )


class SeveralLetters:
    """Those of several servers that are one broker."""

    def __init__(self, parts: Sequence[Letters]) -> None:
        self.parts = parts

    def each(self) -> Iterator[DeadLetter]:
        for part in self.parts:
            yield from part.each()

    def take(self, identity: str, *, requeue: bool) -> list[DeadLetter]:
        return [letter for part in self.parts for letter in part.take(identity, requeue=requeue)]
