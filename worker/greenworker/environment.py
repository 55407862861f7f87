"""What the operator tells the worker: environment variables, per docs/contract.md. Standard library only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from greenworker.misconfigured import DEFAULT_TERMINATION_LOG, MisconfiguredError
from greenworker.tls import Trust

GREEN_THREADS_CEILING = 65_000
"""Above 65,535 AMQP's prefetch count overflows its 16 bits and Celery switches QoS off."""


@dataclass(frozen=True)
class Environment:
    """Everything from the environment, parsed once. Times are seconds, sizes bytes."""

    pool: str
    role: Literal["eventlet", "prefork"]
    worker: str
    metrics_port: int
    threads_file: Path
    start_file: Path
    drain_seconds: float
    warn_after_seconds: float
    restart_after_seconds: float
    soft_limit_seconds: float | None
    hard_limit_seconds: float | None
    max_age_seconds: float | None
    max_memory_bytes: int | None
    max_tasks: int | None
    prefetch_multiplier: int
    consumer_timeout_seconds: float
    accept_content: tuple[str, ...]
    remote_control: Literal["Disabled", "ReadOnly", "Full"]
    broker_trust: Trust
    result_backend_trust: Trust
    key_prefix: str
    priority_steps: tuple[int, ...] | None
    prefork_tasks: tuple[str, ...]
    has_companion: bool
    routes_file: Path
    termination_log: str
    max_deliveries: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Environment:
        """Raises `MisconfiguredError`, naming the variable."""
        role = environ.get("GREENWORKER_ROLE") or "eventlet"
        if role not in ("eventlet", "prefork"):
            raise MisconfiguredError(
                "GREENWORKER_ROLE", role, "a worker is one of eventlet, prefork", "set one of them"
            )
        pool = environ.get("GREENWORKER_POOL", "")
        if not pool:
            raise MisconfiguredError(
                "GREENWORKER_POOL", "", "metrics are labelled with the pool", "set it to namespace/name"
            )
        return cls(
            pool=pool,
            role="prefork" if role == "prefork" else "eventlet",
            worker=environ.get("GREENWORKER_WORKER") or socket.gethostname(),
            metrics_port=_whole(environ, "GREENWORKER_METRICS_PORT", 9540),
            threads_file=Path(environ.get("GREENWORKER_THREADS_FILE") or "/etc/greenfleet/pod/threads"),
            start_file=Path(environ.get("GREENWORKER_START_FILE") or "/etc/greenfleet/pool/threads"),
            drain_seconds=_seconds(environ, "GREENWORKER_DRAIN_SECONDS") or 60.0,
            warn_after_seconds=_seconds(environ, "GREENWORKER_WARN_AFTER_SECONDS") or 0.1,
            restart_after_seconds=_seconds(environ, "GREENWORKER_RESTART_AFTER_SECONDS") or 60.0,
            soft_limit_seconds=_seconds(environ, "GREENWORKER_SOFT_LIMIT_SECONDS"),
            hard_limit_seconds=_seconds(environ, "GREENWORKER_HARD_LIMIT_SECONDS"),
            max_age_seconds=_seconds(environ, "GREENWORKER_MAX_AGE_SECONDS"),
            max_memory_bytes=_whole(environ, "GREENWORKER_MAX_MEMORY_BYTES", 0) or None,
            max_tasks=_whole(environ, "GREENWORKER_MAX_TASKS", 0) or None,
            prefetch_multiplier=_whole(environ, "GREENWORKER_PREFETCH_MULTIPLIER", 1) or 1,
            consumer_timeout_seconds=_seconds(environ, "GREENWORKER_CONSUMER_TIMEOUT_SECONDS") or 1800.0,
            accept_content=_serializers(environ),
            remote_control=_remote_control(environ),
            broker_trust=trust_of(
                environ.get("GREENWORKER_BROKER_CA_FILE"), environ.get("GREENWORKER_BROKER_INSECURE_SKIP_VERIFY")
            ),
            result_backend_trust=trust_of(
                environ.get("GREENWORKER_RESULT_BACKEND_CA_FILE"),
                environ.get("GREENWORKER_RESULT_BACKEND_INSECURE_SKIP_VERIFY"),
            ),
            key_prefix=environ.get("GREENWORKER_KEY_PREFIX", ""),
            priority_steps=_steps(environ),
            prefork_tasks=_names(environ, "GREENWORKER_PREFORK_TASKS"),
            has_companion=bool(environ.get("GREENWORKER_PREFORK_TASKS", "").strip()),
            routes_file=Path(environ.get("GREENWORKER_ROUTES_FILE") or "/etc/greenfleet/pool/routes"),
            termination_log=environ.get("GREENWORKER_TERMINATION_LOG") or DEFAULT_TERMINATION_LOG,
            max_deliveries=_whole(environ, "GREENWORKER_MAX_DELIVERIES", 3),
        )


def trust_of(ca_file: str | None, skip_verify: str | None) -> Trust:
    """From a path and the word ``true``, as the operator writes them."""
    return Trust(Path(ca_file) if ca_file else None, (skip_verify or "").strip().lower() == "true")


def read_threads(path: Path) -> int | None:
    """Green threads in *path*, clamped to [1, 65,000]; None while the operator has not spoken, or what it said is not a
    number. Opened by path each time: Kubernetes swaps a symbolic link to publish a new value.
    """
    try:
        text = path.read_text().strip().strip('"')
        return max(1, min(GREEN_THREADS_CEILING, int(text))) if text else None
    except (OSError, ValueError):
        return None


def _seconds(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise MisconfiguredError(name, text, "not a duration in seconds", "set a decimal number of seconds")
    return value


def _whole(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    try:
        value = int(text) if text else default
    except ValueError:
        value = -1
    if value < 0:
        raise MisconfiguredError(name, text, "not a whole number", "set a decimal integer that is not negative")
    return value


def _steps(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    text = environ.get("GREENWORKER_PRIORITY_STEPS", "").strip()
    if not text:
        return None
    try:
        return tuple(sorted({int(step) for step in text.split(",")}))
    except ValueError:
        raise MisconfiguredError(
            "broker.prioritySteps", text, "not a list of integers", "use integers from 0 to 9, like 0,3,6,9"
        ) from None


def _remote_control(environ: Mapping[str, str]) -> Literal["Disabled", "ReadOnly", "Full"]:
    text = environ.get("GREENWORKER_REMOTE_CONTROL") or "ReadOnly"
    if text == "Disabled":
        return "Disabled"
    if text == "ReadOnly":
        return "ReadOnly"
    if text == "Full":
        return "Full"
    raise MisconfiguredError(
        "worker.remoteControl", text, "what remote control may do is one of Disabled, ReadOnly, Full", "use one of them"
    )


def _serializers(environ: Mapping[str, str]) -> tuple[str, ...]:
    text = environ.get("GREENWORKER_ACCEPT_CONTENT", "")
    return tuple(name for name in (part.strip() for part in text.split(",")) if name) or ("json",)


def _names(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = environ.get(name, "").strip()
    try:
        names = json.loads(text) if text else []
        if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
            raise ValueError("not a list of strings")
    except ValueError as problem:
        raise MisconfiguredError(
            name, text, f"not a JSON list of task names: {problem}", 'use ["tasks.parse"]'
        ) from None
    return tuple(names)
