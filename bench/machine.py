"""What the kernel says of a group of processes, and which processors they may use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cores:
    """With two processors or more, workers get one and everything else another; with one, all share it."""

    workers: frozenset[int]
    rest: frozenset[int]
    every: frozenset[int]

    @classmethod
    def split(cls) -> Cores:
        """The first two of those that this process may use."""
        found = sorted(os.sched_getaffinity(0))
        return cls(frozenset(found[:1]), frozenset(found[1:2] or found), frozenset(found))


class Strangers:
    """How much of a processor others used since this was made: processes of the machine that are no children of ours.

    What is measured on a machine that others use, too, is worth little while they use it.
    """

    def __init__(self) -> None:
        self.began = monotonic()
        self.busy, self.own = busy_seconds(), family_seconds(os.getpid())

    def cores(self) -> float:
        """1.0 is one processor."""
        own = family_seconds(os.getpid()) - self.own
        return max(0.0, busy_seconds() - self.busy - own) / (monotonic() - self.began)


TOLERATED_CORES = 0.2
"""What others may use during a measurement; beyond it is made again."""


class Patience:
    """Measures again what others disturbed, as long as that takes no more than *seconds* in all."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.disturbed = 0
        """Measurements that stayed disturbed."""

    def measure(self, once: Callable[[], T]) -> T:
        """What *once* returns, from the quietest of at most three times."""
        found: list[tuple[float, T]] = []
        while not found or (found[-1][0] > TOLERATED_CORES and len(found) < 3 and self.seconds > 0):
            began, strangers = monotonic(), Strangers()
            result = once()
            if found:
                self.seconds -= monotonic() - began
            found.append((strangers.cores(), result))
        cores, result = min(found, key=lambda pair: pair[0])
        if cores > TOLERATED_CORES:
            self.disturbed += 1
            print(f"  others used {cores:.1f} of a core meanwhile: the next line may be wrong")
        return result


def end_in_order() -> None:
    """A bench that is asked to end stops the brokers and workers that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def busy_seconds() -> float:
    """Of all processors together, since boot (proc(5) stat)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields[:8]) - idle - waiting) / TICKS


def family_seconds(ancestor: int) -> float:
    """CPU of *ancestor*, its descendants, and those of them that have ended and been waited for."""
    return sum(sum(map(int, fields[11:15])) / TICKS for pid in family(ancestor) if (fields := stat(pid)))


def family(ancestor: int) -> list[int]:
    """*ancestor* and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, ())
    return found


def session(leader: int) -> list[int]:
    """Processes of the session that *leader* leads: a worker started with ``start_new_session``, and its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat(int(entry.name))
            if fields and int(fields[3]) == leader:
                found.append(int(entry.name))
    return found


def stat(pid: int) -> list[str]:
    """Fields of proc(5) stat from the third on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of *pids* so far."""
    return sum((int(fields[11]) + int(fields[12])) / TICKS for pid in pids if (fields := stat(pid)))


def resident_mb(pids: list[int]) -> float:
    """Sum of the resident memory, in MB; pages that processes share count in each."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE_BYTES / 1e6


def proportional_mb(pids: list[int]) -> float:
    """Sum of the proportional memory (PSS), in MB; shared pages count once in all."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6
