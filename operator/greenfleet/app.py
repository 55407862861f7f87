"""The operator as one process: builds the parts, starts the long-lived tasks, then hands over to kopf.

The order matters: kopf cancels every task that is created after its own start, so ours come first.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kopf
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from greenfleet import __version__
from greenfleet.api import GreenWorkerPool, duration_seconds
from greenfleet.api.pool import number_of
from greenfleet.controller.actuator import Actuator
from greenfleet.controller.applier import Applier
from greenfleet.controller.background import Background
from greenfleet.controller.booster import Booster
from greenfleet.controller.cluster_cache import ClusterCache
from greenfleet.controller.controller import Controller
from greenfleet.controller.decider import Decider
from greenfleet.controller.enqueuer import Enqueuer
from greenfleet.controller.exporters import ExporterReconciler
from greenfleet.controller.keys import Key
from greenfleet.controller.monitors import PodMonitors
from greenfleet.controller.pool_list import PoolList
from greenfleet.controller.pool_scaler import PoolScaler
from greenfleet.controller.reconciler import Reconciler
from greenfleet.controller.recycler import Recycler
from greenfleet.controller.registry import Registry
from greenfleet.controller.scaling_loop import ScalingLoop
from greenfleet.controller.status_writer import StatusWriter
from greenfleet.controller.web import WebServer
from greenfleet.controller.workqueue import WorkQueue
from greenfleet.handlers import pools
from greenfleet.k8s.client import SILENCE_SECONDS, connect
from greenfleet.k8s.events import EventRecorder
from greenfleet.k8s.lease import Lease, Term
from greenfleet.manifests import Monitoring
from greenfleet.manifests.pods import PodDefaults
from greenfleet.own_metrics import OperatorMetrics
from greenfleet.prometheus.client import PrometheusServer
from greenfleet.prometheus.poller import Poller
from greenfleet.redaction import redacted
from greenfleet.settings import Settings
from greenfleet.status.spec_checks import config_error, patch_error, user_error

_log = logging.getLogger(__name__)

LEASE_NAME = "greenfleet"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this replica is."""

    name: str
    namespace: str

    @classmethod
    def from_environment(cls) -> Identity:
        """From POD_NAME and POD_NAMESPACE, which the chart sets; outside of a cluster, the host's name and
        `default`.
        """
        return cls(os.environ.get("POD_NAME") or socket.gethostname(), os.environ.get("POD_NAMESPACE") or "default")


GC_THRESHOLDS = (50_000, 20, 50)
"""Of Python's collector of cycles (`gc.set_threshold`). With its own (700, 10, 10), an operator with 1,000 pools at
rest looked for cycles during a sixth of its time, in what the series of a tick leave, which has none: 0.241 cores in
place of 0.204, side by side (`bench.operator`), for 10 MiB of memory.
"""


async def run(settings: Settings, identity: Identity, *, kubeconfig: str | None = None, port: int = 9541) -> None:
    """Runs the operator until a signal stops it."""
    gc.set_threshold(*GC_THRESHOLDS)
    metrics = OperatorMetrics()
    term = Term(duration_seconds(settings.lease_duration))
    client = await connect(
        kubeconfig,
        concurrency=settings.api_concurrency,
        write_seconds=term.write_seconds,
        observe=metrics.observe_request,
    )
    lease = Lease(client, term, namespace=identity.namespace, name=LEASE_NAME, identity=identity.name)
    metrics.leaderless.set_function(lease.leaderless_seconds)
    servers = {
        name: PrometheusServer(name, server, metrics.observe_query)
        for name, server in settings.prometheus.servers.items()
    }
    registry = Registry()
    queue = WorkQueue[Key]()
    enqueuer = Enqueuer(registry, queue, metrics)
    background = Background()
    booster = Booster(client, registry, background)
    view = ClusterCache(client, settings.namespaces, enqueuer.child_changed, booster.pod_changed)
    events = EventRecorder(client, identity.name)
    status = StatusWriter(
        client,
        view,
        EventRecorder(client, identity.name, low_priority=True),
        enqueuer.routes_changed,
        pool_doubtful=enqueuer.pool_doubtful,
        exporter_refused=registry.exporter_refused,
        config_error=lambda pool: (
            config_error(pool, settings.prometheus)
            or user_error(pool, _pod_defaults(settings))
            or patch_error(pool, allowed=settings.pods.allow_pod_template_patch)
        ),
        scrape_problem=lambda pool: _scrape_problem(pool, settings, servers),
    )
    monitors = PodMonitors(client, view, _monitoring(settings), enqueuer.enqueue_all)
    applier = Applier(client, view)
    shared: dict[str, Any] = {"image": settings.worker, "monitors": monitors, "pod_defaults": _pod_defaults(settings)}
    reconciler = Reconciler(client, registry, view, events, applier, **shared)
    exporters = ExporterReconciler(client, registry, view, applier, **shared)
    controller = Controller(
        registry=registry,
        queue=queue,
        enqueuer=enqueuer,
        pools=PoolList(client, registry, enqueuer, view, settings.namespaces),
        view=view,
        reconciler=reconciler,
        exporters=exporters,
        status=status,
        metrics=metrics,
    )
    tick_seconds = duration_seconds(settings.tick)
    scaler = PoolScaler(
        registry=registry,
        view=view,
        settings=settings.prometheus,
        decider=Decider(metrics),
        actuator=Actuator(client, view, events, metrics, reconciler),
        recycler=Recycler(client, events),
        booster=booster,
        status=status,
        adopt_generation=reconciler.adopt_generation,
        background=background,
    )
    loop = ScalingLoop(
        registry=registry,
        poller=Poller(servers, settings.prometheus, view.workers_of, tick_seconds=tick_seconds),
        scaler=scaler,
        metrics=metrics,
        background=background,
        acts=lambda: term.is_held() and view.is_synced,
        tick_seconds=tick_seconds,
    )
    web = WebServer(
        registry=registry,
        metrics=metrics,
        ticked_at=lambda: loop.ticked_at,
        is_ready=lambda: view.is_synced,
        is_led=lease.is_led,
        leads=term.is_held,
        port=port,
    )
    await web.start()
    _log.info("greenfleet %s starts as %s/%s", __version__, identity.namespace, identity.name)
    kopf_is_up = asyncio.Event()
    owned = [
        asyncio.create_task(_asked_to_leave(kopf_is_up), name="signals"),
        asyncio.create_task(lease.run(), name="lease"),
        *(asyncio.create_task(reflector.run(), name="reflector") for reflector in view.reflectors),
        asyncio.create_task(monitors.run(), name="PodMonitors"),
        asyncio.create_task(controller.run(lease.gained), name="controller"),
        asyncio.create_task(loop.run(), name="scaling loop"),
    ]
    try:
        await _until_one_ends(owned, _kopf(settings, enqueuer, kubeconfig, kopf_is_up))
    finally:
        await web.stop()
        await asyncio.gather(*(server.close() for server in servers.values()))
        await client.close()


