"""PodMonitors where the cluster serves them: looked for at run time, because the Prometheus operator may come later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.k8s.client import ApiError, Client
from greenfleet.manifests.monitor import API_VERSION, Monitoring

_log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 10.0


class PodMonitors:
    """Says what PodMonitors should look like, once the API is there; until then there are none."""

    def __init__(
        self, client: Client, view: ClusterCache, monitoring: Monitoring | None, appeared: Callable[[], None]
    ) -> None:
        self._client = client
        self._view = view
        self._wanted = monitoring
        self._appeared = appeared
        self._served = False

    @property
    def monitoring(self) -> Monitoring | None:
        """What the administrator wants, None where it cannot be had or nobody wants it."""
        return self._wanted if self._served else None

    async def run(self) -> None:
        """Waits for the API, then keeps the copies of our PodMonitors up to date until cancelled."""
        if self._wanted is None:
            await asyncio.Event().wait()
        while not await self._is_served():  # noqa: ASYNC110 - nothing of ours could set an Event
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        _log.info("the cluster serves PodMonitors: each pool and each exporter gets one")
        self._served = True
        self._appeared()
        async with asyncio.TaskGroup() as group:
            for reflector in self._view.add_kind(API_VERSION, "PodMonitor"):
                group.create_task(reflector.run())

    async def _is_served(self) -> bool:
        try:
            found = await self._client.get(f"/apis/{API_VERSION}")
        except ApiError:
            return False
        return any(resource["name"] == "podmonitors" for resource in found.get("resources") or ())
