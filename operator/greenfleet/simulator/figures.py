"""What a run is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """One autoscaler on one trace, after the warm-up. Times in seconds."""

    violated_seconds: int
    """Seconds in which some message had been waiting for longer than maxWait."""
    wait_p50: float
    wait_p99: float
    wait_max: float
    latency_p99: float
    """From publishing to the end of the task."""
    runtime_inflation: float
    """Median run time over the median that the same tasks would have had on idle workers."""
    worker_seconds: float
    """Pods that exist, starting and draining ones included, times seconds."""
    thread_seconds: float
    first_capacity_seconds: float | None
    """From the burst to the first added capacity: more green threads, or one more Ready worker."""
    full_capacity_seconds: float | None
    """From the burst to the most Ready workers that this run ever has after it."""
    scale_actions: int
    requeued: int
    """Tasks that a drain cut off."""
    left: int
    """Messages that were still waiting at the end."""

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON: rounded to what is meant."""
        return {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()}


def percentile(ordered: list[float], share: float) -> float:
    """Of a sorted list, 0 for an empty one."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
