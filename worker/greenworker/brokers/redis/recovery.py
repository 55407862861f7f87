"""Gives back what nobody will settle: what dead workers held, and deliveries that were lost with a connection."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from redis.exceptions import ResponseError

from greenworker.brokers.redis.heartbeat import DEAD_AFTER_SECONDS
from greenworker.brokers.redis.keys import readable
from greenworker.brokers.redis.payloads import redelivered
from greenworker.brokers.redis.scripts import EXPIRED_WORKERS, REMOVE_WORKER
from greenworker.brokers.suspicion import after_death

if TYPE_CHECKING:
    from greenworker.brokers.redis.unacked_store import UnackedStore

logger = get_logger(__name__)

EVERYBODY_SECONDS = 1e9
"""Beats so far in the future are all there are."""

LONGEST_LENGTH = 10
"""Digits of a message's length in bytes; Redis keeps no value of more than 512 MB."""


class Recovery:
    """Of one process. *store*: what it holds itself, and its way to Redis."""

    def __init__(self, store: UnackedStore) -> None:
        self.restarts_in_place = False
        """Whether the worker's name is that of a pod: another process of that name has ended."""
        self._store = store
        self._suspects: set[bytes] = set()
        """Tags that are booked here and that nobody knew when it was last asked."""

    def run(self, sleep: Callable[[float], object], say: Callable[[str], object], *more: Callable[[], object]) -> None:
        """Until the worker ends, in a green thread or a real one, which have different ways to *sleep* for some seconds
        and to *say* what failed. *more*: what else belongs to each round.
        """
        _attempt("messages of an earlier process", say, self.recover_predecessors)
        while not self._store.closing:
            sleep(DEAD_AFTER_SECONDS / 4)
            _attempt("messages of dead workers", say, self.recover_dead_workers, self.recover_lost_deliveries, *more)

    def recover_dead_workers(self) -> None:
        """Give back what dead workers hold. After a restart of Redis everybody looks dead: wait until the living have
        had the time to say so.
        """
        store, connected_at = self._store, self._store.heartbeat.connected_at
        if store.keys is None or monotonic() - connected_at < DEAD_AFTER_SECONDS or not connected_at:
            return
        for raw in store.scripts[EXPIRED_WORKERS](keys=[store.keys.workers], args=[DEAD_AFTER_SECONDS]):
            if raw != store.worker.encode():
                self._recover(raw, DEAD_AFTER_SECONDS)

    def recover_predecessors(self) -> None:
        """What ended processes of this pod hold: kubelet starts a container again only after it has ended."""
        store = self._store
        if store.keys is None or not self.restarts_in_place:
            return
        pod = store.worker.rpartition(".")[0]
        for raw in store.scripts[EXPIRED_WORKERS](keys=[store.keys.workers], args=[-EVERYBODY_SECONDS]):
            name = raw.decode(errors="replace")
            if name != store.worker and name.rpartition(".")[0] == pod:
                self._recover(raw, 0.0)

    def _recover(self, raw: bytes, silent_seconds: float) -> None:
        """*raw*: the worker's name as Redis has it. Somebody else may have written it, and need not know UTF-8."""
        store = self._store
        assert store.keys is not None
        key, name = store.keys.held_prefix.encode() + raw, raw.decode(errors="replace")
        try:
            count = self.return_lost(key, store.client.hgetall(key), died=True)
        except ResponseError as error:  # a key of another type must not keep us from the next worker's messages
            store.warn_once(
                f"Could not give back what the dead worker {name} held (Redis key {readable(key)}): {error}"
            )
            count = 0
        store.scripts[REMOVE_WORKER](keys=[store.keys.workers, key], args=[raw, silent_seconds])
        if count:
            logger.warning("Gave back %d messages that the dead worker %s held", count, name)

    def recover_lost_deliveries(self) -> None:
        """A fetch whose answer was lost with its connection has booked messages that nobody knows here. Seen twice:
        back.
        """
        store = self._store
        if store.keys is None or store.client.hlen(store.keys.held) == len(store.held) + len(store.unsettled()):
            self._suspects.clear()
            return
        unknown = self._unknown()
        confirmed = {tag: value for tag, value in unknown.items() if tag in self._suspects}
        self._suspects = unknown.keys() - confirmed.keys()
        self._return_unknown(confirmed)

    def return_lost_deliveries(self) -> None:
        """The same at once, as this worker ends: it settles nothing any more, and nobody looks for what is booked under
        a worker that has left the list.
        """
        self._return_unknown(self._unknown())

    def _unknown(self) -> dict[bytes, bytes]:
        """What is booked here, without what this process holds, has done, or may still get in an answer."""
        store = self._store
        assert store.keys is not None
        entries: dict[bytes, bytes] = store.client.hgetall(store.keys.held)
        settled = store.unsettled()
        return {
            raw: value
            for raw, value in entries.items()
            if (tag := raw.decode(errors="replace")) not in store.held
            and tag not in settled
            and not store.is_expected(tag)
        }

    def _return_unknown(self, entries: dict[bytes, bytes]) -> None:
        assert self._store.keys is not None
        count = self.return_lost(self._store.keys.held, entries) if entries else 0
        if count:
            logger.warning("Gave back %d messages whose delivery was lost with a connection", count)

    def restore_visible(self) -> None:
        """What stock workers hold for longer than the visibility time-out. kombu's own attempt is never reached on an
        idle green worker: BRPOP's time-out beats the drain's.
        """
        channel = self._store.channel
        if not channel.closed:
            channel.qos.restore_visible(num=channel.unacked_restore_limit, interval=1)

    def return_lost(self, held_key: str | bytes, entries: dict[bytes, bytes], *, died: bool = False) -> int:
        """*entries*: delivery tag to length and list of each. *died*: whoever held them ended with them, and one of
        them may be why. Returns how many were still booked. An entry that no worker has written is taken out: it would
        keep a dead worker in the list of workers. A message that is booked under its tag comes back when its visibility
        time-out ends.
        """
        store = self._store
        assert store.keys is not None
        count, tags = 0, list(entries)
        for first in range(0, len(tags), 100):
            chunk = tags[first : first + 100]
            arguments: list[Any] = ["head"]
            foreign: list[bytes] = []
            for tag, booked in zip(chunk, store.client.hmget(store.keys.unacked, chunk), strict=True):
                length, _, key = entries[tag].partition(b":")
                if not length.isdigit() or len(length) > LONGEST_LENGTH:
                    foreign.append(tag)
                    continue
                payload = booked[1 : 1 + int(length)] if booked else b""
                arguments += [tag, key, redelivered(after_death(payload) if died else payload) if booked else b""]
            count += store.requeue(held_key, arguments)
            if foreign:
                logger.warning(
                    "Took %d entries that no worker has written out of the Redis key %s, such as %r",
                    len(foreign),
                    readable(held_key),
                    entries[foreign[0]][:100],
                )
                store.client.hdel(held_key, *foreign)
        return count


def _attempt(what: str, say: Callable[[str], object], *steps: Callable[[], object]) -> None:
    """An error ends this round only: the next one tries again."""
    try:
        for step in steps:
            step()
    except Exception as error:
        say(f"could not look for {what}: {error!r}")
