"""Says every few seconds that this worker lives, also while the hub is blocked: whose heartbeat is missing counts as
dead, and the others give back what it held.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

from greenworker import native
from greenworker.brokers.redis.keys import Keys
from greenworker.brokers.redis.scripts import HEARTBEAT

HEARTBEAT_SECONDS = 4.0
HEARTBEAT_AGAIN_SECONDS = 0.5
"""After a heartbeat that failed, over a new connection."""
DEAD_AFTER_SECONDS = 20.0
"""Five missed beats."""

RENEW_SECONDS = 60.0
"""How often the visibility time-out of what is held starts anew, or a quarter of the time-out if that is less."""


class Heartbeat:
    """Of one process. *worker*: its name in Redis. Whoever connects sets the other attributes."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.keys: Keys | None = None
        self.client: Any = None
        self.visibility_seconds = 3600.0
        self.connected_at = 0.0
        """When Redis began to take it, by `monotonic`; 0.0 while it does not."""
        self.closing = False

    def send(self, *, renew: bool) -> None:
        """Now. *renew*: the visibility time-out of what is held starts anew as well. Raises the broker's errors."""
        assert self.keys is not None
        keys = self.keys
        self.client.eval(HEARTBEAT, 3, keys.workers, keys.held, keys.index, self.worker, int(renew))

    def run(self) -> None:
        """In a real thread: a task that blocks the hub must not make its worker look dead."""
        renewed = self.connected_at = monotonic()
        while not self.closing:
            native.sleep(HEARTBEAT_SECONDS if self.connected_at else HEARTBEAT_AGAIN_SECONDS)
            renew_every = min(RENEW_SECONDS, self.visibility_seconds / 4)
            renew = monotonic() - renewed >= renew_every
            client = self.client
            try:
                self.send(renew=renew)
                if renew:
                    renewed = monotonic()
                if not self.connected_at:
                    self.connected_at = monotonic()
            except Exception as error:
                if self.connected_at:
                    native.say(f"the broker does not take this worker's beat: {error!r}")
                self.connected_at = 0.0
                with suppress(Exception):  # the next beat has a new connection; one in use is the hub's, as it connects
                    client.connection_pool.disconnect(inuse_connections=False)
