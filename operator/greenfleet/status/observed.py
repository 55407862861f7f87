"""What of the cluster and of the operator's configuration a pool's status is computed from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from greenfleet.status.stalled import StalledReason

_Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Observed:
    """All but what the operator remembers of the pool (`controller.registry`)."""

    deployment: _Object | None
    pods: Sequence[_Object]
    exporter_available: bool
    exporter_refused: StalledReason | None
    """Why the exporter cannot be made, which its pools share."""
    config_error: StalledReason | None
    """What the operator's configuration has no place for, or what it cannot evaluate; scaling goes on without it."""
    pod_failure: StalledReason | None
    capacity_shortage: StalledReason | None
    """Why fewer pods work than should, which stops nothing as long as some do."""
    generation: int
    now: float
    """Unix time."""
    scrape_problem: str = ""
    """What is wrong with the scrape interval that the configuration claims for the pool's Prometheus server."""
