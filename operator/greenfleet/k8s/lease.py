"""Leadership by a Lease (coordination.k8s.io/v1), with client-go's rules and one more: stop writing before it runs out.

The clock that counts is this process's monotonic one. A holder's lease is judged by how long *we* have seen it
unchanged, never by comparing its timestamps with our wall clock, so that clock skew between nodes cannot make two
leaders.

Why not the `leaderelection` of the kubernetes package: it measures with the wall clock, and it has no fence: nothing
stops a write that was begun before the lease ran out (here the client asks `Term.write_seconds` before each).
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable

from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client, ConflictError, NotFoundError, Object, TransientError

_log = logging.getLogger(__name__)


class Term:
    """For how long this replica leads. The client asks it before each write; the Lease, which needs the client, renews
    it.
    """

    def __init__(self, duration_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.duration_seconds = duration_seconds
        self.monotonic = monotonic
        self._renewed = float("-inf")

    def is_held(self) -> bool:
        """Whether we may write now. False already at two thirds of the duration without renewal."""
        return self.monotonic() < self._renewed + self.duration_seconds * 2 / 3

    def write_seconds(self) -> float:
        """For how long a write that begins now may take: until somebody else could lead. 0: it may not begin."""
        return self._renewed + self.duration_seconds - self.monotonic() if self.is_held() else 0.0

    def renew(self, asked: float) -> None:
        """The Lease is ours from *asked* on, in monotonic seconds."""
        self._renewed = asked

    def end(self) -> None:
        """No write begins any more."""
        self._renewed = float("-inf")


class Lease:
    """One candidate for one Lease."""

    def __init__(self, client: Client, term: Term, *, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._term = term
        self._path = paths.collection("coordination.k8s.io/v1", "Lease", namespace)
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._duration = term.duration_seconds
        self._monotonic = term.monotonic
        self._seen: tuple[str, float] | None = None
        """The resourceVersion seen last, and when it was seen first."""
        self._alive = float("-inf")
        """When some holder was last seen to have renewed it."""
        self._began = term.monotonic()
        self._said_leaderless = False
        self.holder: str | None = None
        """Who holds the Lease, as far as we know."""
        self.gained = asyncio.Event()
        """Set while we lead."""

    def leaderless_seconds(self) -> float:
        """For how long nobody has led, as far as this replica can see. 0 while somebody does, and for one duration
        after a leader was lost: that is how long a change of leaders may take.
        """
        lost = max(self._alive + 2 * self._duration, self._began)
        return max(0.0, self._monotonic() - lost)

    def is_led(self) -> bool:
        """Whether somebody leads, this replica or another one."""
        return self._monotonic() < self._alive + 2 * self._duration

    async def run(self) -> None:
        """Gets and keeps the Lease until cancelled, then gives it back so that the other replica need not wait."""
        try:
            while True:
                try:
                    await asyncio.wait_for(self._try(), self._duration / 3)
                except (ApiError, TimeoutError) as error:
                    _log.warning("the Lease %s could not be renewed: %s", self._name, error or "no answer in time")
                self._announce()
                await asyncio.sleep(self._duration / 6 if self._term.is_held() else self._duration / 10)
        finally:
            if self._term.is_held():
                await asyncio.shield(asyncio.create_task(self._release()))

    def _announce(self) -> None:
        if self._term.is_held() and not self.gained.is_set():
            _log.info("leading as %s", self._identity)
            self.gained.set()
        elif not self._term.is_held() and self.gained.is_set():
            _log.warning("no longer leading: the Lease was not renewed in time")
            self.gained.clear()
        if self.leaderless_seconds() > 0 and not self._said_leaderless:
            _log.error("nobody leads: no pool is scaled or reconciled until the Lease %s is renewed", self._name)
        self._said_leaderless = self.leaderless_seconds() > 0

    async def _try(self) -> None:
        asked = self._monotonic()
        try:
            lease = await self._client.get(f"{self._path}/{self._name}", urgent=True)
        except NotFoundError:
            body = self._body({"metadata": {"name": self._name, "namespace": self._namespace}}, acquired=True)
            await self._client.create(self._path, body, fenced=False)
            self._took(asked)
            return
        if "resourceVersion" not in (lease.get("metadata") or {}):
            raise TransientError("the API server answered with something that is no Lease")
        spec = lease.get("spec") or {}
        self.holder = spec.get("holderIdentity") or None
        mine = self.holder == self._identity
        if not mine and self.holder is not None and not self._expired(lease):
            assert self._seen is not None
            self._alive = self._seen[1]
            return
        try:
            await self._client.replace(f"{self._path}/{self._name}", self._body(lease, acquired=not mine), fenced=False)
        except ConflictError:
            return
        self._took(asked)

    def _took(self, asked: float) -> None:
        self.holder = self._identity
        self._alive = asked
        self._term.renew(asked)

    def _expired(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        now = self._monotonic()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        duration = (lease.get("spec") or {}).get("leaseDurationSeconds") or self._duration
        return now > self._seen[1] + float(duration)

    def _body(self, lease: Object, *, acquired: bool) -> Object:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = dict(lease.get("spec") or {})
        transitions = spec.get("leaseTransitions") or 0
        spec.update(holderIdentity=self._identity, leaseDurationSeconds=round(self._duration), renewTime=now)
        if acquired:
            spec.update(acquireTime=now, leaseTransitions=transitions + 1 if lease.get("spec") else 0)
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease["metadata"], "spec": spec}

    async def _release(self) -> None:
        self._term.end()
        await self._client.stop_writing()
        try:
            async with asyncio.timeout(self._duration / 3):
                lease = await self._client.get(f"{self._path}/{self._name}", urgent=True)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._client.replace(f"{self._path}/{self._name}", lease, fenced=False)
        except (ApiError, TimeoutError) as error:
            _log.info("the Lease was not given back, it runs out by itself: %s", error or "no answer in time")
