"""The operator's probes: live means that the loops tick, ready that the caches are filled and somebody leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from aiohttp import ClientSession

from greenfleet.controller.registry import Registry
from greenfleet.controller.web import WebServer
from greenfleet.own_metrics import OperatorMetrics
from tests.ports import free_port


def answers(ticked_at: Callable[[], float], *, synced: bool, led: bool = True) -> tuple[int, int]:
    """What a standby's `/healthz` and `/readyz` say."""
    port = free_port()
    server = WebServer(
        registry=Registry(),
        metrics=OperatorMetrics(),
        ticked_at=ticked_at,
        is_ready=lambda: synced,
        is_led=lambda: led,
        leads=lambda: False,
        port=port,
    )

    async def ask() -> tuple[int, int]:
        await server.start()
        try:
            async with (
                ClientSession(f"http://127.0.0.1:{port}") as client,
                client.get("/healthz") as health,
                client.get("/readyz") as readiness,
            ):
                return health.status, readiness.status
        finally:
            await server.stop()

    return asyncio.run(ask())


@pytest.mark.parametrize(("silent_seconds", "status"), [(0, 200), (55, 200), (65, 503)])
def test_an_operator_is_live_while_its_loop_ticks(silent_seconds: float, status: int) -> None:
    health, _ = answers(lambda: time.monotonic() - silent_seconds, synced=True)
    assert health == status


@pytest.mark.parametrize(("synced", "status"), [(True, 200), (False, 503)])
def test_a_standby_is_ready_as_soon_as_it_knows_what_there_is(synced: bool, status: int) -> None:
    _, readiness = answers(time.monotonic, synced=synced)
    assert readiness == status


def test_nobody_is_ready_while_nobody_leads() -> None:
    _, readiness = answers(time.monotonic, synced=True, led=False)
    assert readiness == 503


def healthy_server(port: int) -> WebServer:
    return WebServer(
        registry=Registry(),
        metrics=OperatorMetrics(),
        ticked_at=time.monotonic,
        is_ready=lambda: True,
        is_led=lambda: True,
        leads=lambda: True,
        port=port,
    )


def test_clients_that_send_a_byte_now_and_then_starve_no_probe() -> None:
    """Each costs a connection and no thread, and none is refused for them."""
    port = free_port()
    server = healthy_server(port)

    async def ask() -> list[int]:
        await server.start()
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        statuses = []
        try:
            async with ClientSession(f"http://127.0.0.1:{port}") as client:
                for path in ("/healthz", "/readyz", "/metrics"):
                    for _, writer in slow:
                        writer.write(b"G")
                    async with client.get(path) as answer:
                        statuses.append(answer.status)
        finally:
            for _, writer in slow:
                writer.close()
            await server.stop()
        return statuses

    assert asyncio.run(ask()) == [200, 200, 200]


def test_the_metrics_say_how_many_tasks_the_operator_has_and_can_be_asked_for_one_by_name() -> None:
    """As every exporter of the Python client: `name[]` spares a busy operator the series of all its pools."""
    port = free_port()
    server = healthy_server(port)

    async def ask() -> tuple[str, str]:
        await server.start()
        others = [asyncio.create_task(asyncio.sleep(60)) for _ in range(100)]
        url = f"http://127.0.0.1:{port}/metrics"
        try:
            async with ClientSession() as client:
                async with client.get(url) as answer:
                    everything = await answer.text()
                async with client.get(url, params={"name[]": "python_asyncio_tasks"}) as answer:
                    return everything, await answer.text()
        finally:
            for other in others:
                other.cancel()
            await server.stop()

    everything, one = asyncio.run(ask())
    [tasks] = [float(line.split()[1]) for line in one.splitlines() if not line.startswith("#")]
    assert 100 < tasks < 110
    assert "python_asyncio_tasks " in everything
    assert "greenfleet_leader " in everything
