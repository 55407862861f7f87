"""`status.learned`: what the autoscaler has learned of a pool, and keeps over a restart of the operator. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from greenfleet.autoscaling.model import Learned

_Object = dict[str, Any]


def learned_status(learned: Learned) -> _Object:
    """`status.learned` of what the autoscaler learned."""
    found: _Object = {}
    if learned.runtime_seconds is not None:
        found["runtime"] = _milliseconds(learned.runtime_seconds)
    if learned.cpu_per_task_seconds is not None:
        found["cpuPerTask"] = _milliseconds(learned.cpu_per_task_seconds)
    if learned.safe_threads is not None:
        found["safeThreads"] = learned.safe_threads
    if learned.startup_seconds is not None:
        found["startup"] = f"{learned.startup_seconds:.1f}s"
    return found


def _milliseconds(seconds: float) -> str:
    """Three digits and, from 100 ns on, no exponent: `1010ms`."""
    return f"{float(f'{seconds * 1000:.3g}'):.15g}ms"


def significant_change(old: Learned, new: Learned) -> bool:
    """Whether `status.learned` is worth a write: something became known, or moved by more than 20 %."""
    pairs = [(getattr(old, field.name), getattr(new, field.name)) for field in fields(Learned)]
    return any(two is not None and (one is None or abs(two - one) > 0.2 * abs(one)) for one, two in pairs)


def learned_from_status(status: _Object) -> Learned:
    """The inverse of `learned_status`; nonsense in it counts as not learned."""
    learned = status.get("learned") or {}

    def seconds(field: str, unit: str, scale: float) -> float | None:
        text = str(learned.get(field, ""))
        try:
            value = float(text.removesuffix(unit)) * scale
        except ValueError:
            return None
        return value if 0 < value < float("inf") else None

    threads = learned.get("safeThreads")
    return Learned(
        runtime_seconds=seconds("runtime", "ms", 0.001),
        cpu_per_task_seconds=seconds("cpuPerTask", "ms", 0.001),
        safe_threads=threads if isinstance(threads, int) and threads > 0 else None,
        startup_seconds=seconds("startup", "s", 1.0),
    )
