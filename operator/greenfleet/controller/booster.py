"""Lets workers start faster than their CPU limit allows: it is raised while they start, and put back once they have.

Importing Celery and an application takes a second of CPU, which is ten seconds on a tenth of a core: most of what a
fleet takes to grow. The pod is resized in place (KEP-1287, Kubernetes 1.33 and later), which restarts nothing and
leaves the Deployment as it is. Only the limit changes. The requests stay, so the pod fits where it is, and a neighbour
that claims its CPU gets it: what is used is what nobody else wants.

The rule is level-triggered, so that whatever was missed (a restart of the operator, an answer that got lost) is made up
for at the next look. A refusal costs nothing but the boost: the worker starts as slowly as its own limit makes it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from greenfleet.api import GreenWorkerPool, quantity
from greenfleet.controller.background import Background
from greenfleet.controller.registry import Registry
from greenfleet.k8s import paths
from greenfleet.k8s.client import ApiError, Client, NotFoundError, NotLeaderError
from greenfleet.manifests import names
from greenfleet.manifests.names import Role
from greenfleet.manifests.worker import resources_of
from greenfleet.status.times import unix_time

_log = logging.getLogger(__name__)

_Object = dict[str, Any]

BOOST_SECONDS = 60.0
"""The longest boost of a container that runs: an application that takes longer to start, or never does, is not worth a
core.
"""
AGAIN_SECONDS = 5.0
"""After which a resize that has not shown in the pod is asked for again."""
REFUSED_SECONDS = 600.0
"""How long a pool's workers start without a boost after a refusal: by a quota, a LimitRange, an older API server, or a
node that cannot resize.
"""
_REFUSALS = (400, 403, 404, 405, 422)
_NO_SUBRESOURCE = "could not find the requested resource"
"""What an API server without resizes says; else 404 means that the pod is gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """CPU limits of a worker, as quantities."""

    usual: str
    starting: str | None
    """None: no boost is wanted, or the usual limit is no lower."""


@dataclass(frozen=True, slots=True)
class _Asked:
    cpu: str
    at: float
    """Monotonic seconds."""


def limits_of(pool: GreenWorkerPool, role: Role) -> Limits | None:
    """What the pool asks for, None where its workers have no CPU limit."""
    usual, starting = resources_of(pool, role).limits.get("cpu"), str(pool.spec.worker.startup_boost.cpu)
    if usual is None:
        return None
    return Limits(str(usual), starting if quantity(starting) > quantity(str(usual)) else None)


def wanted(pod: _Object, limits: Limits, now: float, *, raised: bool) -> str | None:
    """The CPU limit that a worker should have and has not; None where nothing is to be done. *now* is Unix time.

    What somebody else has set (a VerticalPodAutoscaler) stays: only the usual limit is raised, and only a raised one is
    put back. That it is raised shows in itself or is remembered (*raised*), for the pool may ask for another boost by
    now.
    """
    limit, status = _cpu_limit(pod), pod.get("status") or {}
    if limit is None or status.get("phase") in ("Succeeded", "Failed"):
        return None
    usual = limit == quantity(limits.usual)
    starting = _starting_seconds(status, now)
    if starting is not None and starting < BOOST_SECONDS:
        # A Guaranteed pod would have to get larger requests too: its quality of service cannot change.
        free = status.get("qosClass") == "Burstable" and "deletionTimestamp" not in pod["metadata"]
        return limits.starting if usual and free else None
    if usual:
        return None
    seen = limits.starting is not None and limit == quantity(limits.starting)
    return limits.usual if raised or seen else None


def _cpu_limit(pod: _Object) -> float | None:
    """In cores; None where the worker has none, or one that a pool could not have set."""
    for container in pod["spec"]["containers"]:
        if container["name"] == names.WORKER_CONTAINER:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("cpu")
            with contextlib.suppress(ValueError):
                return None if limit is None else quantity(str(limit))
    return None


def _starting_seconds(status: _Object, now: float) -> float | None:
    """For how long the worker has been running without having started: 0 before it runs, None once its startup probe
    has succeeded. A container that was restarted starts again.
    """
    for one in status.get("containerStatuses") or ():
        if one["name"] == names.WORKER_CONTAINER:
            running = (one.get("state") or {}).get("running") or {}
            if one.get("started"):
                return None
            return now - unix_time(running["startedAt"]) if running.get("startedAt") else 0.0
    return 0.0


class Booster:
    """Resizes the pods of all pools. It gets every pod that changes, and all pods once a tick."""

    def __init__(self, client: Client, registry: Registry, background: Background) -> None:
        self._client = client
        self._registry = registry
        self._background = background
        self._asked: dict[str, _Asked] = {}
        """By the pod's uid: the last resize."""
        self._refused_until: dict[str, float] = {}
        """By pool: monotonic seconds."""

    def pod_changed(self, old: _Object | None, new: _Object | None) -> None:
        """A pod of ours has come, changed or gone."""
        if new is None:
            if old is not None:
                self._asked.pop(old["metadata"]["uid"], None)
            return
        labels = new["metadata"].get("labels") or {}
        role = labels.get(names.ROLE_LABEL)
        record = self._registry.get(f"{new['metadata']['namespace']}/{labels.get(names.POOL_LABEL, '')}")
        if role in (Role.EVENTLET, Role.PREFORK) and record is not None and record.pool is not None:
            self.look_at(new, record.pool, Role(role))

    def look_at(self, pod: _Object, pool: GreenWorkerPool, role: Role) -> None:
        """Asks for the resize that this pod needs, if it needs one."""
        limits = limits_of(pool, role)
        if limits is None:
            return
        uid, now = pod["metadata"]["uid"], time.monotonic()
        asked = self._asked.get(uid)
        cpu = wanted(pod, limits, time.time(), raised=asked is not None and asked.cpu != limits.usual)
        if cpu is None or (asked is not None and asked.cpu == cpu and now - asked.at < AGAIN_SECONDS):
            return
        if cpu == limits.starting and not self._may_raise(pool, now):
            return
        self._asked[uid] = _Asked(cpu, now)
        self._background.spawn(self._resize(pod, pool, cpu))

    def _may_raise(self, pool: GreenWorkerPool, now: float) -> bool:
        return pool.spec.scaling.mode != "DryRun" and now >= self._refused_until.get(pool.key, now)

    async def _resize(self, pod: _Object, pool: GreenWorkerPool, cpu: str) -> None:
        name = pod["metadata"]["name"]
        container = {"name": names.WORKER_CONTAINER, "resources": {"limits": {"cpu": cpu}}}
        try:
            path = f"{paths.pod(pool.namespace, name)}/resize"
            await self._client.strategic_merge_patch(path, {"spec": {"containers": [container]}})
        except NotLeaderError:
            return
        except ApiError as error:
            if isinstance(error, NotFoundError) and _NO_SUBRESOURCE not in str(error):
                return  # the pod is gone
            if error.status in _REFUSALS:
                self._refused_until[pool.key] = time.monotonic() + REFUSED_SECONDS
            _log.warning("%s: the CPU limit of %s could not be set to %s: %s", pool.key, name, cpu, error)
