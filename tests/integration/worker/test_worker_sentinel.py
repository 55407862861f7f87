"""Redis behind a Sentinel: the master dies under load, and the workers follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.worker.harness import Sentinel, Worker, eventually
from tests.ports import free_port

Start = Callable[..., Worker]


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["eventlet", "prefork"])
def test_a_worker_follows_the_sentinel_to_the_new_master(
    sentinel: Sentinel, start_worker: Start, client_app: Any, pool: str
) -> None:
    options = {"master_name": sentinel.name}
    tasks = client_app(sentinel.url, broker_transport_options=options)
    dead = f"sentinel://127.0.0.1:{free_port()}"
    worker = start_worker(
        f"{dead};{sentinel.url}/0?master_name={sentinel.name}", pool=pool, threads=10,
        arguments=["-c", "2"] if pool == "prefork" else (),
    ).ready()  # fmt: skip
    for number in range(20):
        tasks.sleep.delay(number, 0.1)
    eventually(lambda: worker.journal.done() == 20, "before")
    assert sentinel.client().exists("greenworker.workers"), "the worker's own bookkeeping goes through the Sentinel too"
    sentinel.fail_over()
    eventually(lambda: worker.status("/readyz") == 200, "connected again", 30)
    after = client_app(sentinel.url, broker_transport_options=options)
    for number in range(20, 40):
        after.sleep.delay(number, 0.1)
    eventually(lambda: worker.journal.done() == 40, "after", 40, more=worker.tail)
    eventually(lambda: sentinel.client().hlen("unacked") == 0, "nothing is left over", 20)
    eventually(lambda: sentinel.client().exists("greenworker.workers"), "and says again that it lives", 20)
