"""The operator's own HTTP port: metrics, probes, and the reasons of decisions.

Probes ask nobody else. Live: the loops tick. Ready: the caches are filled, and some replica leads. So a standby is
ready to take over, and no replica is ready while nobody leads.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from greenfleet.controller.registry import Registry
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.status import missing_queues

_STUCK_SECONDS = 60.0


class WebServer:
    """Serves on `port` of all addresses."""

    def __init__(
        self,
        *,
        registry: Registry,
        metrics: OperatorMetrics,
        ticked_at: Callable[[], float],
        is_ready: Callable[[], bool],
        is_led: Callable[[], bool],
        leads: Callable[[], bool],
        port: int,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._ticked_at = ticked_at
        self._is_ready = is_ready
        self._is_led = is_led
        self._leads = leads
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens. Raises OSError where the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_readiness)
        app.router.add_get("/api/v1/pools/{namespace}/{name}/why", self._serve_why)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        registry, names = self._metrics.registry, request.query.getall("name[]", [])
        body = generate_latest(registry.restricted_registry(names) if names else registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _serve_health(self, _: web.Request) -> web.Response:
        silent = time.monotonic() - self._ticked_at()
        if silent > _STUCK_SECONDS:
            return web.Response(status=503, text=f"the scaling loop did not tick for {silent:.0f} s\n")
        return web.Response(text="ok\n")

    async def _serve_readiness(self, _: web.Request) -> web.Response:
        if not self._is_ready():
            return web.Response(status=503, text="the caches are being filled\n")
        if not self._is_led():
            return web.Response(status=503, text="no replica leads: the Lease is not renewed, see the operator's log\n")
        return web.Response(text="ok\n")

    async def _serve_why(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        record = self._registry.get(key)
        if not self._leads():  # first: a standby that has just started may not know every pool yet
            return web.json_response({"error": "this replica does not lead: ask the holder of the Lease"}, status=409)
        if record is None:
            return web.json_response({"error": f"there is no pool {key}"}, status=404)
        fleets = {
            str(role): {
                "replicas": fleet.autoscaling.decision.replicas if fleet.autoscaling.decision else None,
                "threads": fleet.autoscaling.decision.threads if fleet.autoscaling.decision else None,
                "limited": fleet.autoscaling.decision.limited if fleet.autoscaling.decision else None,
                "now": _plain(fleet.autoscaling.decision.why) if fleet.autoscaling.decision else None,
                "history": [_plain(why) for why in fleet.autoscaling.history],
            }
            for role, fleet in record.fleets.items()
        }
        queues = record.findings.missing_queues
        remarks = [missing_queues.sentence(queues)] if queues else []
        return web.json_response(
            {"pool": key, "fleets": fleets, "conditions": _first_of_all(record.status), "remarks": remarks}
        )


def _first_of_all(status: dict[str, Any]) -> list[str]:
    """Conditions that say more of the pool's size than a decision does: nothing starts, or nobody scales."""
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    wanted = (("Stalled", "True"), ("ScalingActive", "False"))
    held = [conditions[kind] for kind, value in wanted if (conditions.get(kind) or {}).get("status") == value]
    return [f"{one['type']} is {one['status']} ({one['reason']}): {one['message']}" for one in held]


def _plain(value: Any) -> Any:
    """A frozen dataclass as JSON; the inputs of a `Why` as an object."""
    plain = dataclasses.asdict(value)
    plain["inputs"] = dict(plain["inputs"])
    return plain