def _pod_defaults(settings: Settings) -> PodDefaults:
    chosen = settings.pods.security_context
    return PodDefaults(
        user=number_of(chosen.run_as_user),
        group=number_of(chosen.run_as_group),
        fs_group=number_of(chosen.fs_group),
        allow_patch=settings.pods.allow_pod_template_patch,
    )


def _scrape_problem(pool: GreenWorkerPool, settings: Settings, servers: Mapping[str, PrometheusServer]) -> str:
    name = pool.spec.scaling.prometheus.server or settings.prometheus.default_server
    server = servers.get(name)
    return server.scrapes.problem(name) if server else ""


def _monitoring(settings: Settings) -> Monitoring | None:
    wanted = settings.pod_monitors
    interval = settings.prometheus.servers[settings.prometheus.default_server].scrape_interval
    return Monitoring(interval, dict(wanted.labels)) if wanted.enabled else None


async def _asked_to_leave(kopf_is_up: asyncio.Event) -> None:
    """Until SIGTERM or SIGINT. With its own handlers kopf would give its sub-tasks five seconds before we get
    it.
    """
    await kopf_is_up.wait()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()


async def _until_one_ends(owned: Sequence[asyncio.Task[None]], operator: asyncio.Task[None]) -> None:
    """Until a signal, or until one of our tasks or kopf ends (a bug: better restart than limp).

    Ours go first: the Lease is given back before kopf takes its time.
    """
    try:
        done, _ = await asyncio.wait({*owned, operator}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in owned:
            task.cancel()
        await asyncio.gather(*owned, return_exceptions=True)
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()


def _kopf(settings: Settings, enqueuer: Enqueuer, kubeconfig: str | None, is_up: asyncio.Event) -> asyncio.Task[None]:
    kopf_registry = kopf.OperatorRegistry()
    pools.register(kopf_registry, enqueuer)

    @kopf.on.login(registry=kopf_registry)
    def login(**options: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is not None:
            os.environ["KUBECONFIG"] = kubeconfig
            return kopf.login_with_kubeconfig(**options)
        return kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)

    kopf_settings = kopf.OperatorSettings()
    kopf_settings.peering.standalone = True  # the Lease decides who acts; every replica watches
    kopf_settings.scanning.disabled = True  # else it wants to watch all CRDs and namespaces
    kopf_settings.posting.enabled = False
    kopf_settings.watching.server_timeout = 300
    kopf_settings.watching.inactivity_timeout = SILENCE_SECONDS
    kopf_settings.networking.request_timeout = 30  # a list that nobody answers; else five minutes
    scope: dict[str, Any] = {"namespaces": settings.namespaces} if settings.namespaces else {"clusterwide": True}
    return asyncio.create_task(
        kopf.operator(registry=kopf_registry, settings=kopf_settings, ready_flag=is_up, **scope),
        name="kopf",
    )


class _JsonFormatter(JsonFormatter):
    """One JSON object a line, with the passwords of URLs redacted."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
            reserved_attrs=[*RESERVED_ATTRS, "k8s_ref", "k8s_skip", "settings"],  # kopf's, which say nothing to people
            json_ensure_ascii=False,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data["level"] = log_data["level"].lower()
        return {name: redacted(value) if isinstance(value, str) else value for name, value in log_data.items()}


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure_logging(settings: Settings) -> None:
    """Logs to standard error. kopf's own chatter about each event stays out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter() if settings.log_format == "json" else _TextFormatter("%(asctime)s %(levelname)-7s %(message)s")
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
