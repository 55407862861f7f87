"""What may be switched off to see what it is worth: `decide(..., tuning=Tuning(disabled=frozenset({"deadline"})))`.

The simulator's `--without NAME` uses it. The operator always runs with `DEFAULT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PARTS: Mapping[str, str] = {
    "rate": "Recommends the workers that keep up with the arrival rate.",
    "deadline": "Recommends the workers that start every waiting message within maxWait.",
    "warm-pool": "Keeps workers after two bursts that only workers already Ready could have served in time.",
    "rate-deferral": "Adds workers for the rate only when messages would otherwise be late.",
    "deadline-slack": "Lets the fleet fall behind its deadline plan by a part of the margin before workers are added.",
    "catch-up": "Gives messages that are already late the workers that clear them within seconds of readiness.",
    "full-downstream": "Stops growth in both dimensions while more running tasks bring no more throughput.",
    "first-window": "Takes no worker away within one window after a start of the operator or after missing metrics.",
    "backlog": "Takes no worker away while more than two seconds of work wait.",
    "young-burst": "Takes no worker away within ten seconds of a burst.",
    "long-tasks": "Takes no worker away that runs tasks which outlast a drain.",
    "stabilization": "Scales in to the most workers that were needed within one start-up time.",
    "thread-stabilization": "Lowers green threads to the most that were needed within the last minute.",
    "unbatched-cost": "Does not plan with the CPU that messages cost only because they come one by one.",
    "granted-cores": "Learns that the node gives a busy worker less CPU than its limit.",
    "efficiency": "Learns what saturated workers reach of the rate that run time and CPU promise.",
    "idle-cores": "Learns the CPU that a worker uses without any task.",
    "raised-limit": "Raises the green threads where all are taken and the core idles while messages wait.",
    "hub-lag": "Lowers the green threads while the hub of a saturated worker lags.",
    "memory": "Lowers the green threads before the memory of a worker is full.",
    "falling-rate": "Sees within twelve seconds that the arrival rate has fallen.",
    "capped-intervals": "Keeps a burst out of the arrival rate: no interval counts for more than chance explains.",
}
"""Name and purpose of every part that can be switched off. The user's own limits cannot."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the autoscaler behaves. Raises ValueError for a part that does not exist."""

    disabled: frozenset[str] = frozenset()
    """Names of `PARTS` that are switched off."""

    def __post_init__(self) -> None:
        if unknown := sorted(self.disabled - PARTS.keys()):
            raise ValueError(f"part {unknown[0]!r} does not exist: choose from {', '.join(PARTS)}")

    def uses(self, part: str) -> bool:
        """Whether this part is switched on."""
        return part not in self.disabled


DEFAULT = Tuning()
