"""What `worker.envFrom` holds under the names of the worker's own variables does not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.integration.worker.harness import Redis, Worker, eventually

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "minimal.manifests.yaml"

HOSTILE = {
    "GREENWORKER_ACCEPT_CONTENT": "yaml",
    "GREENWORKER_BROKER_CA_FILE": "/nowhere",
    "GREENWORKER_BROKER_HOST": "elsewhere",
    "GREENWORKER_BROKER_INSECURE_SKIP_VERIFY": "true",
    "GREENWORKER_BROKER_PARTS": "transport,host,password",
    "GREENWORKER_BROKER_PASSWORD": "theirs",
    "GREENWORKER_BROKER_TRANSPORT": "redis",
    "GREENWORKER_CONSUMER_TIMEOUT_SECONDS": "soon",
    "GREENWORKER_DRAIN_SECONDS": "soon",
    "GREENWORKER_HARD_LIMIT_SECONDS": "0.001",
    "GREENWORKER_KEY_PREFIX": "theirs:",
    "GREENWORKER_MAX_AGE_SECONDS": "1",
    "GREENWORKER_MAX_DELIVERIES": "many",
    "GREENWORKER_MAX_MEMORY_BYTES": "1",
    "GREENWORKER_MAX_TASKS": "1",
    "GREENWORKER_PREFETCH_MULTIPLIER": "many",
    "GREENWORKER_PREFORK_TASKS": '["*"]',
    "GREENWORKER_PRIORITY_STEPS": "7",
    "GREENWORKER_REMOTE_CONTROL": "All",
    "GREENWORKER_RESTART_AFTER_SECONDS": "soon",
    "GREENWORKER_RESULT_BACKEND_CA_FILE": "/nowhere",
    "GREENWORKER_RESULT_BACKEND_HOST": "elsewhere",
    "GREENWORKER_RESULT_BACKEND_PARTS": "transport,host",
    "GREENWORKER_RESULT_BACKEND_TRANSPORT": "redis",
    "GREENWORKER_SOFT_LIMIT_SECONDS": "0.001",
    "GREENWORKER_WARN_AFTER_SECONDS": "soon",
}
"""As a ConfigMap or a Secret of the pool's author may have them."""


def explicit() -> dict[str, str]:
    """What the operator sets in the pods of a minimal pool, as far as it is the same on every machine."""
    found: list[Any] = [each for each in yaml.safe_load_all(GOLDEN.read_text()) if each["kind"] == "Deployment"]
    containers = [one for each in found for one in each["spec"]["template"]["spec"]["containers"]]
    [worker] = [one for one in containers if one["name"] == "worker"]
    own = ("_FILE", "_PORT", "_LOG")
    return {
        one["name"]: one.get("value", "")
        for one in worker["env"]
        if "valueFrom" not in one and (not one["name"].endswith(own) or one["name"].endswith("_CA_FILE"))
    }


def test_a_worker_does_what_the_pool_says_whatever_env_from_holds(
    start_worker: Callable[..., Worker], redis_broker: Redis, client_app: Any
) -> None:
    """Kubernetes: a variable of `env` counts more than one of `envFrom`."""
    said = explicit()
    assert HOSTILE.keys() - said.keys() <= {
        f"GREENWORKER_{of}_{part}" for of in ("BROKER", "RESULT_BACKEND") for part in ("HOST", "PASSWORD", "TRANSPORT")
    }
    environment = {**HOSTILE, **said}
    worker = start_worker(redis_broker.url, environment=environment).ready()
    tasks = client_app(redis_broker.url)
    for number in range(5):
        tasks.sleep.delay(number, 0.2)
    eventually(lambda: worker.journal.done() == 5, "all are done", more=worker.tail)
    assert worker.metric("greenworker_recycle_wanted") == 0
    assert not redis_broker.client().keys("theirs:*")
