"""Every number of the autoscaler, with its unit and its source, and the names of the parts that can be switched off.

Nothing behavioural stands anywhere else: a test reads the syntax tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PARTS: Mapping[str, str] = {
    "rate": "Recommends the workers that keep up with the arrival rate.",
    "deadline": "Recommends the workers that start every waiting message within maxWait.",
    "rate-deferral": "Adds workers for the rate only when messages would otherwise be late.",
    "deadline-slack": "Lets the fleet fall behind its deadline plan by a part of the margin before workers are added.",
    "catch-up": "Gives messages that are already late the workers that clear them within seconds of readiness.",
    "full-downstream": "Stops growth in both dimensions while more running tasks bring no more throughput.",
    "backlog": "Takes no worker away while more than two seconds of work wait.",
    "long-tasks": "Takes no worker away that runs tasks which outlast a drain.",
    "stabilization": "Scales in to the most workers that were needed lately; what is there when metrics begin counts "
    "as needed.",
    "thread-stabilization": "Lowers green threads to the most that were needed within the last minute.",
    "unbatched-cost": "Plans with the CPU per task of busy workers, not of messages that come one by one.",
    "efficiency": "Learns what saturated workers reach of the rate that run time and CPU promise.",
    "own-wait": "Learns no longer run time from saturated hubs: there, tasks wait for their worker's own core.",
    "raised-limit": "Raises the green threads where all are taken and the core idles while messages wait.",
    "running-tasks": "Until a task has ended, run time is at least what the tasks that run took so far.",
    "falling-rate": "Sees within twelve seconds that the arrival rate has fallen.",
    "memory": "Lowers the green threads before the memory of a worker is full.",
}
"""Name and purpose of every part that can be switched off. The user's own limits cannot."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the autoscaler behaves. Raises ValueError for a part that does not exist."""

    disabled: frozenset[str] = frozenset()
    """Names of `PARTS` that are switched off."""

    # Lengths of time
    scale_in_seconds: float = 10.0
    """How fast the fleet scales in: the window of a scale-in. Also the time between two steps of green threads for
    memory, and the least that growth is watched before it must have paid.
    """
    long_seconds: float = 60.0
    """The window in which green threads fall (an idle one costs some kilobytes), the age at which a pod that is not
    Ready is no capacity on its way, and the first stop of growth that brought nothing.
    """
    longest_seconds: float = 600.0
    """Such a stop is doubled each time up to this (as in TCP's retransmission). A pod that has no sample for longer
    runs no task, and what takes longer is no start-up but a restart.
    """

    # What a sample says
    lasting_scrapes: int = 3
    """Scrapes after which a gap or a difference is no accident (Prometheus' own staleness of 5 min is too long)."""
    stale_seconds: float = 15.0
    """A younger sample is never stale, however short the scrape interval is (docs/operator.md)."""
    disagreement: float = 0.1
    """Share of the depth (of at least 100 messages) by which two samples of a queue may differ: one busy scrape."""

    # What is learned
    rate_window_seconds: float = 30.0
    """Of the arrival rate: long enough for 3 scrapes of 10 s, as Prometheus users have them."""
    rate_least_seconds: float = 12.0
    """The rate is divided by no less, and a fall shows in so long: 3 messages in the first second are no rate."""
    deviations: float = 2.0
    """Standard deviations of a Poisson count that chance explains (2.3 % beyond)."""
    half_life_seconds: float = 15.0
    """Of run time and CPU per task: a change shows within a minute, the noise of a scrape does not."""
    throughput_half_life_seconds: float = 4.0
    """Of throughput: two scrapes of the default interval."""
    cpu_believed_seconds: float = 2.0
    """Of a whole CPU limit: less says nothing of the CPU per task (bench: fetching looks three times as dear)."""
    idle_cores: float = 0.01
    """CPU of a worker without tasks (measured)."""
    unbatched: float = 0.4
    """Share of the CPU per task of lone messages that is the task's own (measured: 0.37 for the lightest tasks)."""
    saturated: float = 0.9
    """Of the green threads, of the hub's time or of the core: nothing is left to take."""
    blocked: float = 0.05
    """Of the hub's time in tasks that block it: then its CPU and its lag say nothing of load."""
    runtime_seconds: float = 1.0
    """Before any task has ended."""
    startup_seconds: float = 10.0
    """Creation of a pod to Ready, before one was seen."""
    restored_tasks: float = 5.0
    """What an earlier life had learned weighs as much as so many tasks of today."""
    least_efficiency: float = 0.3
    """Workers that reach less than that are ill; more of them would not help."""
    most_arrivals: int = 96
    """Intervals that are remembered: enough for three minutes of 2 s; older ones in pairs."""

    # Green threads
    utilisation: float = 0.8
    """Of the green threads at which a steady rate is staffed; so busy a hub takes messages in batches (measured)."""
    memory: float = 0.85
    """Of the memory limit: the green threads go no further (the kernel kills at 1)."""
    memory_increase: float = 1.05
    """Growth of the green threads after memory was nearly full, and never else (Chiu and Jain, 1989)."""

    # Workers
    margin: float = 0.05
    """Of maxWait, besides a scrape and a half and a second: what passes before a decision has an effect."""
    slack: float = 0.4
    """Of the margin: how far the fleet may fall behind its plan before workers are added."""
    catch_up: float = 0.15
    """Of maxWait: in so long new workers clear what was late before they were Ready (twice as long: 858 for 584
    violated s in 100 tuning traces scraped every 15 s).
    """
    backlog_seconds: float = 2.0
    """Work that may wait when workers leave."""

    # A full downstream
    growth: float = 1.5
    """Running tasks must have grown so much before a comparison of throughput means anything. A probe grows by it, one
    step of `raised-limit` adds no more green threads, and full memory shrinks them by it.
    """
    gain: float = 0.15
    """Share of the growth that must come back as throughput (Universal Scalability Law: below it, contention wins)."""

    def __post_init__(self) -> None:
        if unknown := sorted(self.disabled - PARTS.keys()):
            raise ValueError(f"part {unknown[0]!r} does not exist: choose from {', '.join(PARTS)}")

    def uses(self, part: str) -> bool:
        """Whether this part is switched on."""
        return part not in self.disabled

    def lasting(self, seconds: float, scrape_seconds: float) -> float:
        """So long, but never less than what rules out an accident of scrapes."""
        return max(seconds, self.lasting_scrapes * scrape_seconds)


DEFAULT = Tuning()
